"""What of a file's bytes is given to the decoder, as a file object that copies none of them."""

from __future__ import annotations

import io
import mmap
from typing import NamedTuple

Bytes = bytes | mmap.mmap


class Part(NamedTuple):
  """The bytes `head`, followed by those of the file from `start` to `stop`."""

  head: bytes
  start: int
  stop: int


class Contents(NamedTuple):
  """What is decoded of a file: `parts`, one after another; without any, the file as it is.

  `fault` says what is wrong with the file, if anything, and `missing` which share of its sound is
  missing, NaN where that is not known. `samples` is how many there are, where the decoder only
  estimates it.
  """

  parts: tuple[Part, ...] = ()
  fault: str = ""
  missing: float = 0.0
  samples: int | None = None


class PartFile(io.RawIOBase):
  """A part of a file as a file object.

  A seek to before the start does nothing, as libsndfile expects.
  """

  def __init__(self, data: Bytes, part: Part):
    """At the first byte of the part."""
    super().__init__()
    self._data, self._part, self._at = data, part, 0
    self._size = len(part.head) + part.stop - part.start

  def readable(self) -> bool:
    """Always."""
    return True

  def seekable(self) -> bool:
    """Always."""
    return True

  def tell(self) -> int:
    """The position."""
    return self._at

  def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
    """Move to a position, which is returned."""
    at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
    if at >= 0:
      self._at = at
    return self._at

  def readinto(self, buffer) -> int:
    """Read into a buffer of bytes; returns how many."""
    head, start, stop = self._part
    if self._at < len(head):
      read = head[self._at : self._at + len(buffer)]
    else:
      at = start + self._at - len(head)
      read = self._data[at : min(at + len(buffer), stop)]
    buffer[: len(read)] = read
    self._at += len(read)
    return len(read)
