"""Handling of SIGTERM and SIGINT (Ctrl-C).

In a command, the first signal raises `Interrupted` immediately. Within `deferred`, it is raised at
the next `raise_if_stopped`. The handler waits while an exception would be unsafe: Python ignores
exceptions that a handler raises in a finaliser or a garbage-collector callback (JAX has one), and
compiled modules crash if an exception is raised during their import. If the exception is lost
nevertheless, the handler raises it again, each `raise_if_stopped` raises it, and `command` reports
the signal at the end. A second SIGINT ends the process immediately.

Python runs handlers only between its own instructions, not while it waits for a compiled function,
such as a step of a training. `announced` therefore answers signals from another thread.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator

SIGINT = signal.SIGINT
NUMBERS = (signal.SIGTERM, SIGINT)
RETRY_SECONDS = 0.05
FORCED_WITHIN = 2  # seconds that the last line of a forced stop may take


class Interrupted(KeyboardInterrupt):
  """The command was asked to stop by the signal `signal_number`."""

  def __init__(self, signal_number: int):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


class Stopped(Exception):  # noqa: N818 (a request, not an error)
  """A process of the run was asked to stop by `signal_number`, and all processes have saved."""

  def __init__(self, signal_number: int):
    super().__init__(signal.Signals(signal_number).name)
    self.signal_number = signal_number


class StopRequest:
  """State of a stop request. `signal_number` is None until the process is asked to stop."""

  signal_number: int | None = None

  def raise_if_stopped(self) -> None:
    """Raise `Interrupted` if the process was asked to stop."""
    if self.signal_number is not None:
      raise Interrupted(self.signal_number)


_command = StopRequest()
_deferrals = 0
_ended = True


@contextlib.contextmanager
def command(*, ends_process: bool) -> Iterator[StopRequest]:
  """Handle SIGTERM and SIGINT while a command runs. Signals that are ignored stay ignored.

  Args:
    ends_process: Whether the process ends after the command. If true, both signals end the process
      after the command, because Python would ignore an exception in the remaining cleanup. If
      false, the previous handlers are restored.

  Yields:
    The stop request. It also records a signal whose exception was lost.
  """
  global _command, _deferrals, _ended
  previous = {number: signal.getsignal(number) for number in NUMBERS}
  previous = {number: old for number, old in previous.items() if old != signal.SIG_IGN}
  _command, _deferrals, _ended = StopRequest(), 0, False
  for number in previous:
    signal.signal(number, _on_signal)
  try:
    yield _command
  finally:
    _ended = True
    if _command.signal_number is not None:
      signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in previous.items():
      signal.signal(number, signal.SIG_DFL if ends_process else handler)
    if not ends_process:
      _command = StopRequest()


def acknowledge() -> None:
  """End the retries, because the command has caught `Interrupted`.

  To be called while it is handled: a retry after that would raise it again, in the cleanup.
  """
  global _ended
  _ended = True
  signal.setitimer(signal.ITIMER_REAL, 0)


def _on_signal(number: int, frame: types.FrameType | None) -> None:
  if _command.signal_number is None:
    _command.signal_number = number
    _raise_when_safe(number, frame)
  elif number == signal.SIGINT:  # SIGTERM is ignored: `timeout` and some schedulers send several.
    os._exit(128 + number)


def _raise_when_safe(number: int, frame: types.FrameType | None) -> None:
  """Raise `Interrupted` if this is safe and it is not propagating already; retry by SIGALRM."""
  if _deferrals or _ended:
    return
  signal.signal(signal.SIGALRM, _raise_when_safe)
  signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
  if _is_safe(frame) and not _is_on_its_way():
    _command.raise_if_stopped()


def _is_on_its_way() -> bool:
  """Return whether the main thread handles an `Interrupted`, or an exception raised during it."""
  error = sys.exc_info()[1]
  while error is not None and not isinstance(error, Interrupted):
    error = error.__context__
  return error is not None


def _is_safe(frame: types.FrameType | None) -> bool:
  """Return whether an exception that is raised in this frame reaches its callers."""
  callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
  while frame is not None:
    code = frame.f_code
    if code in callbacks or code.co_name == "__del__" or "ExtensionFileLoader" in code.co_qualname:
      return False
    frame = frame.f_back
  return True


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Defer the first signal to the next `raise_if_stopped` or to the end of the context."""
  global _deferrals
  raise_if_stopped()
  _deferrals += 1
  try:
    yield
  finally:
    _deferrals -= 1
  raise_if_stopped()


def signal_number() -> int:
  """Return the signal that asked the command to stop, or 0."""
  return _command.signal_number or 0


def raise_if_stopped() -> None:
  """Raise `Interrupted` if the command was asked to stop."""
  _command.raise_if_stopped()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Record the first SIGTERM or SIGINT without raising it. A second SIGINT acts immediately.

  If the block ends without an exception, nothing in it may have looked at the signal. The command
  then has it, so that its later work stops and its status names the signal.

  Yields:
    The stop request.
  """
  request = StopRequest()
  request.signal_number = _command.signal_number
  previous = {number: signal.getsignal(number) for number in NUMBERS}

  def record(number, frame):
    second = request.signal_number is not None
    request.signal_number = number
    if second and number == signal.SIGINT:
      restore()
      signal.raise_signal(number)

  def restore():
    for number, handler in previous.items():
      signal.signal(number, handler)

  for number in previous:
    signal.signal(number, record)
  try:
    yield request
  finally:
    restore()
  if not _ended and _command.signal_number is None:
    _command.signal_number = request.signal_number


@contextlib.contextmanager
def announced(first: Callable[[str], str], forced: Callable[[], str]) -> Iterator[None]:
  """Print a line as soon as a signal arrives, and end the process at a second SIGINT.

  Outside of a command, as in a notebook, nothing is printed and the process is not ended.

  Args:
    first: A function from the name of the first signal to the line, or to an empty string.
    forced: A function that returns the line before the process ends, or an empty string. The
      process ends without the line if it fails or takes longer than FORCED_WITHIN seconds.
  """
  if _ended:
    yield
    return
  source, sink = os.pipe()
  os.set_blocking(sink, False)
  thread = threading.Thread(target=_announce, args=(source, first, forced), daemon=True)
  thread.start()
  previous = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
  try:
    yield
  finally:
    signal.set_wakeup_fd(previous)
    os.close(sink)
    thread.join()
    os.close(source)


def _announce(source: int, first: Callable[[str], str], forced: Callable[[], str]) -> None:
  """Answer the signals whose numbers are read from a pipe, until it is closed."""
  asked = False
  while number := os.read(source, 1):
    if number[0] not in NUMBERS:
      continue
    if not asked:
      asked = True
      _print_now(first(signal.Signals(number[0]).name))
    elif number[0] == SIGINT:
      _end_now(forced)


def _end_now(forced: Callable[[], str]) -> None:
  """Print the last line and end the process, even if the line cannot be made."""
  limit = threading.Timer(FORCED_WITHIN, os._exit, [128 + SIGINT])
  limit.daemon = True
  limit.start()
  with contextlib.suppress(Exception):  # the line may need a bucket that cannot be reached
    _print_now(forced())
  os._exit(128 + SIGINT)


def _print_now(line: str) -> None:
  """Write a line to stderr without its buffer and lock, which the main thread may hold."""
  if line:
    with contextlib.suppress(OSError):  # the terminal is gone
      # In a terminal, a progress bar may precede.
      os.write(2, f"{chr(10) if os.isatty(2) else ''}{line}\n".encode())
