"""Writer of a folder of sound files with labels, as input of `atgcn prepare`."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from atgcn_jax.data.layouts.label_list import COLUMNS
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.runtime.buckets import check_utf8

LABELS, VOCABULARY = "labels.csv", "vocabulary.csv"


class Recording(NamedTuple):
  """Sound to write: samples float32[S] within [-1, 1], fold, and label indices."""

  waveform: np.ndarray
  fold: str
  labels: Sequence[int]


def clip_names(clips: int) -> list[str]:
  """Return the names of the sound files for a number of clips."""
  return [f"{k:06d}.flac" for k in range(clips)]


def check_replaceable(folder: str | os.PathLike, clips: int, others: Iterable[str] = ()) -> None:
  """Check that a folder contains only files that `write_folder` will replace.

  Args:
    folder: The folder. It need not exist.
    clips: Number of clips to write.
    others: Names of further files to write.

  Raises:
    UserError: If the folder is not a folder, contains another file, or has a table that
      `write_folder` has not written; names the file.
  """
  folder = Path(folder)
  check_utf8(folder)
  if not folder.exists():
    return
  if not folder.is_dir():
    raise UserError(f"{folder} is not a folder; give a new or an empty one")
  ours = {LABELS, VOCABULARY, *others} | {f"audio/{name}" for name in clip_names(clips)}
  ours |= {f"{name}.part" for name in ours} | {"audio"}
  for path in sorted(folder.rglob("*")):
    if path.relative_to(folder).as_posix() not in ours:
      raise UserError(f"{folder} already holds {path.name}; give a new or an empty folder")
  # The list of labels is written before the other tables.
  tables = [name for name in (LABELS, VOCABULARY, *others) if (folder / name).exists()]
  if tables and not _is_own_list(folder / LABELS):
    raise UserError(
      f"{folder} already holds a {tables[0]} of another origin; give a new or an empty folder"
    )


def _is_own_list(path: Path) -> bool:
  """Return whether a file is a label list that `write_folder` has written."""
  try:
    with path.open(newline="", encoding="utf-8") as file:
      header, *rows = csv.reader(file)
  except (OSError, ValueError, csv.Error):
    return False
  names = [row[0] if row else "" for row in rows]
  return header == list(COLUMNS) and names == clip_names(len(names))


def write_folder(
  folder: str | os.PathLike,
  clips: Iterable[Recording],
  count: int,
  *,
  rate: int,
  vocabulary: Vocabulary,
  others: Mapping[str, Callable[[], str]],
) -> None:
  """Write `audio/000000.flac` …, `labels.csv` (filename, fold, positive_labels), `vocabulary.csv`.

  Each file appears under its name only when it is complete.

  Args:
    folder: Folder to write. It is created if needed. Files of an earlier call are replaced.
    clips: The clips, consumed one at a time.
    count: Number of clips.
    rate: Sample rate in Hz.
    vocabulary: Labels of the clips.
    others: Further text files: a map from the name to a function that returns the content. It is
      called when all clips are written.

  Raises:
    UserError: If the folder contains other files or cannot be written.
  """
  folder = Path(folder)
  check_replaceable(folder, count, others)
  try:
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rows = []
    for name, clip in zip(clip_names(count), tqdm(clips, total=count, unit="clip", disable=None)):
      with _whole(folder / "audio" / name) as part:
        soundfile.write(part, clip.waveform, rate, format="FLAC", subtype="PCM_16")
      rows.append((name, clip.fold, ",".join(vocabulary.ids[label] for label in clip.labels)))
    with _whole(folder / LABELS) as part, part.open("w", newline="", encoding="utf-8") as file:
      writer = csv.writer(file, lineterminator="\n")
      writer.writerows([COLUMNS, *rows])
    with _whole(folder / VOCABULARY) as part:
      write_vocabulary(part, vocabulary)
    for name, content in others.items():
      with _whole(folder / name) as part:
        part.write_text(content(), encoding="utf-8")
  except (OSError, soundfile.LibsndfileError) as error:
    reason = getattr(error, "strerror", None) or error
    raise UserError(f"--out {folder}: cannot be written ({reason}); choose another") from error


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
  """Yield a temporary path to write to, and rename it to `path` if no exception occurs."""
  part = path.with_name(f"{path.name}.part")
  yield part
  part.replace(path)
