"""FSD50K and UrbanSound8K as downloaded: tables of sound files, folds and labels."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import Listing, Row, check_audio_folder, load_file, make_listing
from atgcn_jax.data.layouts.tables import read_table
from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

FSD50K_TABLES = (("dev.csv", ("fname", "mids", "split")), ("eval.csv", ("fname", "mids")))
FSD50K_FOLDS = {"train": "train", "val": "validation"}
URBANSOUND8K_TABLE = os.path.join("metadata", "UrbanSound8K.csv")


def list_fsd50k(audio: str | os.PathLike, settings: Frontend) -> Listing:
  """List the recordings of FSD50K with their AudioSet labels, in train, validation and test.

  Args:
    audio: Folder with `FSD50K.ground_truth`, `FSD50K.dev_audio` and `FSD50K.eval_audio`.
    settings: Front end that the clips are loaded for.

  Raises:
    UserError: If a table cannot be used, or names a label that `vocabulary.csv` lacks.

  Source:
    E. Fonseca, X. Favory, J. Pons, F. Font, X. Serra, FSD50K, IEEE/ACM TASLP 2022.
  """
  root = str(check_audio_folder(audio))
  tables = os.path.join(root, "FSD50K.ground_truth")

  def rows() -> Iterator[Row]:
    for table, columns in FSD50K_TABLES:
      path, part = os.path.join(tables, table), table.partition(".")[0]
      for line, row in _rows(path, columns, "FSD50K"):
        split = row.get("split", "")
        if part == "dev" and split not in FSD50K_FOLDS:
          raise UserError(f"{path}, line {line}: split {split!r} is neither train nor val; fix it")
        name = f"FSD50K.{part}_audio/{row['fname']}.wav"
        labels = row["mids"].split(",")
        yield Row(name, FSD50K_FOLDS.get(split, "test"), name, labels, f"{path}, line {line}")

  vocabulary = _fsd50k_vocabulary(os.path.join(tables, "vocabulary.csv"))
  return make_listing(rows(), vocabulary, functools.partial(load_file, root, settings), root)


def list_urbansound8k(audio: str | os.PathLike, settings: Frontend) -> Listing:
  """List the recordings of UrbanSound8K with their class, in the folds 1 to 10.

  Args:
    audio: Folder with `metadata/UrbanSound8K.csv` and `audio/fold1` to `audio/fold10`.
    settings: Front end that the clips are loaded for.

  Raises:
    UserError: If the table cannot be used.

  Source:
    J. Salamon, C. Jacoby, J. P. Bello, A Dataset and Taxonomy for Urban Sound Research, ACM
    Multimedia 2014.
  """
  root = str(check_audio_folder(audio))
  path = os.path.join(root, URBANSOUND8K_TABLE)
  columns = ("slice_file_name", "fold", "class")

  def rows() -> Iterator[Row]:
    for line, row in _rows(path, columns, "UrbanSound8K"):
      name = f"audio/fold{row['fold']}/{row['slice_file_name']}"
      yield Row(name, row["fold"], name, [row["class"]], f"{path}, line {line}")

  return make_listing(rows(), None, functools.partial(load_file, root, settings), root)


def _rows(
  path: str, columns: tuple[str, ...], data_set: str
) -> Iterator[tuple[int, dict[str, str]]]:
  """Yield the line number and the fields of each row of a table with all of these columns."""
  if not os.path.isfile(path):
    raise UserError(f"{path}: no such file; give the folder of {data_set} as downloaded to --audio")
  table = read_table(path, f"table of {data_set}")
  if missing := [name for name in columns if name not in table.columns]:
    raise UserError(f"{path}: no column {', '.join(missing)}; use the original of {data_set}")
  for line, row in table.rows:
    if not all(row[name] for name in columns):
      raise UserError(f"{path}, line {line}: a field is empty; use the original of {data_set}")
    yield line, row


def _fsd50k_vocabulary(path: str) -> Vocabulary:
  """Return the vocabulary of a file with the rows `index,name,mid` and no header."""
  try:
    rows = [row for row in csv.reader(text_lines(path)) if row]
    _, names, ids = zip(*rows, strict=True)
    return Vocabulary(ids, names)
  except (ValueError, csv.Error):
    raise UserError(
      f"{path}: not lines of index,name,mid; use the original vocabulary.csv of FSD50K"
    ) from None
