"""Tables in text files, with columns separated by commas, semicolons or tabs."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.label_files import encoding_fault
from atgcn_jax.runtime.buckets import check_no_device

SEPARATORS = ",;\t"


class Table(NamedTuple):
  """An open table.

  Attributes:
    columns: Names of the columns, without blanks around; those of `known` in lower case.
    rows: Line number and fields by column of each row that is not empty, without blanks around.
      A field is None if the row is too short; the key None has the fields of a row too long.
  """

  columns: list[str]
  rows: Iterator[tuple[int, dict[Any, Any]]]


def separator_of(header: str) -> str:
  """Return the separator of a header: the most frequent of SEPARATORS outside quotes, or a comma.

  Args:
    header: First line of a table.
  """
  outside = "".join(header.split('"')[::2])
  return max(SEPARATORS, key=outside.count)


def read_table(path: str | os.PathLike, what: str, known: Collection[str] = ()) -> Table:
  """Return an open table whose first line names the columns.

  Args:
    path: UTF-8 text file.
    what: Kind of the table, for messages, such as “label list”.
    known: Names of columns, in lower case, that match without regard to case.

  Raises:
    UserError: If the file is missing, cannot be read, or repeats one of the known columns. Reading
      the rows may raise it too.
  """
  rows = _rows(path, what, known)
  _, columns = next(rows)
  if repeated := [name for name in known if columns.count(name) > 1]:
    raise UserError(f"{path}: several columns {', '.join(repeated)}; keep one")
  return Table(columns, rows)


def _rows(path: str | os.PathLike, what: str, known: Collection[str]) -> Iterator[tuple[int, Any]]:
  """Yield the list of columns in place of a row, then the rows."""
  read = 0
  try:
    check_no_device(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
      separator = separator_of(file.readline())
      file.seek(0)
      form: Any = {"delimiter": separator, "skipinitialspace": separator != "\t"}
      lines: list[str] = []  # of the row that is read
      reader = csv.reader(_without_nul(path, file, lines), **form)
      columns = [_known_name(name.strip(), known) for name in next(reader, [])]
      _check_quotes(path, 1, lines, form)
      lines.clear()
      yield 0, columns
      read = reader.line_num
      for fields in reader:
        _check_quotes(path, read + 1, lines, form)
        lines.clear()
        read = reader.line_num
        if len(fields) > len(columns) or any(field.strip() for field in fields):
          yield read, _by_column(columns, [field.strip() for field in fields])
  except FileNotFoundError:
    raise UserError(f"{path}: no such {what}; give a CSV file to --labels") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {encoding_fault(error)} (CSV)") from None
  except (OSError, csv.Error) as error:
    if "field limit" in str(error):
      raise _unclosed(path, read + 1) from None
    raise UserError(
      f"{path}: cannot be read as a {what} ({reason(error)}); give a CSV file"
    ) from error


def _known_name(name: str, known: Collection[str]) -> str:
  return name.lower() if name.lower() in known else name


def _by_column(columns: list[str], fields: list[str]) -> dict[Any, Any]:
  """Return the fields of a row by column, as `Table.rows` describes it."""
  row: dict[Any, Any] = dict.fromkeys(columns) | dict(zip(columns, fields))
  return row | {None: fields[len(columns) :]} if len(fields) > len(columns) else row


def _check_quotes(path: str | os.PathLike, line: int, lines: list[str], form: Any) -> None:
  """Check the quotes of a row that has several lines. An open quote takes in the rows below it.

  Raises:
    UserError: If a quote is not closed, or closed in the middle of a field.
  """
  if len(lines) > 1:
    try:
      list(csv.reader(lines, strict=True, **form))
    except csv.Error:
      raise _unclosed(path, line) from None


def _unclosed(path: str | os.PathLike, line: int) -> UserError:
  return UserError(f'{path}, line {line}: a quote (") is not closed; close or remove it')


def _without_nul(path: str | os.PathLike, lines: Iterable[str], row: list[str]) -> Iterator[str]:
  """Yield lines, and add them to `row`. Refuse NUL characters, which CSV readers take for text."""
  for line in lines:
    if "\0" in line:
      raise UserError(f"{path}: contains NUL characters; save it as UTF-8 text")
    row.append(line)
    yield line
