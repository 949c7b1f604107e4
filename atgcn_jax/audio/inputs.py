"""Sources of sound (paths, bytes and file objects): their bytes and their names in messages."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
from typing import Any, BinaryIO

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import check_no_device, in_bucket, path_of

MOST_OF_A_PIPE = 2**32  # bytes

Source = str | os.PathLike | bytes | BinaryIO


def open_source(source: Source, stack: contextlib.ExitStack) -> tuple[Any, Any]:
  """Open a source.

  Args:
    source: The path of a file, its bytes, or a binary file object.
    stack: The stack that closes the file and its memory map.

  Returns:
    The open file, None if the source is not a regular file on disk; and the bytes, which are a
    memory map for such a file.

  Raises:
    UserError: The source is missing, a folder, empty, or cannot be read.
    TypeError: The file object is not in binary mode.
  """
  file, name = None, name_of(source)
  if isinstance(source, str | os.PathLike):
    try:
      file, data = _from_disk(source, stack)
    except FileNotFoundError:
      raise UserError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
      raise UserError(f"{name}: is a folder; name the sound files in it") from None
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or error
      raise UserError(f"{name}: cannot be read ({reason}); check path and permissions") from None
  elif isinstance(source, bytes | bytearray | memoryview):
    data = source if isinstance(source, bytes) else bytes(source)
  else:
    data = source.read()
    if not isinstance(data, bytes):
      raise TypeError("a file object must be open in binary mode")
  if not data:
    raise UserError(f"{name}: is empty (0 bytes); fetch or record it again")
  return file, data


class Content(bytes):
  """The bytes of a source, with its name for messages."""

  name: str


def rereadable(source: Any) -> Any:
  """Return a source that can be read any number of times.

  A pipe and a file object are read here, into memory. Other sources are returned as they are.

  Args:
    source: The path of a file, its bytes, a binary file object, or samples.

  Raises:
    UserError, TypeError: As for `open_source`.
  """
  if isinstance(source, bytes | bytearray | memoryview) or hasattr(source, "__array__"):
    return source
  with contextlib.ExitStack() as stack:
    file, data = open_source(source, stack)
    if file is not None:
      return source
  content = Content(data)
  content.name = name_of(source)
  return content


def _from_disk(source: str | os.PathLike, stack: contextlib.ExitStack) -> tuple[Any, Any]:
  """Return the open file and a memory map; None and bytes if it is not a regular file on disk."""
  if in_bucket(source):
    return None, path_of(source).read_bytes()
  check_no_device(source, pipes=True)
  file = stack.enter_context(io.FileIO(source))
  status = os.fstat(file.fileno())
  # A pipe or an empty file cannot be mapped.
  if not stat.S_ISREG(status.st_mode) or not status.st_size:
    return None, _read_pipe(file)
  return file, stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read_pipe(file: io.FileIO) -> bytes:
  """Return the content of a pipe, which may be endless."""
  content = bytearray()
  while part := file.read(2**20):
    content += part
    if len(content) > MOST_OF_A_PIPE:
      raise ValueError(f"the pipe has more than {MOST_OF_A_PIPE / 2**30:g} GiB")
  return bytes(content)


def name_of(source: Any) -> str:
  """Return the name of a source for messages."""
  if isinstance(source, str | os.PathLike):
    return one_line(os.fspath(source))
  return one_line(getattr(source, "name", "sound data"))


def one_line(name: object) -> str:
  """Return a file name for messages, with control characters and invalid bytes escaped."""
  text = str(name)
  return text if text.isprintable() else ascii(text)
