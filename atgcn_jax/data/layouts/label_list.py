"""CSV label list of sound files with folds and label ids: `filename,fold,positive_labels`."""

from __future__ import annotations

import array
import csv
import functools
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts import nearby
from atgcn_jax.data.layouts.listing import (
  Clip,
  Listing,
  Row,
  check_audio_folder,
  load_file,
  make_listing,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.hints import EMPTY, about_columns, misread
from atgcn_jax.labels.label_files import encoding_fault
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("filename", "fold", "positive_labels")
FORM = ", ".join(COLUMNS)


class LabelledFile(NamedTuple):
  """One file of a label list."""

  filename: str
  fold: str
  labels: list[str]


def list_labelled(
  audio: str | os.PathLike,
  labels: str | os.PathLike,
  settings: Frontend,
  vocabulary: Vocabulary | None,
) -> Listing:
  """List the files of a label list in a folder. A file that does not exist fails when loaded.

  Args:
    audio: Folder of the files.
    labels: Path of the label list.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the list.

  Raises:
    UserError: If the folder or the list cannot be used.
  """
  root = str(check_audio_folder(audio))
  return listed(labels, vocabulary, functools.partial(load_file, root, settings), root)


def listed(
  labels: str | os.PathLike,
  vocabulary: Vocabulary | None,
  load: Callable[[str], Clip],
  root: str,
) -> Listing:
  """List the files of a label list with a custom loader; see `list_labelled`.

  Args:
    labels: Path of the label list.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the list.
    load: Function that loads the clip of a file name.
    root: Folder of the files, or a description of their origin.
  """
  files = read_label_list(labels, root)
  if vocabulary is None:
    _check_ids(files, labels)
  rows = (Row(name, fold, name, ids, f"{labels}: {name}") for name, fold, ids in files)
  listing = make_listing(rows, vocabulary, load, root)
  for doubt in _doubts(listing.folds, listing.vocabulary.ids):
    warnings.warn(f"{labels}: {doubt}", stacklevel=2)
  return listing


def read_label_list(path: str | os.PathLike, root: str = "") -> list[LabelledFile]:
  """Read the files of a label list.

  If a file has several rows, their labels are joined, with a warning. Blanks around fields and
  labels, the case of column names, other columns and empty rows are ignored.

  Args:
    path: Path of the label list.
    root: Folder of the files. An absolute name in this folder equals the relative name.

  Raises:
    UserError: If the list or a column is missing, a row has no name or fold, a file is in two
      folds, or the list is empty.
  """
  files: list[LabelledFile] = []
  lines, joined = array.array("q"), []
  positions: dict[str, int] = {}
  known: dict[str, str] = {}  # one shared string per fold or label, to save memory
  top = os.path.join(os.path.abspath(root), "")
  for line, name, fold, ids in _rows(path):
    key = os.path.normpath(name).removeprefix(top)
    position = positions.setdefault(name if key == name else key, len(files))
    labels = [known.setdefault(label, label) for label in ids]
    if position == len(files):
      files.append(LabelledFile(name, known.setdefault(fold, fold), labels))
      lines.append(line)
      continue
    first = files[position]
    if fold != first.fold:
      where = f"line {lines[position]} ({first.filename})"
      raise UserError(
        f"{path}: line {line}: {name} is in fold {fold}, but in fold {first.fold} in {where}; "
        "keep one of the rows"
      )
    first.labels.extend(label for label in labels if label not in first.labels)
    joined.append(name)
  if not files:
    raise UserError(f"{path}: lists no file; add one row for each sound file")
  if joined:
    what = "1 row names" if len(joined) == 1 else f"{len(joined)} rows name"
    warnings.warn(
      f"{path}: {what} a file again, such as {joined[0]}; the labels of the rows are joined",
      stacklevel=2,
    )
  return files


def _rows(path: str | os.PathLike) -> Iterator[tuple[int, str, str, list[str]]]:
  """Yield the line number, file name, fold and label ids of each row, without blanks around."""
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.DictReader(file, skipinitialspace=True)
      _name_columns(path, reader)
      for row in reader:
        name, fold, ids = (row[column] for column in COLUMNS)
        if (
          not (name or "").strip()
          and None not in row
          and not any(value and value.strip() for value in row.values())
        ):
          continue  # an empty row
        where = f"{path}: line {reader.line_num}"
        if None in (name, fold, ids) or None in row or "\n" in name:
          raise UserError(f"{where}: not {FORM}; write three fields and quote the label ids")
        name, fold = name.strip(), fold.strip()
        if not name or name in EMPTY:
          raise UserError(f"{where}: no filename; add the name of the sound file")
        if not fold or fold in EMPTY:
          raise UserError(f"{where}: {name} has no fold; add one, such as train or 1")
        labels = (label.strip() for label in ids.split(","))
        yield reader.line_num, name, fold, list(dict.fromkeys(filter(None, labels)))
  except FileNotFoundError:
    raise UserError(f"{path}: no such label list; give a CSV file to --labels") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {encoding_fault(error)} (CSV)") from None
  except (OSError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as a label list ({error}); give a CSV file") from error


def _name_columns(path: str | os.PathLike, reader: csv.DictReader) -> None:
  """Set the column names to those of COLUMNS, ignoring case and blanks.

  Raises:
    UserError: If a column is missing or repeated.
  """
  header = [name.strip() for name in reader.fieldnames or ()]
  names = [name.lower() if name.lower() in COLUMNS else name for name in header]
  if missing := [name for name in COLUMNS if name not in names]:
    hint = about_columns(header, missing, [value or "" for value in next(reader, {}).values()])
    raise UserError(
      f"{path}: no column {', '.join(missing)}; {hint}{'; ' if hint else ''}"
      f"the first line must name {FORM}"
    )
  if repeated := [name for name in COLUMNS if names.count(name) > 1]:
    raise UserError(f"{path}: several columns {', '.join(repeated)}; keep one")
  reader.fieldnames = names


def _check_ids(files: list[LabelledFile], path: str | os.PathLike) -> None:
  """Reject implausible label ids in a list without a vocabulary.

  Raises:
    UserError: If there is such an id; names the first one.
  """
  for name, _, labels in files:
    for label in labels:
      if fault := misread(label):
        raise UserError(
          f"{path}: {name}: label {label!r}: {fault}, or give a vocabulary that has this label"
        )


def _doubts(folds: Iterable[str], labels: Iterable[str]) -> Iterator[str]:
  """Yield remarks about folds and labels that may be mistakes."""
  folds, labels = sorted(set(folds)), sorted(labels)
  if decimal := [fold for fold in folds if re.fullmatch(r"\d+\.0", fold)]:
    yield f"folds are {', '.join(decimal[:3])}; write integers, or use these names in the config"
  for what, words in (("folds", folds), ("labels", labels)):
    first: dict[str, str] = {}
    for word in words:
      if (other := first.setdefault(word.casefold(), word)) != word:
        yield f"{what} {other} and {word} differ only in case; write one if they are the same"
  known = set(labels)
  for label in labels:
    if len(parts := label.split()) > 1 and known.issuperset(parts):
      yield f"{label!r} counts as one label; separate with commas if it is {len(parts)} labels"


def check_files(audio: pathlib.Path, listed: list[LabelledFile], labels: str | os.PathLike) -> None:
  """Check that a folder contains all files of a label list.

  Args:
    audio: Folder of the files.
    listed: Files of the label list.
    labels: Path of the label list, for the message.

  Raises:
    UserError: If a file is missing; names the first one.
  """
  check_audio_folder(audio)
  for row in listed:
    if not (audio / row.filename).is_file():
      hint = nearby.hint(audio, row.filename) or "add it or remove the row"
      raise UserError(f"{audio / row.filename}: no such file, but {labels} lists it; {hint}")
