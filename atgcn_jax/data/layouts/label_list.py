"""Label list of sound files: file names, folds and label ids, or a column of 0 and 1 per label."""

from __future__ import annotations

import array
import functools
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts import nearby
from atgcn_jax.data.layouts.listing import (
  SHOWN,
  Clip,
  Listing,
  Row,
  check_audio_folder,
  load_file,
  make_listing,
  spelling_doubts,
)
from atgcn_jax.data.layouts.options import BY_PATH
from atgcn_jax.data.layouts.tables import read_table
from atgcn_jax.errors import PART, UserError, counted, printable
from atgcn_jax.labels.hints import EMPTY, about_columns, misread
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("filename", "fold", "positive_labels")
FORM = ", ".join(COLUMNS)
# Fields of a column per label, in lower case, and whether they state the label.
ONES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}


class LabelledFile(NamedTuple):
  """One file of a label list. Without a column of groups, `group` is empty."""

  filename: str
  fold: str
  labels: list[str]
  group: str = ""


def list_labelled(
  audio: str | os.PathLike,
  labels: str | os.PathLike,
  settings: Frontend,
  vocabulary: Vocabulary | None,
  **options: Any,
) -> Listing:
  """List the files of a label list in a folder. A file that does not exist fails when loaded.

  Args:
    audio: Folder of the files.
    labels: Path of the label list.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the list.
    **options: Further arguments of `read_label_list`.

  Raises:
    UserError: If the folder or the list cannot be used.
  """
  root = str(check_audio_folder(audio))
  load = functools.partial(load_file, root, settings)
  return listed(labels, vocabulary, load, root, **options)


def listed(
  labels: str | os.PathLike,
  vocabulary: Vocabulary | None,
  load: Callable[[str], Clip],
  root: str,
  **options: Any,
) -> Listing:
  """List the files of a label list with a custom loader; see `list_labelled`.

  Args:
    labels: Path of the label list.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the list.
    load: Function that loads the clip of a file name.
    root: Folder of the files, or a description of their origin.
    **options: Further arguments of `read_label_list`.
  """
  files = read_label_list(labels, root, **options)
  if vocabulary is None:
    _check_ids(files, labels)
  rows = (
    Row(name, fold, name, ids, f"{labels}: {name}", group) for name, fold, ids, group in files
  )
  listing = make_listing(rows, vocabulary, load, root)
  for doubt in _doubts(listing.folds, listing.vocabulary.ids):
    warnings.warn(f"{labels}: {doubt}", stacklevel=2)
  return listing


def read_label_list(
  path: str | os.PathLike, root: str = "", *, folds: bool = True, group: str = ""
) -> list[LabelledFile]:
  """Read the files of a label list.

  If a file has several rows, their labels are joined, with a warning. Blanks around fields and
  labels, the case of column names, other columns and empty rows are ignored. Without a column
  `positive_labels`, each column that has only 0 and 1 is a label.

  Args:
    path: Path of the label list, with columns separated by commas, semicolons or tabs.
    root: Folder of the files. An absolute name in this folder equals the relative name.
    folds: Whether the list states folds. If not, a column of folds is ignored.
    group: Name of the column that states the groups of the files. Empty for none. The list may lack
      a column named as in BY_PATH.

  Raises:
    UserError: If the list or a column is missing, a row has no name, fold or group, a file is in
      two folds or groups, or the list is empty.
  """
  files: list[LabelledFile] = []
  lines, joined = array.array("q"), []
  positions: dict[str, int] = {}
  known: dict[str, str] = {}  # one shared string per fold, group or label, to save memory
  top = os.path.join(os.path.abspath(root), "")
  for line, (name, fold, ids, of_group) in _rows(path, folds, group.lower()):
    key = os.path.normpath(name).removeprefix(top)
    position = positions.setdefault(name if key == name else key, len(files))
    labels = [known.setdefault(label, label) for label in ids]
    if position == len(files):
      fold, of_group = known.setdefault(fold, fold), known.setdefault(of_group, of_group)
      files.append(LabelledFile(name, fold, labels, of_group))
      lines.append(line)
      continue
    first = files[position]
    for what, now, then in (("fold", fold, first.fold), (group, of_group, first.group)):
      if now != then:
        where = f"line {lines[position]} ({first.filename})"
        raise UserError(
          f"{path}, line {line}: {name} is in {what} {now}, but in {what} {then} in {where}; "
          "keep one of the rows"
        )
    first.labels.extend(label for label in labels if label not in first.labels)
    joined.append(name)
  if not files:
    raise UserError(f"{path}: lists no file; add one row for each sound file")
  if joined:
    what = counted(len(joined), "row names", "rows name")
    warnings.warn(
      f"{path}: {what} a file again, such as {joined[0]}; the labels of the rows are joined",
      stacklevel=2,
    )
  return files


