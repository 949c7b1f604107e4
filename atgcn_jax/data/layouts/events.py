"""Clips around labelled events of sound files."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from atgcn_jax.audio import folders
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts import nearby
from atgcn_jax.data.layouts.event_files import SoundNames, events_of, own_tables
from atgcn_jax.data.layouts.event_tables import Event
from atgcn_jax.data.layouts.listing import (
  NOT_THERE,
  Listing,
  Row,
  check_audio_folder,
  make_listing,
  spelling_doubts,
)
from atgcn_jax.data.layouts.options import BY_PATH
from atgcn_jax.data.store.long_files import load_cut, measured
from atgcn_jax.errors import UserError, counted
from atgcn_jax.labels.vocabulary import Vocabulary

OVERLAP = 0.5  # share of an event, or of the clip if it is shorter, that gives a clip the label


class _Annotated(NamedTuple):
  """A sound file with its events, and its fold and group, which may be empty."""

  path: str
  events: list[Event]
  fold: str
  group: str


def list_events(
  audio: str | os.PathLike,
  tables: Sequence[str | os.PathLike],
  settings: Frontend,
  vocabulary: Vocabulary | None,
  fold: str | None = None,
  *,
  workers: int,
  strict: bool = False,
  folds: bool = True,
  group: str = "",
  background: bool = False,
) -> Listing:
  """List clips around the events of sound files; the ids of the clips are `FILE@SECONDS`.

  `event_windows` places the clips. A clip has the label of an event if it contains half of the
  event, or if half of the clip is inside the event. A file that is not longer than a clip is one
  clip with all its labels, `FILE`.

  Args:
    audio: Folder of the sound files.
    tables: Tables of events (`event_tables.read_events`). If there are none, each `.txt` file in
      the folder is the table of the sound file next to it whose name its own name starts with.
    settings: Defines the clip length.
    vocabulary: Labels, as ids or names in the tables. Defaults to the sorted labels of the tables.
    fold: Fold of files for which no table states one.
    workers: Maximum number of processes that measure the files.
    strict: Whether files with a missing part count as unreadable.
    folds: Whether the clips need folds.
    group: Name of the column that states the groups of the files; empty if each file is a group.
      If the tables lack a column named as in BY_PATH, the clips have no groups.
    background: Whether clips without a label are also listed: consecutive ones of the stretches
      without an event, and of sound files without any event.

  Raises:
    UserError: If a table cannot be used, or no event is in a sound file of the folder.
  """
  root = str(check_audio_folder(audio))
  found = folders.contents(root)
  sounds = [path for path in found.files if path.lower().endswith(folders.SOUNDS)]
  names = SoundNames(sounds, root)
  own = None if tables else own_tables(root, found.files, names)
  events = [
    pair
    for table, sound in (own.sounds if own else dict.fromkeys(tables, "")).items()
    for pair in events_of(table, names, sound, group)
  ]
  by_path = _is_by_path(group, events)
  files, absent = _by_file(events, fold or "", by_path=by_path)
  if background:
    known = {file.path for file in files} | (own.spare if own else set())
    others = [path for path in sounds if path not in known]
    files += [_Annotated(path, [], fold or "", "" if by_path else path) for path in others]
  files.sort(key=lambda file: file.path)
  if not any(file.events for file in files):
    first = next(iter(absent), "")
    named = "; ".join(filter(None, (f", such as {first}", nearby.hint(root, first))))
    raise UserError(
      f"{root}: no event is in one of its {len(sounds)} sound files ({len(absent)} others are "
      f"named{named if first else ''}); give the folder of the annotated files to --audio"
    )
  for file in files if folds else ():
    if not file.fold and (file.events or background):
      raise UserError(
        f"{root}: {file.path} has no fold; give --split 80/10/10 or --fold, or add a column fold"
      )
  lengths = measured(root, [file.path for file in files], workers, strict=strict)
  late: list[str] = []
  rows = (
    row
    for file, length in zip(files, lengths)
    for row in _rows(file, length, settings.seconds, vocabulary, background, late)
  )
  listing = make_listing(rows, vocabulary, functools.partial(load_cut, root, settings), root)
  listing.remarks.extend(own.remarks(root) if own else ())
  doubts = spelling_doubts(listing.folds, listing.vocabulary.ids)
  listing.remarks.extend(f"{root}: {doubt}" for doubt in doubts)
  if late:
    listing.remarks.append(
      f"{late[0]}: an event starts after the end of its sound; "
      f"{counted(len(late), 'such event is', 'such events are')} left out"
    )
  for name in absent:
    listing.absent.append((name, "; ".join(filter(None, (NOT_THERE, nearby.hint(root, name))))))
  listing.unreadable.extend(found.faults)
  return listing


def event_windows(
  events: Sequence[tuple[float, float]], seconds: float, length: float
) -> list[float]:
  """Return the starts of clips that cover all events.

  An event that the last clip contains gets no further one. Otherwise the middle of its clip is
  that of the event. A longer event gets as few consecutive clips as cover it. Clips are moved into
  the sound, so that none starts before it or ends after it.

  Args:
    events: Onset and offset of each event, sorted, in seconds.
    seconds: Length of a clip.
    length: Length of the sound, at least that of a clip.
  """
  starts: list[float] = []
  for onset, offset in events:
    if starts and starts[-1] <= onset and min(offset, length) <= starts[-1] + seconds:
      continue
    count = max(1, math.ceil((offset - onset) / seconds - 1e-6))
    first = (onset + offset - count * seconds) / 2
    for k in range(count):
      start = round(min(max(0.0, first + k * seconds), length - seconds), 3)
      if start not in starts:
        starts.append(start)
  return sorted(starts)


def background_windows(
  events: Sequence[tuple[float, float]], seconds: float, length: float
) -> list[float]:
  """Return the starts of consecutive clips in the stretches without an event.

  Args:
    events: As for `event_windows`.
    seconds: Length of a clip.
    length: Length of the sound.
  """
  starts, free = [], 0.0
  for onset, offset in [*events, (length, length)]:
    count = max(0, math.floor((min(onset, length) - free) / seconds + 1e-6))
    starts += [round(free + k * seconds, 3) for k in range(count)]
    free = max(free, offset)
  return starts


def labels_in(
  events: Sequence[tuple[float, float, str]], start: float, seconds: float
) -> list[str]:
  """Return the labels of a clip, by OVERLAP.

  Args:
    events: Onset, offset and label of each event.
    start: Start of the clip.
    seconds: Length of the clip.
  """
  found = []
  for onset, offset, label in events:
    overlap = min(offset, start + seconds) - max(onset, start)
    if overlap >= OVERLAP * min(offset - onset, seconds) - 1e-6:
      found.append(label)
  return list(dict.fromkeys(found))


def _rows(
  file: _Annotated,
  length: float,
  seconds: float,
  vocabulary: Vocabulary | None,
  background: bool,
  late: list[str],
) -> Iterator[Row]:
  """Yield the clips of a file. Events after its end are added to `late`."""
  late += [event.where for event in file.events if 0 < length <= event.onset]
  there = [event for event in file.events if not 0 < length <= event.onset]
  where = there[0].where if there else file.path
  labels = [event.label for event in there]
  if vocabulary:
    labels = vocabulary.as_ids(labels)
    for event, label in zip(there, labels):
      vocabulary.indices([label], where=event.where)
  events = sorted((event.onset, event.offset, label) for event, label in zip(there, labels))
  if length <= seconds:  # also a file that cannot be read, which fails when it is loaded
    if events or background:
      labels = list(dict.fromkeys(label for *_, label in events))
      yield Row(file.path, file.fold, file.path, labels, where, file.group)
    return
  spans = [(onset, offset) for onset, offset, _ in events]
  events = [(onset, min(offset, length), label) for onset, offset, label in events]
  starts = event_windows(spans, seconds, length)
  if background:
    starts += background_windows(spans, seconds, length)
  for start in sorted(set(starts)):
    clip = f"{file.path}@{start:010.3f}"
    yield Row(clip, file.fold, clip, labels_in(events, start, seconds), where, file.group)


def _is_by_path(group: str, events: Sequence[tuple[Event, str]]) -> bool:
  """Return whether the paths state the groups, because no table has a column of this name.

  Raises:
    UserError: If only some of the events have the group.
  """
  if group not in BY_PATH:
    return False
  lacking = [event.where for event, _ in events if not event.group and event.label]
  if lacking and any(event.group for event, _ in events):
    raise UserError(
      f"--split-by {group}: {lacking[0]} has no {group}, but other events have; add it"
    )
  return bool(lacking)


def _by_file(
  events: Iterable[tuple[Event, str]], fold: str, *, by_path: bool
) -> tuple[list[_Annotated], dict[str, None]]:
  """Return the sound files with their events, and the names that are no file of the folder.

  Args:
    events: Each event with the path of its sound, which is empty if there is none.
    fold: Fold of files for which no table states one.
    by_path: Whether the files have no groups.

  Raises:
    UserError: If a file is in two folds or groups.
  """
  files: dict[str, _Annotated] = {}
  absent: dict[str, None] = {}
  for event, path in events:
    if not path:
      absent[event.file] = None
      continue
    fold_of, group = event.fold or fold, "" if by_path else event.group or path
    file = files.setdefault(path, _Annotated(path, [], fold_of, group))
    if (fold_of, group) != (file.fold, file.group):
      now, then = (fold_of, file.fold) if fold_of != file.fold else (group, file.group)
      raise UserError(
        f"{event.where}: {event.file} is in {now}, but in {then} before; write one of them"
      )
    if not math.isnan(event.onset):
      file.events.append(event)
  return [*files.values()], absent
