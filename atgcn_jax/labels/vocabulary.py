"""The labels of a task, in order."""

from __future__ import annotations

import csv
import dataclasses
import functools
import os
from collections.abc import Iterable

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.hints import about_columns, about_label
from atgcn_jax.labels.label_files import text_lines

COLUMNS = ("index", "mid", "display_name")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The K labels of a task: label k has the id `ids[k]` and is shown as `names[k]`.

  Raises:
    ValueError: Ids and names differ in number, or an id is repeated, empty, padded with blanks or
      holds a comma (commas separate the ids of a clip in label files).
  """

  ids: tuple[str, ...]
  names: tuple[str, ...]

  def __post_init__(self) -> None:
    if len(self.ids) != len(self.names):
      raise ValueError(f"{len(self.ids)} ids but {len(self.names)} names")
    for label_id in self.ids:
      if not label_id or label_id != label_id.strip() or "," in label_id:
        raise ValueError(f"label id {label_id!r} is empty, padded with blanks or holds a comma")
    if len(self.index) < len(self.ids):
      repeated = next(label_id for k, label_id in enumerate(self.ids) if self.index[label_id] != k)
      raise ValueError(f"label id {repeated} is there more than once")

  def __len__(self) -> int:
    return len(self.ids)

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """The position of every label id."""
    return {label_id: k for k, label_id in enumerate(self.ids)}

  def positions(self, label_ids: Iterable[str]) -> np.ndarray:
    """Where some labels stand, int64[n]; all of them are in the vocabulary."""
    return np.array([self.index[label_id] for label_id in label_ids], np.int64)

  def part(self, positions: np.ndarray) -> Vocabulary:
    """The labels that stand there, in that order."""
    ids, names = ([words[k] for k in positions] for words in (self.ids, self.names))
    return Vocabulary(tuple(ids), tuple(names))

  def indices(self, label_ids: Iterable[str], *, where: str) -> list[int]:
    """Positions of some labels.

    Args:
      label_ids: Ids of labels.
      where: File and row the ids come from, for the message.

    Raises:
      UserError: An id is not in the vocabulary; the message says which may be meant.
    """
    try:
      return [self.index[label_id] for label_id in label_ids]
    except KeyError as error:
      raise UserError(
        f"{where}: label {error.args[0]!r} is not among the {len(self)} labels of the vocabulary; "
        f"{about_label(self.ids, self.names, error.args[0])}"
      ) from None


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
  """The vocabulary in a CSV file with the columns index, mid and display_name, in index order.

  Args:
    path: A file in the form of AudioSet's `class_labels_indices.csv`.

  Raises:
    UserError: The file is missing or empty, lacks a column, repeats an id, or its indices are not
      0 to K-1.
  """
  rows = csv.DictReader(text_lines(path), strict=True)
  labels: dict[int, tuple[str, str]] = {}
  try:
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
      hint = about_columns(rows.fieldnames or (), missing, ())
      raise UserError(
        f"{path}: no column {', '.join(missing)}; {hint + '; ' if hint else ''}"
        f"the first line must be {','.join(COLUMNS)}"
      )
    for row in rows:
      where = f"{path}, line {rows.line_num}"
      if None in row or None in row.values():
        raise UserError(f"{where}: other number of fields than the first line; quote the names")
      position, label_id, name = (row[column] for column in COLUMNS)
      if not (position.isascii() and position.isdigit()):
        raise UserError(f"{where}: index {position!r} is not a number; count the labels from 0")
      if int(position) in labels:
        raise UserError(f"{where}: index {position} is there twice; count the labels from 0")
      labels[int(position)] = (label_id.strip(), name)
  except csv.Error as error:
    raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); mend the line") from None
  if not labels:
    raise UserError(f"{path}: no labels; each line must hold {','.join(COLUMNS)}")
  if max(labels) != len(labels) - 1:
    gap = next(k for k in range(len(labels)) if k not in labels)
    raise UserError(f"{path}: no label has index {gap}; number the labels 0 to {len(labels) - 1}")
  ids, names = zip(*(labels[k] for k in range(len(labels))))
  try:
    return Vocabulary(ids, names)
  except ValueError as error:
    raise UserError(f"{path}: {error}; give every label an id of its own") from None


def read_label_ids(path: str | os.PathLike[str]) -> list[str]:
  """The label ids in a file, in its order, each once.

  Args:
    path: A CSV file with the column mid, such as some lines of a vocabulary's, or an id a line.

  Raises:
    UserError: The file is missing, has no label, or a row without an id.
  """
  lines = [line for line in text_lines(path) if line.strip()]
  try:
    rows = list(csv.reader(lines, strict=True))
    column = rows[0].index("mid") if rows and "mid" in rows[0] else None
    if column is None:
      found = [line.strip() for line in lines]
    else:
      found = [row[column].strip() for row in rows[1:]]
  except (csv.Error, IndexError):
    raise UserError(
      f"{path}: not CSV with an id in each row; mend it, or write an id a line"
    ) from None
  if not all(found) or not found:
    raise UserError(f"{path}: no label in it; write one id a line, or the rows of a vocabulary")
  return list(dict.fromkeys(found))


def write_vocabulary(path: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
  """Writes a vocabulary so that `read_vocabulary` gives it back.

  Args:
    path: The file to write; an older one is replaced.
    vocabulary: The K labels.
  """
  with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(range(len(vocabulary)), vocabulary.ids, vocabulary.names))


def rows_by_id(
  path: str | os.PathLike[str], mids: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
  """Where the labels of a vocabulary stand in a file, int64[K].

  Args:
    path: The file, for the message.
    mids: The file's label ids, str[M].
    vocabulary: The K labels that are wanted.

  Raises:
    UserError: A label of the vocabulary is not in the file, or an id is there twice.
  """
  if mids.ndim != 1 or mids.dtype.kind != "U":
    raise UserError(f"{path}: `mids` is no list of label ids; store one string a row")
  rows = {str(mid): row for row, mid in enumerate(mids)}
  if len(rows) < len(mids):
    raise UserError(f"{path}: `mids` repeats a label id; store one row a label")
  for label_id, name in zip(vocabulary.ids, vocabulary.names):
    if label_id not in rows:
      raise UserError(
        f"{path}: has no label {label_id} ({name}); use a file made for this vocabulary"
      )
  return np.array([rows[label_id] for label_id in vocabulary.ids], np.int64)
