"""The sounds that tables of events belong to, and those that they name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from atgcn_jax.data.layouts.event_tables import Event, is_event_table, read_events
from atgcn_jax.data.layouts.listing import SHOWN
from atgcn_jax.errors import UserError, counted
from atgcn_jax.labels.label_files import folded


class SoundNames:
  """Sounds by their names."""

  def __init__(self, sounds: Sequence[str], root: str = ""):
    """Index the sounds.

    Args:
      sounds: Paths of the sounds.
      root: Folder of the paths. Defaults to the current folder.
    """
    self._paths = {*sounds}
    self._named: dict[str, list[str]] = {}
    self._beside: dict[tuple[str, str], list[str]] = {}  # by folder and name
    for sound in dict.fromkeys(sounds):
      folder = os.path.dirname(os.path.abspath(os.path.join(root, sound)))
      for name in {folded(name) for name in _names(sound)}:
        self._named.setdefault(name, []).append(sound)
        self._beside.setdefault((folder, name), []).append(sound)

  def of_table(self, table: str | os.PathLike, *, beside: bool = False) -> list[str]:
    """Return the sounds whose name, with or without suffix, starts the name of a table.

    Sounds in the folder of the table are preferred, then sounds whose name has the same case.

    Args:
      table: Path of the table.
      beside: Whether only sounds in the folder of the table count.
    """
    folder, name = os.path.split(os.path.abspath(table))
    for stem in stems_of(name):
      same = [] if beside else self._named.get(folded(stem), [])
      if found := self._beside.get((folder, folded(stem)), same):
        return [sound for sound in found if stem in _names(sound)] or found
    return []

  def named(self, name: str, own: str = "") -> str:
    """Return the sound that a row of a table names; empty if there is none, or several.

    The name is the path of the sound or ends like it, or the path ends like the name, in whole
    folders. The suffix may be missing.

    Args:
      name: The name in the row.
      own: Sound next to the table that has the name of the table. It is preferred if the row
        states no folder. If the row states one, it is taken only if no other sound fits.
    """
    if name in _names(own):
      return own
    if name in self._paths:
      return name
    name = _plain(name)
    last = os.path.basename(name)
    paths = {sound: _plain(sound) for sound in self._named.get(folded(last), ())}
    found = [sound for sound, path in paths.items() if path == name]
    found = found or [sound for sound, path in paths.items() if _fits(path, name)]
    found = found or [s for s, path in paths.items() if _fits(os.path.splitext(path)[0], name)]
    return _only(found) or (own if last == os.path.basename(own) else "")


class OwnTables(NamedTuple):
  """Tables next to the sounds.

  Attributes:
    sounds: The sound of each table, by the path of the table.
    spare: Sounds without a table of their own whose name is that of a table of another sound.
    others: Tables of events that have the name of no sound.
  """

  sounds: dict[str, str]
  spare: set[str]
  others: list[str]

  def remarks(self, root: str) -> list[str]:
    """Return lines about the tables and sounds that are left out."""
    lines = []
    if self.others:
      has = counted(len(self.others), "table of events has", "tables of events have")
      shown = ", ".join(self.others[:SHOWN])
      lines.append(
        f"{root}: {has} the name of no sound, left out: {shown}; write NAME.txt for NAME.wav"
      )
    if self.spare:
      share = counted(len(self.spare), "sound shares", "sounds share")
      shown = ", ".join(sorted(self.spare)[:SHOWN])
      lines.append(f"{root}: {share} the table of another sound, left out: {shown}; rename it")
    return lines


def own_tables(root: str, files: Sequence[str], names: SoundNames) -> OwnTables:
  """Return the tables next to the sounds.

  Args:
    root: Folder of the files.
    files: Paths of all files in the folder.
    names: The sounds among them. Of several with the name of a table, the last one counts.

  Raises:
    UserError: If there is no such table.
  """
  sounds: dict[str, str] = {}
  spare: set[str] = set()
  others: list[str] = []
  for path in files:
    if path.lower().endswith(".txt"):
      table = os.path.join(root, path)
      *rest, sound = names.of_table(table, beside=True) or [""]
      spare |= {*rest}
      if sound:
        sounds[table] = sound
      elif is_event_table(table):
        others.append(path)
  if not sounds:
    raise UserError(
      f"{root}: no table of events; give one to --labels, or put NAME.txt next to NAME.wav"
    )
  return OwnTables(sounds, spare - {*sounds.values()}, others)


def events_of(
  table: str | os.PathLike,
  names: SoundNames,
  own: str = "",
  group: str = "",
  otherwise: str = "",
) -> Iterator[tuple[Event, str]]:
  """Yield the events of a table, each with its sound, which is empty if there is none.

  Args:
    table: Path of the table (`read_events`).
    names: The sounds.
    own: The sound of the table. Defaults to the only one that has the name of the table.
    group: Name of the column that states the groups of the sounds. Empty for none.
    otherwise: The file of events for which neither the table nor its name states one.

  Raises:
    UserError: If the table cannot be used.
  """
  near = own or _only(names.of_table(table, beside=True))
  file = near or _only(names.of_table(table)) or otherwise
  sounds: dict[str, str] = {}
  for event in read_events(table, file, group):
    if event.file not in sounds:
      sounds[event.file] = names.named(event.file, near)
    yield event, sounds[event.file]


def stems_of(path: str) -> Iterator[str]:
  """Yield a path without its last suffix, without its last two, and so on."""
  while (stem := os.path.splitext(path)[0]) != path:
    yield (path := stem)


def _only(found: Sequence[str]) -> str:
  return found[0] if len(found) == 1 else ""


def _names(sound: str) -> tuple[str, str]:
  """Return the name of a sound with and without its suffix."""
  name = os.path.basename(sound)
  return name, os.path.splitext(name)[0]


def _plain(path: str) -> str:
  """Return a path with `/` between its folders, and without what leads up or to the root."""
  path = os.path.normpath(path.replace("\\", "/")).lstrip("/")
  while path.startswith("../"):
    path = path.removeprefix("../")
  return path


def _fits(path: str, name: str) -> bool:
  return f"/{path}".endswith(f"/{name}") or f"/{name}".endswith(f"/{path}")
