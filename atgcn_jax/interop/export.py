"""Export of a trained run to a folder that other programs load."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from atgcn_jax import __version__
from atgcn_jax.errors import UserError, WorkFailed, reason
from atgcn_jax.interop import huggingface, onnx, savedmodel, stablehlo
from atgcn_jax.interop.exported_function import sound_scores
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.run import Loaded
from atgcn_jax.runs.window_outputs import check_takes_sound
from atgcn_jax.runtime.buckets import check_utf8, in_bucket, path_of
from atgcn_jax.training import sharding

FORMATS = ("stablehlo", "savedmodel", "onnx", "huggingface")
PRODUCER = "atgcn_jax"


def export(
  workdir: str | os.PathLike, to: str, out: str | os.PathLike, step: str = "latest"
) -> None:
  """Export a checkpoint of a run to a folder, with a `config.json`.

  The folder appears under its name when it is complete. An earlier export there is replaced.

  Args:
    workdir: Run directory.
    to: One of FORMATS.
    out: Folder to write, on a disk.
    step: Step number, `latest` or `best`.

  Raises:
    UserError: The run or checkpoint does not exist, its inputs cannot be computed from sound, `out`
      holds something else, or the converter to ONNX is not installed.
    WorkFailed: The folder cannot be written.
  """
  check_place(out)
  if to == "onnx":
    onnx.converter()
  loaded = load_run(workdir, step, sharding.data_mesh(jax.devices()[:1]))
  check_takes_sound(loaded.run, workdir)
  place = pathlib.Path(out).absolute()
  try:
    part = pathlib.Path(tempfile.mkdtemp(".tmp", f".{place.name}.", place.parent))
  except OSError as error:
    raise UserError(
      f"--out {out}: cannot be created ({error.strerror}); choose another folder"
    ) from error
  try:
    write_export(part, loaded, to, path_of(workdir))
    part.chmod(0o777 & ~_umask())
    put(part, place)
  except OSError as error:
    text = f"--out {out}: could not be written ({reason(error)})"
    raise WorkFailed(f"{text}; free disk space") from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def check_place(out: str | os.PathLike) -> None:
  """Check that an export may be written to a path.

  Raises:
    UserError: The path is in a bucket, is a file or is not UTF-8, or the folder is neither empty
      nor an export.
  """
  place = pathlib.Path(out)
  check_utf8(place.absolute())
  if in_bucket(out):
    raise UserError(
      f"--out {out}: exports are written to a disk; name a local folder and copy it to the bucket"
    )
  if not place.absolute().parent.is_dir():
    raise UserError(f"--out {out}: its parent folder does not exist; create it")
  if not os.path.lexists(place):
    return
  if place.is_symlink() or not place.is_dir():
    raise UserError(f"--out {out}: exists and is not a folder; choose another")
  if any(place.iterdir()) and not is_own_export(place):
    raise UserError(f"--out {out}: holds something other than an export; choose another folder")


def is_own_export(folder: pathlib.Path) -> bool:
  """Return whether `export` wrote a folder."""
  try:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  return isinstance(config, dict) and config.get("producer") == PRODUCER


def write_export(folder: pathlib.Path, loaded: Loaded, to: str, workdir: pathlib.Path) -> None:
  """Write the files of an export, `config.json` last.

  Args:
    folder: Existing folder to write to.
    loaded: The checkpoint.
    to: One of FORMATS.
    workdir: Run directory.
  """
  config = description(loaded, to)
  if to == "huggingface":
    config |= huggingface.write_huggingface(folder, loaded, workdir)
  elif to == "onnx":
    onnx.write_onnx(folder, loaded, workdir)
  else:
    scores = sound_scores(loaded.run, loaded.state)
    write = {"stablehlo": stablehlo.write_stablehlo, "savedmodel": savedmodel.write_savedmodel}[to]
    with _without_source_lines():
      write(folder, scores)
  text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
  (folder / "config.json").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
  """Lower programs without the source lines that call their operations.

  A program would state paths of the machine that exports it, and have other bytes elsewhere.
  """
  name = "jax_traceback_in_locations_limit"
  lines = jax.config.values[name]
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, lines)


def description(loaded: Loaded, to: str) -> dict[str, Any]:
  """Return the `config.json` of an export: sample rate of the input and labels in order."""
  frontend, vocabulary = loaded.run.frontend, loaded.run.vocabulary
  return {
    "producer": PRODUCER,
    "version": __version__,
    "format": to,
    "step": loaded.step,
    "sample_rate": frontend.sample_rate,
    "window_samples": frontend.samples,
    "label_ids": list(vocabulary.ids),
    "label_names": list(vocabulary.names),
  }


def put(part: pathlib.Path, place: pathlib.Path) -> None:
  """Move a finished folder to its place, then delete the export that was there before."""
  if place.is_dir() and any(place.iterdir()):
    before = pathlib.Path(tempfile.mkdtemp(".tmp", f".{place.name}.", place.parent))
    place.rename(before)
    part.rename(place)
    shutil.rmtree(before)
  else:
    part.rename(place)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask
