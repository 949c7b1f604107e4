"""Ogg files: search for damaged or missing pages and for the start of each stream."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from atgcn_jax.audio.byte_ranges import Bytes, Contents, Part

MAGIC = b"OggS"
_FIRST, _LAST = 2, 4  # flags of the first and the last page of a stream
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Page(NamedTuple):
  """A page: the position of its first byte, whether it is intact, and its header fields."""

  start: int
  whole: bool
  flags: int = 0
  granule: int = 0
  stream: int = 0
  number: int = 0


def read_ogg(data: Bytes) -> Contents:
  """Return what to decode of an ogg file: its streams, one after another.

  Args:
    data: All bytes of the file.

  Source:
    RFC 3533.
  """
  starts, good, lost = [0], 0, 0
  known: dict[int, _Page] = {}  # the last page of each stream
  last = None
  ended = damaged = False
  for page in _pages(data):
    damaged = not page.whole
    if damaged:
      continue
    if page.flags & _FIRST and last and not last.flags & _FIRST:
      starts.append(page.start)
      ended = False
    before = known.get(page.stream)
    # Recordings of radio streams jump from the header pages to the page that is on air.
    if before and before.granule and not page.flags & _FIRST:
      lost += max(0, page.number - before.number - 1)
    ended = ended or bool(page.flags & _LAST)
    known[page.stream] = last = page
    good += 1
  fault, missing = "", 0.0
  if lost:
    fault = f"{lost} of {lost + good} ogg pages are damaged or missing"
    missing = lost / (lost + good)
  elif not ended:
    fault = "its last page is damaged" if damaged else "its end-of-stream page is missing"
    missing = math.nan
  stops = [*starts[1:], len(data)]
  parts = tuple(Part(b"", start, stop) for start, stop in zip(starts, stops))
  return Contents(parts if len(parts) > 1 else (), fault, missing)


def _pages(data: Bytes) -> Iterator[_Page]:
  """Yield the pages of a file, including damaged and incomplete pages."""
  start = 0
  while start >= 0:
    lengths = start + 27
    header = lengths + (data[lengths - 1] if lengths <= len(data) else 0)
    stop = header + sum(data[lengths:header])
    whole = max(lengths, stop) <= len(data)
    if whole:
      flags, granule, stream, number, checksum = struct.unpack_from("<BqIII", data, start + 5)
      whole = _checksum(data[start : start + 22], data[start + 26 : stop]) == checksum
    if whole:
      yield _Page(start, True, flags, granule, stream, number)
    else:
      yield _Page(start, False)
    start = data.find(MAGIC, stop if whole else start + 1)


def _checksum(before: bytes, after: bytes) -> int:
  """Return the CRC of a page, given the bytes before and after its checksum field."""
  # The CRC of ogg is that of zlib with all bits reversed, an initial value of 0 and no inversion.
  page = (before + bytes(4) + after).translate(_REVERSED_BITS)
  return int(f"{zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
