"""Handling of standard output and error: any encoding, closed pipes, closed descriptors."""

from __future__ import annotations

import functools
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

PIPE_CLOSED = 128 + signal.SIGPIPE  # the exit status that a shell reports for SIGPIPE

Main = Callable[..., int]


def any_streams(main: Main) -> Main:
  """Decorate the main function of a command to accept any standard output and error.

  Characters that the encoding lacks are written as escapes (`\\u2026`). Output to a stream that is
  closed at the start is discarded. If the reader of a pipe closes it, the command ends without a
  message and returns PIPE_CLOSED.
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
      # Otherwise Python would try to flush the rest at exit and print an error.
      for stream in closed:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
      return PIPE_CLOSED

  return guarded


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
