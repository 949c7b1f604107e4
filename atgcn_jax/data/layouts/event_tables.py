"""Tables with one row per event: Audacity label tracks, Raven selection tables, CSV."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from atgcn_jax.data.layouts.options import BY_PATH
from atgcn_jax.data.layouts.tables import read_table, separator_of
from atgcn_jax.errors import PART, UserError, printable
from atgcn_jax.labels.hints import EMPTY
from atgcn_jax.labels.label_files import SHOWN, check_name, text_lines

# Names of each column, in lower case; the first one that a table has is used.
NAMES = {
  "file": ("filename", "file", "begin file", "begin path"),
  "onset": ("onset", "start", "start_time", "start_seconds", "start (s)", "begin time (s)"),
  "offset": ("offset", "end", "end_time", "end_seconds", "end (s)", "end time (s)"),
  "label": ("event_label", "label", "annotation", "species", "common name", "class"),
}
IN_FILE = "file offset (s)"  # Raven: onset in the file, where several files are one recording
KNOWN = (*(name for names in NAMES.values() for name in names), IN_FILE, "fold")


class Event(NamedTuple):
  """One row of a table.

  Attributes:
    file: Name of the sound file, as in the table.
    onset: Start in seconds; NaN where a row, or a table without a column of files, only states that
      the file has no event.
    offset: End in seconds.
    label: Label of the event.
    fold: Fold of the file. Empty if the table has none.
    group: Group of the file. Empty if the table has none.
    where: Position in the table, for messages.
  """

  file: str
  onset: float
  offset: float
  label: str
  fold: str
  group: str
  where: str


def read_events(path: str | os.PathLike, file: str = "", group: str = "") -> Iterator[Event]:
  """Yield the events of a table, whose form its first line decides; an empty file is a track.

  - Audacity label track: lines of onset, offset and label, separated by tabs, without a header.
  - Raven selection table: `Begin Time (s)`, `End Time (s)` and a column of labels such as
    `Annotation` or `Species`; several files as `Begin File` and `File Offset (s)`. The views of a
    selection are one event.
  - CSV, separated by commas, semicolons or tabs: `filename`, `onset`, `offset`, `label`, and
    perhaps `fold`. A row with a file only states that it has no event.

  Args:
    path: The table.
    file: Sound file of the events, for tables without a column of files. Such a table states that
      the file has no event if it has no row.
    group: Name of the column that states the groups of the files, for CSV. Empty for none. The
      table may lack a column named as in BY_PATH.

  Raises:
    UserError: If the table cannot be read, lacks a column or has a row that is not an event.
  """
  first = _first_line(path)
  if _is_track(first) and group and group not in BY_PATH:
    raise UserError(
      f"--split-by {group}: {path} is a label track without columns; use folder or date"
    )
  if _is_track(first) or not first:
    yield from _track(path, file)
  else:
    yield from _table(path, file, group.lower())


def is_event_table(path: str | os.PathLike) -> bool:
  """Return whether the first line of a file is that of a table with onsets, offsets and labels."""
  try:
    first = _first_line(path)
  except UserError:
    return False
  columns = {name.strip(' "').lower() for name in first.strip().split(separator_of(first))}
  return _is_track(first) or all(columns & {*NAMES[what]} for what in ("onset", "offset", "label"))


def _first_line(path: str | os.PathLike) -> str:
  """Return the first line that is not empty; an empty text if there is none."""
  return next((line for line in text_lines(path) if line.strip()), "")


def _is_track(line: str) -> bool:
  """Return whether a line is an onset and an offset, separated by a tab."""
  fields = line.split("\t")
  return len(fields) > 1 and not any(math.isnan(_number(field)) for field in fields[:2])


def _track(path: str | os.PathLike, file: str) -> Iterator[Event]:
  """Yield the events of an Audacity label track. Lines of frequencies start with a backslash."""
  is_empty = True
  for number, line in enumerate(text_lines(path), 1):
    if line.strip() and not line.startswith("\\"):
      is_empty = False
      if not file:
        raise UserError(
          f"{path}: a label track of no sound in the folder; name it NAME.txt for NAME.wav"
        )
      fields = [*line.rstrip("\r\n").split("\t", 2), "", ""]
      yield _event(file, fields[:3], "", "", f"{path}, line {number}")
  if is_empty and file:
    yield _no_event(file, os.fspath(path))


def _table(path: str | os.PathLike, file: str, group: str) -> Iterator[Event]:
  """Yield the events of a Raven selection table or a CSV file."""
  columns, rows = read_table(path, "table of events", [*KNOWN, group] if group else KNOWN)
  used = {
    what: next((name for name in names if name in columns), "") for what, names in NAMES.items()
  }
  needed = [what for what, name in used.items() if not name and not (what == "file" and file)]
  if needed:
    what = needed[0]
    raise UserError(
      f"{path}: no column of the {what}, such as {' or '.join(NAMES[what][:3])}; its columns are "
      f"{printable(', '.join(filter(None, columns)), PART)}"
    )
  if group and group not in (*columns, *BY_PATH):
    raise UserError(f"--split-by {group}: {path} has no such column; name one of its columns")
  seen = set()
  for line, row in rows:
    where = f"{path}, line {line}"
    if None in row or None in row.values():
      raise UserError(f"{where}: not as many fields as the first line; quote texts with separators")
    name = row[used["file"]] if used["file"] else file
    onset, offset, label = (row[used[what]] for what in ("onset", "offset", "label"))
    if not name:
      raise UserError(f"{where}: no file; add the name of the sound file")
    if used["file"] and row.get(IN_FILE):
      within = _number(row[IN_FILE])
      onset, offset = row[IN_FILE], str(within + _number(offset) - _number(onset))
    event = _event(name, (onset, offset, label), row.get("fold", ""), row.get(group, ""), where)
    if event[:4] not in seen:  # Raven has a row for each view of a selection.
      seen.add(event[:4])
      yield event
  if not seen and not used["file"]:
    yield _no_event(file, os.fspath(path))


def _no_event(file: str, where: str, fold: str = "", group: str = "") -> Event:
  """Return the statement that a file has no event."""
  return Event(file, math.nan, math.nan, "", fold, group, where)


def _event(file: str, fields: Sequence[str], fold: str, group: str, where: str) -> Event:
  """Return an event from the texts of onset, offset and label.

  Raises:
    UserError: If they are not an event.
  """
  onset, offset, label = (field.strip() for field in fields)
  for text in (file, label):
    check_name(text, where)
  if all(not field or field in EMPTY for field in (onset, offset, label)):
    return _no_event(file, where, fold, group)
  start, stop = _number(onset), _number(offset)
  if not 0 <= start <= stop < math.inf:
    onset, offset = printable(onset, SHOWN), printable(offset, SHOWN)
    raise UserError(
      f"{where}: an event from {onset!r} to {offset!r}; write onset and offset in seconds, such as "
      "1.5"
    )
  if not label or label in EMPTY:
    raise UserError(f"{where}: the event has no label; add it or remove the row")
  return Event(file, start, stop, label, fold, group, where)


def _number(text: str) -> float:
  """Return the number in a text, which may have a decimal comma; NaN if it is none."""
  try:
    return float(text.strip().replace(",", "."))
  except ValueError:
    return math.nan
