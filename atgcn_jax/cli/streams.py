"""Handling of standard output and error: any encoding, closed pipes, closed descriptors."""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

PIPE_CLOSED = 128 + signal.SIGPIPE  # the exit status that a shell reports for SIGPIPE

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Main = Callable[..., int]


def any_streams(main: Main) -> Main:
  """Decorate the main function of a command to accept any standard output and error.

  Characters that the encoding lacks are written as escapes (`\\u2026`). Output to a stream that is
  closed at the start is discarded. If the reader of a pipe closes it, the command ends without a
  message and returns PIPE_CLOSED. If standard output cannot be written otherwise, such as on a full
  disk, the command ends with one line and returns 1.
  """

  @functools.wraps(main)
  def guarded(arguments: list[str] | None = None) -> int:
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
      if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
      try:
        return main(arguments)
      finally:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
      closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed_pipe(stream)]
      if not closed:  # the exception is about another pipe
        raise
      for stream in closed:
        _discard(stream)
      return PIPE_CLOSED
    except OSError as error:
      if error.errno not in NO_SPACE or not _is_full(sys.stdout):  # it is about another file
        raise
      _discard(sys.stdout)
      reason = error.strerror or error
      print(
        f"atgcn: standard output cannot be written ({reason}); redirect it elsewhere",
        file=sys.stderr,
      )
      return 1

  return guarded


def _discard(stream: TextIO) -> None:
  """Send the rest of a stream to the null device; Python flushes it at exit."""
  null = os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, stream.fileno())
  os.close(null)


def _is_full(stream: TextIO) -> bool:
  """Return whether no further line can be written to a stream."""
  try:
    print(file=stream, flush=True)
  except OSError:
    return True
  return False


def _open_closed() -> None:
  """Open the null device for each closed descriptor, so that no other file gets its number."""
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
  for name, descriptor in (("stdout", 1), ("stderr", 2)):
    if getattr(sys, name) is None:
      setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def _is_closed_pipe(stream: TextIO) -> bool:
  """Return whether the reader of a stream has closed it."""
  poll = select.poll()
  try:
    poll.register(stream.fileno(), 0)  # poll reports errors whatever the mask
  except (OSError, ValueError):
    return False
  return any(event & select.POLLERR for _, event in poll.poll(0))
