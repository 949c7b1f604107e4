"""Finished items of a command that may be stopped at any moment, for the same command to continue.

`OUT.partial` holds the bytes of all finished items, one after the other; `OUT.partial.jsonl`, the
journal, names them. Its first line identifies the command. An item's line is written after its
bytes: what the journal names is there. Nothing is flushed to the disk: a stopped process loses no
item, a power failure may lose some, which their checksums show.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from atgcn_jax.data.store.clip_store import write_at
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import journal
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.process_setup import cache_folder

Key = tuple[str | int, ...]


class _Item(NamedTuple):
  start: int
  stop: int
  note: str


class PartialResults:
  """The items that are finished, by their keys; see `partial_results`."""

  def __init__(self, place: pathlib.Path, heading: bytes):
    """Those of an earlier command at this place, whose journal has a first line."""
    self.place, self.journal = place, journal_of(place)
    self._items: dict[Key, _Item] = {}
    self._data = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    self._lines = os.open(self.journal, os.O_RDWR)
    if os.fstat(self._data).st_size < len(heading):
      write_at(self._data, heading, 0)
    self._end = len(heading)
    found = journal.records(self.journal)
    self._journal_end = next(found)["bytes"]
    for record in found:
      if zlib.crc32(os.pread(self._data, record["size"], self._end)) != record["crc32"]:
        break
      self._remember(record, record["bytes"])
    os.truncate(self._data, self._end)
    os.truncate(self._lines, self._journal_end)

  def __len__(self) -> int:
    return len(self._items)

  def __contains__(self, key: Key) -> bool:
    return key in self._items

  def __getitem__(self, key: Key) -> bytes:
    """The bytes of an item."""
    item = self._items[key]
    return os.pread(self._data, item.stop - item.start, item.start)

  def note(self, key: Key) -> str:
    """What was stored with an item in the journal."""
    return self._items[key].note

  def add(self, key: Key, content: bytes, note: str = "") -> None:
    """Store a finished item."""
    record = {"key": key, "size": len(content), "crc32": zlib.crc32(content), "note": note}
    line = journal.line(record)
    write_at(self._data, content, self._end)
    write_at(self._lines, line, self._journal_end)
    self._remember(record, len(line))

  def discard(self) -> None:
    """Remove all items and both files."""
    self._items.clear()
    self.place.unlink(missing_ok=True)
    self.journal.unlink(missing_ok=True)  # last, since it says whose the other is

  def close(self) -> None:
    """Close both files."""
    os.close(self._data)
    os.close(self._lines)

  def _remember(self, record: dict[str, Any], journal_bytes: int) -> None:
    stop = self._end + record["size"]
    self._items[tuple(record["key"])] = _Item(self._end, stop, record["note"])
    self._end, self._journal_end = stop, self._journal_end + journal_bytes


def place_of(out: str | os.PathLike) -> pathlib.Path:
  """Where the finished items of the output `out` are: beside it, for a bucket in the cache."""
  if not in_bucket(out):
    out = pathlib.Path(out)
    return out.with_name(f"{out.name}.partial")
  address = os.fspath(out)
  folder = cache_folder() / "partial"
  folder.mkdir(parents=True, exist_ok=True)
  digest = hashlib.sha256(address.encode()).hexdigest()[:12]
  return folder / f"{digest}-{pathlib.PurePosixPath(address).name}.partial"


def journal_of(place: pathlib.Path) -> pathlib.Path:
  """The journal of the finished items at a place."""
  return place.with_name(f"{place.name}.jsonl")


@contextlib.contextmanager
def partial_results(
  out: str | os.PathLike,
  identity: dict[str, Any],
  *,
  total: int,
  unit: str,
  heading: bytes = b"",
) -> Iterator[PartialResults]:
  """The finished items of an output, as an earlier process left them or none, held by this one.

  They are removed when the block ends well, and when there are none. `KeyboardInterrupt` gets a
  note of what is kept.

  Args:
    identity: What decides the content of items, by the names that the user knows; JSON.
    total: The number of items.
    unit: What items are, in the plural.
    heading: First bytes of the file of items.

  Raises:
    UserError: If another process holds them, or they are of another command.
    OSError: If they cannot be written.
  """
  place = place_of(out)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(journal.locked(journal_of(place), wait=False))
    except journal.Busy:
      raise UserError(
        f"{out}: another process is writing it; wait for that process or name another file"
      ) from None
    _check(place, identity)
    part = PartialResults(place, heading)
    stack.callback(part.close)
    try:
      yield part
    except BaseException as error:
      if not len(part):
        part.discard()
      elif isinstance(error, KeyboardInterrupt):
        error.add_note(f"{len(part)} of {total} {unit} are kept in {place}")
      raise
    part.discard()


def _check(place: pathlib.Path, identity: dict[str, Any]) -> None:
  """Write the first line of a new journal, or compare it with that of an earlier one."""
  first = next(journal.records(journal_of(place)), None)
  if first is None:
    if place.exists():
      journal_of(place).unlink()
      raise UserError(f"{place}: is in the way; move it, unfinished output would overwrite it")
    journal_of(place).write_bytes(journal.line({"identity": identity}))
    return
  begun = first["identity"]
  for name in [*identity, *begun]:
    if begun.get(name) != identity.get(name):
      raise UserError(
        f"{place}: started with {name} {begun.get(name)}, not {identity.get(name)}; repeat that "
        f"command, or remove {place} and {journal_of(place).name} to start again"
      )
