"""SIGTERM and Ctrl-C as a wish to stop at the next step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Stopped(Exception):  # noqa: N818 (a wish, not an error)
  """A process of the run was asked to stop, and all have saved; `signal_number` says by what."""

  def __init__(self, signal_number: int):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


class StopRequest:
  """Whether, and by which signal, the process was asked to stop."""

  signal_number: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Within, the first SIGTERM or SIGINT is only noted; a second one acts at once."""
  request = StopRequest()
  previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

  def note(number, frame):
    request.signal_number = number
    restore()

  def restore():
    for number, handler in previous.items():
      signal.signal(number, handler)

  for number in previous:
    signal.signal(number, note)
  try:
    yield request
  finally:
    restore()
