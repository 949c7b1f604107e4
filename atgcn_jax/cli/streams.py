"""Standard output and error of a command: any encoding, closed pipes, closed from the start."""

from __future__ import annotations

import functools
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

PIPE_CLOSED = 128 + signal.SIGPIPE  # as a shell reports a program that ends by it

Main = Callable[..., int]


def any_streams(main: Main) -> Main:
  """Let a command work, or end in order, whatever its standard output and error are.

  Characters that their encoding lacks are written as escapes (`\\u2026`). What is written to one
  that was closed from the start is dropped. Once the reader of a pipe has gone, the command ends
  without a message and returns PIPE_CLOSED.
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
      if not closed:  # another pipe
        raise
      for stream in closed:  # or Python would write the rest at its end, and complain
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
      return PIPE_CLOSED

  return guarded


def _open_closed() -> None:
  """Open the null device in place of a closed stream, or the next file would take its number."""
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
  for name, descriptor in (("stdout", 1), ("stderr", 2)):
    if getattr(sys, name) is None:
      setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def _is_closed_pipe(stream: TextIO) -> bool:
  """Return whether the reader of this stream has closed it."""
  poll = select.poll()
  try:
    poll.register(stream.fileno(), 0)  # an error is reported without being asked for
  except (OSError, ValueError):
    return False
  return any(event & select.POLLERR for _, event in poll.poll(0))
