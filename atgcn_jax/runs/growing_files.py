"""Files that grow while a run trains: on a disk and in a bucket."""

from __future__ import annotations

import os
import pathlib
import time

from tensorboardX.record_writer import register_writer_factory

from atgcn_jax.runtime.buckets import in_bucket, path_of
from atgcn_jax.runtime.whole_files import write_whole

BUCKET_SECONDS = 30  # between two writes of a file in a bucket


class _Rewritten:
  """A growing file in a bucket. Objects cannot be appended to, so each flush rewrites the file."""

  def __init__(self, path: str | os.PathLike, content: bytes = b""):
    """Continue a file that already has this content."""
    self._path, self._content = path_of(path), bytearray(content)
    self._written, self._written_at = len(content), time.monotonic()

  def write(self, content: bytes) -> None:
    """Add content. The file is rewritten if the last write was BUCKET_SECONDS ago."""
    self._content += content
    if time.monotonic() - self._written_at > BUCKET_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Write the added content."""
    if self._written < len(self._content):
      write_whole(self._path, bytes(self._content))
      self._written, self._written_at = len(self._content), time.monotonic()

  def close(self) -> None:
    """Write the remaining content."""
    self.flush()


class _Appended:
  """A growing file on a disk. All bytes of a write reach the system, or it fails."""

  def __init__(self, path: pathlib.Path):
    """Open an existing file."""
    self._file = path.open("ab", buffering=0)

  def write(self, content: bytes) -> None:
    """Add content."""
    left = memoryview(content)
    while left:  # one call may write a part only, such as on a disk that is nearly full
      left = left[self._file.write(left) :]

  def flush(self) -> None:
    """Do nothing: nothing is buffered."""

  def close(self) -> None:
    """Close the file."""
    self._file.close()


class _EventFiles:
  """The file system that tensorboardX uses for files in a bucket."""

  def open(self, path: str) -> _Rewritten:
    return _Rewritten(path)

  def directory_check(self, path: str) -> None:
    """Do nothing: a bucket needs no folders."""


register_writer_factory("gs", _EventFiles())


def growing_file(path: pathlib.Path, text: str) -> _Appended | _Rewritten:
  """Return a file with this content, open for appending."""
  if not path.is_file() or path.read_bytes() != text.encode():
    write_whole(path, text.encode())
  return _Rewritten(path, text.encode()) if in_bucket(path) else _Appended(path)
