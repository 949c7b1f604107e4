"""Output files that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from atgcn_jax.errors import UserError, WorkFailed, reason
from atgcn_jax.runtime.buckets import in_bucket, path_of

NAME_LENGTH = 40  # characters of the name in that of a temporary file, whose length is limited


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Open a file for writing that appears at `path` only if no exception occurs.

  On a disk, the file has a temporary name until then, which no other file or link has. For a
  bucket, the content is held in memory.

  Args:
    path: Path of the file. An existing file is replaced.

  Raises:
    UserError: If the path is a device or a pipe, which would be replaced by a file.
    OSError: If the file cannot be written.
  """
  if in_bucket(path):
    content = io.BytesIO()
    yield content
    path.write_bytes(content.getvalue())
    return
  check_regular(path)
  with temporary_file(path) as temporary:
    with open(temporary, "xb") as file:
      yield file
    temporary.replace(path)


@contextlib.contextmanager
def temporary_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield a new name for a file next to `path`. The file is removed at the end, if it is there."""
  name = f".{path.name[:NAME_LENGTH]}.{secrets.token_hex(4)}.tmp"
  temporary = path.with_name(name)
  try:
    yield temporary
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def check_regular(path: str | os.PathLike) -> None:
  """Refuse an output that is a device, a pipe or a socket.

  Raises:
    UserError: If the path is one.
  """
  if in_bucket(path):
    return
  if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
    raise UserError(f"{path}: is not a regular file; name a file")


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Write a file such that readers never see it incomplete; see `whole_file`."""
  with whole_file(path) as file:
    file.write(content)


def write_result(path: pathlib.Path, content: bytes) -> None:
  """Write an output file and the folders above it.

  Args:
    path: Path of the file.
    content: Its content.

  Raises:
    UserError: If the path is a device or a pipe.
    WorkFailed: If the file cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
  except OSError as error:
    text = f"{path}: cannot be written ({reason(error)})"
    raise WorkFailed(f"{text}; free space and repeat the command") from error


def write_output(path: str | os.PathLike, content: bytes, option: str = "--out") -> None:
  """Write an output file that an option names, and on a disk the folders above it.

  Args:
    path: Path of the file, also in a bucket.
    content: Its content.
    option: The option, for the message.

  Raises:
    UserError: If the file cannot be written.
  """
  try:
    place = path_of(path)
    if not in_bucket(path):
      place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)
  except OSError as error:
    raise UserError(
      f"{option} {path}: cannot be written ({reason(error)}); name another place"
    ) from error


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
  """Return rows as CSV."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue().encode("utf-8", "backslashreplace")  # names may not be valid UTF-8


def write_at(descriptor: int, data: bytes, position: int) -> None:
  """Write all bytes of `data` at a byte position of an open file."""
  view = memoryview(data)
  while view:
    written = os.pwrite(descriptor, view, position)
    view, position = view[written:], position + written
