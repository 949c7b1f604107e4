"""Sound files and a label list, or the built-in soundscapes, to one clip store."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.audio import files, frontend
from atgcn_jax.data import soundscapes
from atgcn_jax.data.store import encode, write_store
from atgcn_jax.data.workers import in_processes
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

COLUMNS = ("filename", "fold", "positive_labels")
CHUNK = 16  # clips a worker takes at a time


class LabelledFile(NamedTuple):
  """One row of a label list."""

  filename: str
  fold: str
  labels: list[str]


def prepare(
  audio: str | os.PathLike,
  labels: str | os.PathLike,
  out: str | os.PathLike,
  *,
  vocabulary: str | os.PathLike | None = None,
  used_labels_only: bool = False,
  frontend_name: str = "talnet",
  dtype: str | None = None,
  workers: int | None = None,
) -> int:
  """Write the store of the files that a label list names; returns the number of clips.

  Of a longer file the first clip length is kept, a shorter one is padded with silence.

  Args:
    audio: the folder of sound files.
    labels: CSV with the columns `filename`, `fold`, `positive_labels` (ids, comma-separated).
    vocabulary: CSV with the columns `index`, `mid`, `display_name`; without it the ids of the
      list, sorted, are the vocabulary.
    dtype: `uint8` or `float16`; by default the first for log-mels in dB, the second for others.
    used_labels_only: leave out the labels of the vocabulary that no file has.
    workers: processes; by default one a core.
  Raises:
    UserError: for a file or row that cannot be used; no store is written then.
  """
  audio = pathlib.Path(audio)
  listed = read_label_list(labels)
  check_files(audio, listed, labels)
  known, indices = vocabulary_and_indices(listed, labels, vocabulary, used_labels_only)
  settings = frontend.FRONTENDS[frontend_name]
  build_store(
    out,
    functools.partial(load_clip, str(audio), settings),
    [row.filename for row in listed],
    folds=[row.fold for row in listed],
    labels=indices,
    vocabulary=known,
    settings=settings,
    dtype=dtype_of(settings, dtype),
    workers=workers,
  )
  return len(listed)


def vocabulary_and_indices(
  listed: list[LabelledFile],
  labels: str | os.PathLike,
  vocabulary: str | os.PathLike | None,
  used_labels_only: bool,
) -> tuple[Vocabulary, list[list[int]]]:
  """The vocabulary of a label list, and the label indices of its files; see `prepare`.

  Raises:
    UserError: for a label that the vocabulary does not have, or if no file has one.
  """
  if vocabulary is None:
    ids = tuple(sorted({label for row in listed for label in row.labels}))
    known = Vocabulary(ids, ids)
  else:
    known = read_vocabulary(vocabulary)
  indices = [known.indices(row.labels, where=f"{labels}: {row.filename}") for row in listed]
  if used_labels_only:
    used = sorted({i for row in indices for i in row})
    known = Vocabulary(tuple(known.ids[i] for i in used), tuple(known.names[i] for i in used))
    indices = [np.searchsorted(used, row).tolist() for row in indices]
  if not known.ids:
    raise UserError(f"{labels}: no file has a label; fill the column positive_labels")
  return known, indices


def dtype_of(settings: frontend.Frontend, asked: str | None) -> str:
  """The type in which log-mels are stored: `uint8` where they are in dB, else `float16`.

  Raises:
    UserError: if another is asked for than the front end can have.
  """
  in_db = settings.log_offset is None
  if asked == "uint8" and not in_db:
    raise UserError(f"--dtype uint8: only for log-mels in dB; take float16 for {settings.name}")
  return asked or ("uint8" if in_db else "float16")


def prepare_soundscapes(
  out: str | os.PathLike, clips: int, seed: int, workers: int | None = None
) -> None:
  """Write the store of the first `clips` built-in soundscapes."""
  numbers = range(clips)
  build_store(
    out,
    functools.partial(_render, seed),
    [f"{number:06d}" for number in numbers],
    folds=[soundscapes.fold_of(number) for number in numbers],
    labels=[soundscapes.clip_labels(seed, number) for number in numbers],
    vocabulary=soundscapes.soundscape_vocabulary(),
    settings=frontend.FRONTENDS["talnet"],
    dtype="uint8",
    workers=workers,
  )


def _render(seed: int, clip_id: str) -> np.ndarray:
  return soundscapes.render(seed, int(clip_id))[0]


def load_clip(folder: str, settings: frontend.Frontend, filename: str) -> np.ndarray:
  """The first clip length of a file, float32[S] at the front end's rate, padded with silence."""
  return clip_of(pathlib.Path(folder) / filename, settings)