def _rows(path: str | os.PathLike, folds: bool, group: str) -> Iterator[tuple[int, LabelledFile]]:
  """Yield the line number and the content of each row."""
  known = [*COLUMNS, group] if group else COLUMNS
  columns, rows = read_table(path, "label list", known)
  hot: list[str] = []
  if "positive_labels" not in columns and not about_columns(columns, ["positive_labels"]):
    every = list(rows)
    rows, hot = iter(every), _hot_columns(columns, [row for _, row in every], known)
    if repeated := [name for name in hot if columns.count(name) > 1]:
      raise UserError(f"{path}: several columns {', '.join(repeated)}; keep one")
  needed = ["filename", *(["fold"] if folds else []), *([] if hot else ["positive_labels"])]
  if missing := [name for name in needed if name not in columns]:
    hint = about_columns(columns, missing)
    otherwise = "; or give --split 80/10/10" if missing == ["fold"] else ""
    raise UserError(
      f"{path}: no column {', '.join(missing)}; {hint}{'; ' if hint else ''}"
      f"the first line must name {FORM}{otherwise}"
    )
  if group in BY_PATH and group not in columns:
    group = ""
  if group and group not in columns:
    named = ", ".join(filter(None, columns))
    raise UserError(f"--split-by {group}: {path} has no such column; name one of {named}")
  if hot:
    others = [name for name in columns if name and name not in (*hot, *known)]
    warnings.warn(_hot_remark(path, hot, others), stacklevel=4)
  for line, row in rows:
    where = f"{path}, line {line}"
    name, fold, of_group = row["filename"], row["fold"] if folds else "", row.get(group, "")
    if None in row or None in (row[column] for column in (*needed, *hot)) or "\n" in name:
      raise UserError(f"{where}: not {FORM}; write a field per column and quote the label ids")
    if not name or name in EMPTY:
      raise UserError(f"{where}: no filename; add the name of the sound file")
    if folds and (not fold or fold in EMPTY):
      raise UserError(f"{where}: {name} has no fold; add one, such as train or 1")
    if group and (not of_group or of_group in EMPTY):
      raise UserError(f"{where}: {name} has no {group}; add it, or leave out --split-by")
    if hot:
      labels = [label for label in hot if ONES[row[label].lower()]]
    else:
      labels = [label.strip() for label in row["positive_labels"].split(",")]
    yield line, LabelledFile(name, fold, list(dict.fromkeys(filter(None, labels))), of_group)


def _hot_columns(
  columns: list[str], rows: list[dict[str, str | None]], known: Sequence[str]
) -> list[str]:
  """Return the columns that have only 0 and 1, at least one of which is not empty."""
  values = {
    name: {(row.get(name) or "").lower() for row in rows}
    for name in columns
    if name and name not in known
  }
  return [name for name, found in values.items() if found <= ONES.keys() and found - {""}]


def _hot_remark(path: str | os.PathLike, hot: list[str], others: list[str]) -> str:
  """Return the remark on the columns that are labels, and those that are not."""
  shown = ", ".join(hot[:SHOWN]) + (", …" if len(hot) > SHOWN else "")
  text = f"{path}: {len(hot)} columns of 0 and 1 are labels: {shown}"
  return text + (f"; not used: {', '.join(others)}" if others else "")


def _check_ids(files: list[LabelledFile], path: str | os.PathLike) -> None:
  """Reject implausible label ids in a list without a vocabulary.

  Raises:
    UserError: If there is such an id; names the first one.
  """
  for file in files:
    for label in file.labels:
      if fault := misread(label):
        shown = printable(label, PART)
        raise UserError(
          f"{path}: {printable(file.filename, PART)}: label {shown!r}: {fault}, or give a "
          "vocabulary that has this label"
        )


def _doubts(folds: Iterable[str], labels: Iterable[str]) -> Iterator[str]:
  """Yield remarks about folds and labels that may be mistakes."""
  folds, labels = sorted(set(folds)), sorted(labels)
  yield from spelling_doubts(folds, labels)
  if decimal := [fold for fold in folds if re.fullmatch(r"\d+\.0", fold)]:
    yield f"folds are {', '.join(decimal[:3])}; write integers, or use these names in the config"
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
