"""Vocabularies: the ordered labels of a task."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from atgcn_jax.errors import UserError, printable
from atgcn_jax.labels.hints import about_columns, about_label
from atgcn_jax.labels.label_files import SHOWN, check_name, has_controls, text_lines
from atgcn_jax.runtime.whole_files import csv_bytes, write_whole

COLUMNS = ("index", "mid", "display_name")
AUDIOSET = "audioset"  # stands for the 527 labels of AudioSet in place of a path
# Gemmeke et al., Audio Set, ICASSP 2017; class list of Google, CC BY 4.0.
AUDIOSET_CSV = pathlib.Path(__file__).with_name("audioset.csv")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The K labels of a task.

  Attributes:
    ids: The id of each label.
    names: The display name of each label.

  Raises:
    ValueError: The numbers of ids and names differ, or an id is repeated, empty, padded with
      spaces or contains a comma (commas separate the ids of a clip in label files), or an id or
      name contains control characters.
  """

  ids: tuple[str, ...]
  names: tuple[str, ...]

  def __post_init__(self) -> None:
    if len(self.ids) != len(self.names):
      raise ValueError(f"{len(self.ids)} ids but {len(self.names)} names")
    for label_id in self.ids:
      if not label_id or label_id != label_id.strip() or "," in label_id:
        shown = printable(label_id, 40)
        raise ValueError(f"label id {shown!r} is empty, padded with spaces or contains a comma")
    for text in (*self.ids, *self.names):
      if has_controls(text):
        raise ValueError(f"{printable(text, 40)} contains control characters")
    if len(self.index) < len(self.ids):
      repeated = next(label_id for k, label_id in enumerate(self.ids) if self.index[label_id] != k)
      raise ValueError(f"label id {repeated} is repeated")

  def __len__(self) -> int:
    return len(self.ids)

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """The position of each label by id."""
    return {label_id: k for k, label_id in enumerate(self.ids)}

  def positions(self, label_ids: Iterable[str]) -> np.ndarray:
    """Return the positions of labels, int64[n]. All ids must be in the vocabulary."""
    return np.array([self.index[label_id] for label_id in label_ids], np.int64)

  def shared_names(self, other: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of labels with the same name here and in another vocabulary, int64[n].

    Upper and lower case are not distinguished. Of labels with one name, the other's first is taken.
    """
    known: dict[str, int] = {}
    for k, name in enumerate(other.names):
      known.setdefault(name.casefold(), k)
    ours = [k for k, name in enumerate(self.names) if name.casefold() in known]
    theirs = [known[self.names[k].casefold()] for k in ours]
    return np.array(ours, np.int64), np.array(theirs, np.int64)

  def part(self, positions: np.ndarray) -> Vocabulary:
    """Return the vocabulary of the labels at some positions, in the given order."""
    ids, names = ([words[k] for k in positions] for words in (self.ids, self.names))
    return Vocabulary(tuple(ids), tuple(names))

  @functools.cached_property
  def _ids_by_name(self) -> dict[str, str]:
    """The id of each name that only one label has, in lower case."""
    lower = [name.casefold() for name in self.names]
    known = collections.Counter(lower)
    return {name: label for label, name in zip(self.ids, lower) if known[name] == 1}

  def as_ids(self, labels: Iterable[str]) -> list[str]:
    """Return labels with each name replaced by its id. Ids and unknown texts stay as they are."""
    return [
      label if label in self.index else self._ids_by_name.get(label.casefold(), label)
      for label in labels
    ]

  def indices(self, label_ids: Iterable[str], *, where: str) -> list[int]:
    """Return the positions of labels from a user's file.

    Args:
      label_ids: The ids of the labels.
      where: File and row of the ids, for the message.

    Raises:
      UserError: An id is not in the vocabulary. The message suggests similar ids.
    """
    try:
      return [self.index[label_id] for label_id in label_ids]
    except KeyError as error:
      label = printable(error.args[0], SHOWN)
      raise UserError(
        f"{where}: label {label!r} is not among the {len(self)} labels of the vocabulary; "
        f"{about_label(self.ids, self.names, error.args[0])}"
      ) from None


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
  """Return the vocabulary in a CSV file, in the order of its indices.

  Args:
    path: A file in the format of AudioSet's `class_labels_indices.csv`, with the columns index, mid
      and display_name; or `audioset` for the labels of AudioSet, which the package contains.

  Raises:
    UserError: The file is missing or empty, lacks a column, repeats an id, or its indices are not
      0 to K-1.
  """
  if path == AUDIOSET:
    path = AUDIOSET_CSV
  rows = csv.DictReader(text_lines(path), strict=True)
  labels: dict[int, tuple[str, str]] = {}
  try:
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
      hint = about_columns(rows.fieldnames or (), missing)
      raise UserError(
        f"{path}: no column {', '.join(missing)}; {hint + '; ' if hint else ''}"
        f"the first line must be {','.join(COLUMNS)}"
      )
    for row in rows:
      where = f"{path}, line {rows.line_num}"
      if None in row or None in row.values():
        raise UserError(f"{where}: not as many fields as the first line; quote the names")
      position, label_id, name = (row[column] for column in COLUMNS)
      if not (position.isascii() and position.isdigit() and len(position) < 10):
        shown = printable(position, SHOWN)
        raise UserError(f"{where}: index {shown!r} is not a number; count the labels from 0")
      if int(position) in labels:
        raise UserError(f"{where}: index {position} is repeated; count the labels from 0")
      labels[int(position)] = (label_id.strip(), name)
  except csv.Error as error:
    raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); fix the line") from None
  if not labels:
    raise UserError(f"{path}: contains no labels; write lines {','.join(COLUMNS)}")
  if max(labels) != len(labels) - 1:
    gap = next(k for k in range(len(labels)) if k not in labels)
    raise UserError(f"{path}: no label has index {gap}; number the labels 0 to {len(labels) - 1}")
  ids, names = zip(*(labels[k] for k in range(len(labels))))
  try:
    return Vocabulary(ids, names)
  except ValueError as error:
    raise UserError(f"{path}: {error}; give each label its own id") from None


def read_label_ids(path: str | os.PathLike[str]) -> list[str]:
  """Return the label ids in a file, in its order, without repetitions.

  Args:
    path: A CSV file with the column mid, such as a part of a vocabulary file, or a text file with
      one id per line.

  Raises:
    UserError: The file is missing, contains no label, or has a row without an id.
  """
  lines = [line for line in text_lines(path) if line.strip()]
  try:
    rows = list(csv.reader(lines, strict=True))
    column = rows[0].index("mid") if rows and "mid" in rows[0] else None
    if column is None:
      ids = [line.strip() for line in lines]
    else:
      ids = [row[column].strip() for row in rows[1:]]
  except (csv.Error, IndexError):
    raise UserError(
      f"{path}: not CSV with an id in each row; fix the file, or write one id per line"
    ) from None
  if not all(ids) or not ids:
    raise UserError(
      f"{path}: contains no label, or an empty id; write one id per line, or rows of a vocabulary"
    )
  for label_id in ids:
    check_name(label_id, os.fspath(path))
  return list(dict.fromkeys(ids))


def write_vocabulary(path: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
  """Write a vocabulary in the format that `read_vocabulary` reads.

  Args:
    path: The file to write. An existing file is replaced.
    vocabulary: The K labels.
  """
  rows = zip(range(len(vocabulary)), vocabulary.ids, vocabulary.names)
  write_whole(pathlib.Path(path), csv_bytes([COLUMNS, *rows]))


def rows_by_id(
  path: str | os.PathLike[str], mids: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
  """Return the rows of a file that belong to the labels of a vocabulary, int64[K].

  Args:
    path: The file, for the message.
    mids: The label ids in the file, str[M].
    vocabulary: The K labels to find.

  Raises:
    UserError: A label of the vocabulary is not in the file, or an id is repeated.
  """
  if mids.ndim != 1 or mids.dtype.kind != "U":
    raise UserError(f"{path}: `mids` is not a list of label ids; store one string per row")
  rows = {str(mid): row for row, mid in enumerate(mids)}
  if len(rows) < len(mids):
    raise UserError(f"{path}: `mids` repeats a label id; store one row per label")
  for label_id, name in zip(vocabulary.ids, vocabulary.names):
    if label_id not in rows:
      raise UserError(
        f"{path}: contains no label {label_id} ({name}); use a file made for this vocabulary"
      )
  return np.array([rows[label_id] for label_id in vocabulary.ids], np.int64)
