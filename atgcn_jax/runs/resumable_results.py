"""Finished items of a command that may stop at any time and is continued by repeating it.

`OUT.partial` stores the bytes of all finished items, one after the other. `OUT.partial.jsonl`, the
journal, lists them. Its first line identifies the command. The journal line of an item is written
after its bytes, so all listed items are stored. The files are not flushed to disk. If the process
stops, no item is lost. After a power failure, items may be lost; their checksums detect this.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

from atgcn_jax.errors import UserError
from atgcn_jax.runtime import journal
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.process_setup import cache_folder
from atgcn_jax.runtime.schema import checked
from atgcn_jax.runtime.whole_files import write_at

Key = tuple[str | int, ...]


class InUse(UserError):  # noqa: N818 (a state of an output)
  """Another process makes the same output."""


class _Record(TypedDict):
  key: list[str | int]
  size: int
  crc32: int
  note: str


class _Item(NamedTuple):
  start: int
  stop: int
  note: str


class PartialResults:
  """The finished items of a command by their keys; see `partial_results`."""

  def __init__(self, place: pathlib.Path, heading: bytes):
    """Open the items stored at `place`, whose journal must have its first line."""
    self.place, self.journal = place, journal_of(place)
    self._items: dict[Key, _Item] = {}
    self._data = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    self._lines = os.open(self.journal, os.O_RDWR)
    if os.fstat(self._data).st_size < len(heading):
      write_at(self._data, heading, 0)
    self._end = len(heading)
    found = journal.records(self.journal)
    self._journal_end = next(found)["bytes"]
    for line in found:
      try:
        record = checked(line, _Record, "record")
      except ValueError:  # a damaged line ends the journal like a torn one
        break
      if not 0 <= record["size"] <= os.fstat(self._data).st_size - self._end:
        break
      if zlib.crc32(os.pread(self._data, record["size"], self._end)) != record["crc32"]:
        break
      self._remember(record, line["bytes"])
    os.truncate(self._data, self._end)
    os.truncate(self._lines, self._journal_end)

  def __len__(self) -> int:
    return len(self._items)

  def __contains__(self, key: Key) -> bool:
    return key in self._items

  def __getitem__(self, key: Key) -> bytes:
    """Return the bytes of an item."""
    item = self._items[key]
    return os.pread(self._data, item.stop - item.start, item.start)

  def note(self, key: Key) -> str:
    """Return the note stored with an item in the journal."""
    return self._items[key].note

  def add(self, key: Key, content: bytes, note: str = "") -> None:
    """Store a finished item."""
    record: _Record = {
      "key": list(key),
      "size": len(content),
      "crc32": zlib.crc32(content),
      "note": note,
    }
    line = journal.line(dict(record))
    write_at(self._data, content, self._end)
    write_at(self._lines, line, self._journal_end)
    self._remember(record, len(line))

  def discard(self) -> None:
    """Remove all items and both files."""
    self._items.clear()
    self.place.unlink(missing_ok=True)
    self.journal.unlink(missing_ok=True)  # last, because it identifies the other file

  def close(self) -> None:
    """Close both files."""
    os.close(self._data)
    os.close(self._lines)

  def _remember(self, record: _Record, journal_bytes: int) -> None:
    stop = self._end + record["size"]
    self._items[tuple(record["key"])] = _Item(self._end, stop, record["note"])
    self._end, self._journal_end = stop, self._journal_end + journal_bytes


def place_of(out: str | os.PathLike) -> pathlib.Path:
  """Return where the finished items of the output `out` are stored.

  This is next to the output, or in the cache folder if the output is in a bucket.
  """
  if not in_bucket(out):
    out = pathlib.Path(out)
    return out.with_name(f"{out.name}.partial")
  address = os.fspath(out)
  folder = cache_folder() / "partial"
  folder.mkdir(parents=True, exist_ok=True)
  digest = hashlib.sha256(address.encode()).hexdigest()[:12]
  return folder / f"{digest}-{pathlib.PurePosixPath(address).name}.partial"


def journal_of(place: pathlib.Path) -> pathlib.Path:
  """Return the path of the journal of the finished items at `place`."""
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
  """Lock and yield the finished items of an output, including those of an earlier process.

  The items are removed if the block succeeds. If the block fails, they are kept. A note about the
  kept items is added to `KeyboardInterrupt`.

  Args:
    out: The output.
    identity: The options that determine the content of the items, by their user-visible names, as
      JSON values.
    total: The number of items.
    unit: The plural noun for the items, for messages.
    heading: The first bytes of the file of items.

  Yields:
    The finished items.

  Raises:
    InUse: If another process holds the items.
    UserError: If they belong to another command.
    OSError: If the files cannot be written.
  """
  place = place_of(out)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(journal.locked(journal_of(place), wait=False))
    except journal.Busy:
      raise InUse(
        f"{out}: another process is writing this file; wait for it or name another file"
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
  """Write the first line of a new journal, or check the first line of an existing one."""
  first = next(journal.records(journal_of(place)), None)
  if first is None or not isinstance(first.get("identity"), dict):
    if place.exists():
      journal_of(place).unlink()
      raise UserError(f"{place}: exists and would be overwritten by unfinished output; move it")
    journal_of(place).write_bytes(journal.line({"identity": identity}))
    return
  stored = first["identity"]
  for name in [*identity, *stored]:
    if stored.get(name) != identity.get(name):
      raise UserError(
        f"{place}: started with {name} {stored.get(name)}, not {identity.get(name)}; repeat the "
        f"original command, or remove {place} and {journal_of(place).name} to start again"
      )
