"""Human ratings of how often a label is true."""

from __future__ import annotations

import csv
import os

from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import text_lines

COLUMNS = ("label_id", "num_rated", "num_true")


def read_ratings(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
  """How many clips of a label were rated, and for how many it was found true, by label id.

  Args:
    path: A CSV file with the columns label_id, num_rated and num_true, as AudioSet's
      `qa_true_counts.csv`.

  Raises:
    UserError: The file cannot be read, lacks a column or holds no label, or a row has no such
      numbers or repeats a label.
  """
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
      raise UserError(f"{where}: {numbers[0]!r} and {numbers[1]!r} are not counts; mend the row")
    rated, true = map(int, numbers)
    if true > rated:
      raise UserError(f"{where}: {true} true of {rated} rated; mend the row")
    if label in ratings:
      raise UserError(f"{where}: label {label} is there twice; keep one row a label")
    ratings[label] = (rated, true)
  if not ratings:
    raise UserError(f"{path}: holds no label; write rows of {','.join(COLUMNS)}")
  return ratings
