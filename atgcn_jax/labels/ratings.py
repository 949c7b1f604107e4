"""Human ratings of the quality of labels."""

from __future__ import annotations

import csv
import os

from atgcn_jax.errors import UserError, printable, reason
from atgcn_jax.labels.label_files import SHOWN, check_name, text_lines

COLUMNS = ("label_id", "num_rated", "num_true")


def read_ratings(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
  """Return the number of rated clips and the number of clips rated as true, by label id.

  Args:
    path: A CSV file with the columns label_id, num_rated and num_true, such as AudioSet's
      `qa_true_counts.csv`.

  Raises:
    UserError: The file cannot be read, lacks a column or has no rows, or a row has no label,
      invalid counts, or a label that is repeated.
  """
  try:
    return _ratings(path)
  except (csv.Error, ValueError) as error:  # numbers of more digits than Python converts
    raise UserError(f"{path}: not CSV of counts ({reason(error)}); fix the file") from None


def _ratings(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
  rows = csv.DictReader(text_lines(path), skipinitialspace=True)
  if missing := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
    raise UserError(
      f"{path}: no column {', '.join(missing)}; the first line must be {','.join(COLUMNS)}"
    )
  ratings: dict[str, tuple[int, int]] = {}
  for row in rows:
    where = f"{path}, line {rows.line_num}"
    label, *numbers = (row[column] or "" for column in COLUMNS)
    if not all(number.isascii() and number.isdigit() for number in numbers):
      shown = " and ".join(printable(number, SHOWN) for number in numbers)
      raise UserError(f"{where}: {shown} are not counts; fix the row")
    rated, true = map(int, numbers)
    if true > rated:
      raise UserError(f"{where}: num_true {true} must be at most num_rated {rated}; fix the row")
    check_name(label, where)
    if not label:
      raise UserError(f"{where}: the label_id is empty; fix the row")
    if label in ratings:
      raise UserError(
        f"{where}: label {printable(label, SHOWN)} is repeated; write one row per label"
      )
    ratings[label] = (rated, true)
  if not ratings:
    raise UserError(f"{path}: contains no label; write rows {','.join(COLUMNS)}")
  return ratings
