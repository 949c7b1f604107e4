"""The byte ranges of a file that are decoded, as file objects that do not copy them."""

from __future__ import annotations

import io
import mmap
from typing import NamedTuple

Bytes = bytes | mmap.mmap


class Part(NamedTuple):
  """The bytes `head`, followed by the bytes of the file from `start` to `stop`."""

  head: bytes
  start: int
  stop: int


class Contents(NamedTuple):
  """The contents of a file that can be decoded.

  Attributes:
    parts: The parts to decode, one after another. If there are none, the file is decoded as it is.
    fault: What is wrong with the file. Empty if nothing is.
    missing: The share of the sound that is missing. NaN if unknown.
    samples: The number of samples. Set only where the decoder would estimate it.
  """

  parts: tuple[Part, ...] = ()
  fault: str = ""
  missing: float = 0.0
  samples: int | None = None


class PartFile(io.RawIOBase):
  """A part of a file as a file object.

  A seek to a position before the start does nothing, as libsndfile expects.
  """

  def __init__(self, data: Bytes, part: Part):
    """Start at the first byte of the part."""
    super().__init__()
    self._data, self._part, self._at = data, part, 0
    self._size = len(part.head) + part.stop - part.start

  def readable(self) -> bool:
    """Return True."""
    return True

  def seekable(self) -> bool:
    """Return True."""
    return True

  def tell(self) -> int:
    """Return the position."""
    return self._at

  def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
    """Move to a position and return it."""
    at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
    if at >= 0:
      self._at = at
    return self._at

  def readinto(self, buffer) -> int:
    """Read into a buffer and return the number of bytes."""
    head, start, stop = self._part
    if self._at < len(head):
      read = head[self._at : self._at + len(buffer)]
    else:
      at = start + self._at - len(head)
      read = self._data[at : min(at + len(buffer), stop)]
    buffer[: len(read)] = read
    self._at += len(read)
    return len(read)
