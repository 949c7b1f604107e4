"""A CSV of sound files with folds and label ids: `filename,fold,positive_labels`."""

from __future__ import annotations

import csv
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import Clip, Listing, Row, check_folder, gathered, load_file
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("filename", "fold", "positive_labels")


class LabelledFile(NamedTuple):
  """One row of a label list."""

  filename: str
  fold: str
  labels: list[str]


def list_labelled(
  audio: str | os.PathLike,
  labels: str | os.PathLike,
  settings: Frontend,
  vocabulary: Vocabulary | None,
) -> Listing:
  """The files that a label list names in a folder; a file that is not there fails when loaded.

  Raises:
    UserError: for a folder or list that cannot be used.
  """
  root = str(check_folder(audio))
  return listed(labels, vocabulary, functools.partial(load_file, root, settings), root)


def listed(
  labels: str | os.PathLike,
  vocabulary: Vocabulary | None,
  load: Callable[[str], Clip],
  root: str,
) -> Listing:
  """The files that a label list names, wherever `load` takes them from; see `list_labelled`."""
  rows = (Row(name, fold, name, ids, f"{labels}: {name}") for name, fold, ids in label_rows(labels))
  return gathered(rows, vocabulary, load, root)


def read_label_list(path: str | os.PathLike) -> list[LabelledFile]:
  """The rows of a label list; see `label_rows`."""
  return list(label_rows(path))


def label_rows(path: str | os.PathLike) -> Iterator[LabelledFile]:
  """The rows of a label list, one at a time.

  Raises:
    UserError: for a missing file or column, a short row, a file named twice, or a list of none.
  """
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
      if missing:
        raise UserError(
          f"{path}: no column {', '.join(missing)}; the first line must name {', '.join(COLUMNS)}"
        )
      names: set[str] = set()
      for row in reader:
        name, fold, ids = (row[column] for column in COLUMNS)
        where = f"{path}: line {reader.line_num}"
        if not name or "\n" in name or fold is None or ids is None or None in row:
          raise UserError(f"{where}: not {', '.join(COLUMNS)}; give three fields, quote the ids")
        if name in names:
          raise UserError(f"{where}: {name} is named twice; keep one of the rows")
        names.add(name)
        labels = [label for label in (part.strip() for part in ids.split(",")) if label]
        yield LabelledFile(name, fold, list(dict.fromkeys(labels)))
  except FileNotFoundError:
    raise UserError(f"{path}: no such label list; give a CSV file to --labels") from None
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as a label list ({error}); give a CSV file") from error
  if not names:
    raise UserError(f"{path}: names no file; add a row a sound file")


def check_files(audio: pathlib.Path, listed: list[LabelledFile], labels: str | os.PathLike) -> None:
  """Refuse a folder that lacks a file of the list.

  Raises:
    UserError: naming it.
  """
  check_folder(audio)
  for row in listed:
    if not (audio / row.filename).is_file():
      raise UserError(
        f"{audio / row.filename}: no such file, though {labels} names it; add it or remove the row"
      )