def clip_of(source: files.Source, settings: frontend.Frontend) -> np.ndarray:
  """As `load_clip`, of what `audio.files` loads."""
  waveform = files.load(source, settings.sample_rate)[: settings.samples]
  return np.pad(waveform, (0, settings.samples - len(waveform)))


def read_label_list(path: str | os.PathLike) -> list[LabelledFile]:
  """The rows of a label list.

  Raises:
    UserError: for a missing file or column, a short row, or a file named twice.
  """
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
      if missing:
        raise UserError(
          f"{path}: no column {', '.join(missing)}; the first line must name {', '.join(COLUMNS)}"
        )
      rows: dict[str, LabelledFile] = {}
      for row in reader:
        name, fold, ids = (row[column] for column in COLUMNS)
        where = f"{path}: line {reader.line_num}"
        if not name or "\n" in name or fold is None or ids is None or None in row:
          raise UserError(f"{where}: not {', '.join(COLUMNS)}; give three fields, quote the ids")
        if name in rows:
          raise UserError(f"{where}: {name} is named twice; keep one of the rows")
        ids = [label for label in (part.strip() for part in ids.split(",")) if label]
        rows[name] = LabelledFile(name, fold, list(dict.fromkeys(ids)))
  except FileNotFoundError:
    raise UserError(f"{path}: no such label list; give a CSV file to --labels") from None
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as a label list ({error}); give a CSV file") from error
  if not rows:
    raise UserError(f"{path}: names no file; add a row a sound file")
  return list(rows.values())


def check_files(audio: pathlib.Path, listed: list[LabelledFile], labels: str | os.PathLike) -> None:
  """Refuse a folder that lacks a file of the list.

  Raises:
    UserError: naming it.
  """
  if not audio.is_dir():
    raise UserError(f"{audio}: no such folder; give the folder of sound files to --audio")
  if not any(audio.iterdir()):
    raise UserError(f"{audio}: the folder is empty; give the folder of sound files to --audio")
  for row in listed:
    if not (audio / row.filename).is_file():
      raise UserError(
        f"{audio / row.filename}: no such file, though {labels} names it; add it or remove the row"
      )


def build_store(
  out: str | os.PathLike,
  load: Callable[[str], np.ndarray],
  clip_ids: list[str],
  *,
  folds: list[str],
  labels: list[list[int]],
  vocabulary: Vocabulary,
  settings: frontend.Frontend,
  dtype: str,
  workers: int | None,
) -> None:
  """Load each clip and write its log-mel; the store does not depend on how many workers do it."""
  chunks = [clip_ids[i : i + CHUNK] for i in range(0, len(clip_ids), CHUNK)]
  work = functools.partial(log_mel_chunk, load, settings, dtype)
  log_mels = in_processes(work, chunks, min(workers or os.cpu_count() or 1, len(chunks)))
  with contextlib.closing(log_mels):  # no worker outlives an error in the writing
    write_store(
      out,
      log_mels,
      dtype=dtype,
      clip_ids=clip_ids,
      folds=folds,
      labels=labels,
      vocabulary=vocabulary,
      frontend=settings,
    )


def log_mel_chunk(
  load: Callable[[str], np.ndarray], settings: frontend.Frontend, dtype: str, clip_ids: list[str]
) -> tuple[np.ndarray, np.ndarray]:
  """The log-mels of some clips as a store holds them: (values [n, T, F], peaks float32[n])."""
  log_mel = _jitted_log_mel(settings)
  return encode(np.stack([np.asarray(log_mel(load(clip_id))) for clip_id in clip_ids]), dtype)


@functools.cache
def _jitted_log_mel(settings: frontend.Frontend) -> Callable[[np.ndarray], Any]:
  import jax

  return jax.jit(functools.partial(frontend.log_mel, frontend=settings))
