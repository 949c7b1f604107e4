"""The cache of pretrained networks: their weights, and these converted to runs.

Files and converted runs are stored in `pretrained/` of the package's cache folder. A run there has
the form of an export to `huggingface`, which is read in a tenth of the time of a run directory. It
is complete once it has checksums, which are written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from atgcn_jax import __version__
from atgcn_jax.data.audioset_files import digest_of
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.pretrained.catalogue import Pretrained, find_model
from atgcn_jax.pretrained.fetching import SPACE, fetched, note_of, origin_of
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.file_locks import lock_file
from atgcn_jax.runtime.process_setup import cache_folder, home_cache
from atgcn_jax.runtime.whole_files import write_whole
from atgcn_jax.training.checksums import NAME as CHECKSUMS
from atgcn_jax.training.checksums import Damaged, verify_files, write_checksums

# Functions import what only fetching and conversion need: tagging starts a quarter sooner.
FOLDER, RECORD = "pretrained", "pretrained.json"


def pretrained_run(name: str, *, offline: bool = False, mirror: str | None = None) -> pathlib.Path:
  """Return the folder of a pretrained network's run in the cache.

  The first call for a network fetches and converts its weights. A damaged run is converted again.

  Args:
    name: Name of the network, one of `catalogue.MODELS`.
    offline: Whether to use only what the cache has.
    mirror: Address of a folder that has the file, or such a folder on disk, in place of the
      original one.

  Raises:
    UserError: If the name is unknown, the weights cannot be fetched or are those of another
      network, the cache cannot be written, or the network is not in the cache and `offline` is set.
  """
  model = find_model(name)
  cached = cached_run(model)
  if cached and _is_sound(cached):
    return cached
  with _locked_cache(model) as folder:
    run = folder / model.name
    if not (is_complete(run) and _is_sound(run)):  # another process may have written it
      if (run / CHECKSUMS).is_file():
        fault = "is damaged or of another version"
        warnings.warn(f"{run}: {fault}; the weights are converted again", stacklevel=2)
      _remove(run)
      try:
        path = fetched(model, folder, offline=offline, mirror=mirror)
        _write(model, run, path, _export, mirror)
        write_checksums(run)
      except BaseException as error:
        shutil.rmtree(run, ignore_errors=True)
        if isinstance(error, OSError):
          raise UserError(f"{run}: cannot be written ({error.strerror}); {SPACE}") from error
        raise
    return run


def write_pretrained_run(
  name: str, workdir: str | os.PathLike, *, offline: bool = False, mirror: str | None = None
) -> dict[str, Any]:
  """Write the run of a pretrained network to a run directory, and return its record.

  Args:
    name: Name of the network.
    workdir: Run directory to create.
    offline: As for `pretrained_run`.
    mirror: As for `pretrained_run`.

  Raises:
    UserError: As for `pretrained_run`, and if the directory holds a run or cannot be written.
  """
  model = find_model(name)
  with _locked_cache(model) as folder:
    path = fetched(model, folder, offline=offline, mirror=mirror)
    try:
      return _write(model, path_of(workdir), path, _import, mirror)
    except WorkFailed as error:  # the disk is full, for example
      raise UserError(f"--out {error}") from error


def cached_run(model: Pretrained) -> pathlib.Path | None:
  """Return the folder of a network's run in the cache, or None if it is not there."""
  home = home_cache()
  if home is not None and is_complete(run := home / FOLDER / model.name):
    return run  # also if the cache is read-only
  run = cache_folder() / FOLDER / model.name
  return run if is_complete(run) else None


def record_of(run: pathlib.Path) -> dict[str, Any]:
  """Return where the weights of a run come from, their SHA-256, and the version that wrote it."""
  return json.loads((run / RECORD).read_text(encoding="utf-8"))


def is_complete(run: pathlib.Path) -> bool:
  """Return whether a run in the cache was written to its end, by this version of the package."""
  try:
    return (run / CHECKSUMS).is_file() and record_of(run)["version"] == __version__
  except (OSError, ValueError, LookupError):
    return False


def _is_sound(run: pathlib.Path) -> bool:
  try:
    verify_files(run)
  except Damaged:
    return False
  return True


def _remove(run: pathlib.Path) -> None:
  """Delete a run, its checksums first."""
  try:
    (run / CHECKSUMS).unlink(missing_ok=True)
    if run.exists():
      shutil.rmtree(run)
  except OSError as error:
    raise UserError(f"{run}: cannot be deleted ({error.strerror}); {SPACE}") from error


@contextlib.contextmanager
def _locked_cache(model: Pretrained) -> Iterator[pathlib.Path]:
  """Yield the folder of pretrained networks. One process at a time writes a network there."""
  folder = cache_folder() / FOLDER
  try:
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / f"{model.name}.lock", "a")  # noqa: SIM115 (closed below)
  except OSError as error:
    raise UserError(f"{folder}: cannot be written ({error.strerror}); {SPACE}") from error
  with lock:
    lock_file(lock.fileno(), wait=True)
    yield folder


def _import(path: pathlib.Path, config: Any, workdir: pathlib.Path) -> None:
  """Write weights as a run directory."""
  from atgcn_jax.interop.importing import import_torch

  import_torch(path, config, workdir, option="--out")


def _export(path: pathlib.Path, config: Any, folder: pathlib.Path) -> None:
  """Write weights as an export to `huggingface`."""
  from atgcn_jax.interop.export import write_export
  from atgcn_jax.interop.importing import read_torch

  imported = read_torch(path, config)
  folder.mkdir()
  write_export(folder, imported, "huggingface", folder)


def _write(
  model: Pretrained,
  place: pathlib.Path,
  path: pathlib.Path,
  write: Callable[[pathlib.Path, Any, pathlib.Path], None],
  mirror: str | None,
) -> dict[str, Any]:
  """Write the run of a network, and return its record.

  Args:
    model: The network.
    place: Folder to create.
    path: Path of its weights, which are deleted if they are those of another network.
    write: Function of the weights, the config and the folder.
    mirror: As for `pretrained_run`.
  """
  from atgcn_jax.pretrained.settings import config_of

  try:
    write(path, config_of(model), place)
  except UserError as error:
    reason = str(error)
    if not reason.startswith(f"{path}: "):  # the fault is not that of the weights
      raise
    path.unlink()
    note_of(path).unlink(missing_ok=True)
    reason = reason.removeprefix(f"{path}: ").partition("; ")[0]
    raise UserError(
      f"{model.url(mirror)}: does not contain the weights of {model.name} ({reason}); give another "
      "address to --mirror"
    ) from error
  record = {
    "name": model.name,
    "source": model.source,
    "licence": model.licence,
    "url": origin_of(model, path),
    "sha256": digest_of(path, "sha256").hex(),
    "bytes": path.stat().st_size,
    "version": __version__,
  }
  try:
    write_whole(place / RECORD, json.dumps(record, indent=2).encode())
  except OSError as error:
    fault = f"{place}: {RECORD} cannot be written ({error.strerror})"
    raise UserError(f"{fault}; free space or choose another folder") from error
  return record
