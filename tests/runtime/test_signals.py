"""SIGTERM and SIGINT in a command: raised where that is safe, deferred, never lost."""

import contextlib
import gc
import hashlib
import os
import signal
import threading
import time
import weakref

import pytest

from atgcn_jax.runtime import signals


@pytest.fixture(autouse=True)
def never_again(monkeypatch):
  """Disable the retry, so that a caught exception is not raised again."""
  monkeypatch.setattr(signals, "RETRY_SECONDS", 600)


@pytest.fixture
def soon_again(monkeypatch):
  monkeypatch.setattr(signals, "RETRY_SECONDS", 0.05)


def send(number=signal.SIGTERM):
  os.kill(os.getpid(), number)


def wait():
  """Wait for an exception from a handler."""
  end = time.monotonic() + 60
  while time.monotonic() < end:
    time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_raises(number):
  before = [signal.getsignal(n) for n in signals.NUMBERS]
  with signals.command(ends_process=False) as stop:
    with pytest.raises(signals.Interrupted) as error:
      send(number)
    assert error.value.signal_number == stop.signal_number == number
  assert [signal.getsignal(n) for n in signals.NUMBERS] == before
  signals.raise_if_stopped()


def collect_and_wait():
  gc.collect()
  wait()


@pytest.mark.usefixtures("soon_again")
def test_it_waits_for_the_garbage_collector():
  sent = []

  def callback(phase, info):
    if not sent:
      sent.append(phase)
      send()

  with signals.command(ends_process=False) as stop:
    gc.callbacks.append(callback)
    with pytest.raises(signals.Interrupted):
      collect_and_wait()
    gc.callbacks.remove(callback)
    assert stop.signal_number == signal.SIGTERM


@pytest.mark.usefixtures("soon_again")
def test_it_waits_for_a_finaliser():
  class Dying:
    def __del__(self):
      send()

  with signals.command(ends_process=False):
    del [Dying()][0]
    with pytest.raises(signals.Interrupted):
      wait()


def test_an_exception_that_a_library_catches_is_raised_again():
  with signals.command(ends_process=False):
    with contextlib.suppress(BaseException):
      send()
    with pytest.raises(signals.Interrupted):
      signals.raise_if_stopped()
    with pytest.raises(signals.Interrupted), signals.deferred():
      pytest.fail("not reached")
    with signals.stop_on_signals() as request:
      assert request.signal_number == signal.SIGTERM


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("soon_again")
def test_an_exception_that_is_ignored_in_a_callback_is_raised_again():
  class Owner:
    pass

  owner = Owner()
  reference = weakref.ref(owner, lambda _: send())
  with signals.command(ends_process=False):
    del owner
    with pytest.raises(signals.Interrupted):
      wait()
  assert reference() is None


@pytest.mark.usefixtures("soon_again")
def test_it_is_raised_once():
  ended = []
  with signals.command(ends_process=False):
    try:
      send()
    except KeyboardInterrupt:
      time.sleep(4 * signals.RETRY_SECONDS)
      ended.append(True)
  assert ended


def test_it_is_deferred():
  reached = []

  def work(*steps):
    with signals.deferred():
      for number, step in enumerate(steps):
        step()
        reached.append(number)

  for steps, expected in [
    ((signals.raise_if_stopped, send, signals.raise_if_stopped), [0, 1]),
    ((send, int), [0, 1]),
  ]:
    with signals.command(ends_process=False), pytest.raises(signals.Interrupted):
      work(*steps)
    assert reached == expected
    reached.clear()


def test_only_a_second_ctrl_c_ends_immediately(monkeypatch):
  ended = []
  monkeypatch.setattr(signals.os, "_exit", ended.append)
  with signals.command(ends_process=False):
    with pytest.raises(signals.Interrupted):
      send(signal.SIGTERM)
    send(signal.SIGTERM)  # as `timeout` does
    assert ended == []
    send(signal.SIGINT)
    assert ended == [130]


def test_a_step_ends_after_a_second_sigterm():
  with signals.command(ends_process=False), signals.stop_on_signals() as request:
    send(signal.SIGTERM)
    send(signal.SIGTERM)
    assert request.signal_number == signal.SIGTERM
    with pytest.raises(signals.Interrupted):
      send(signal.SIGINT)


def test_a_signal_that_a_block_did_not_look_at_stops_the_command():
  with signals.command(ends_process=False) as stop:
    with signals.stop_on_signals():
      send(signal.SIGTERM)
    assert stop.signal_number == signal.SIGTERM
    with pytest.raises(signals.Interrupted):
      signals.raise_if_stopped()


def test_an_error_after_a_signal_is_not_replaced_by_it():
  def fail():
    with signals.stop_on_signals():
      send(signal.SIGTERM)
      raise ZeroDivisionError

  with signals.command(ends_process=False) as stop:
    with pytest.raises(ZeroDivisionError):
      fail()
    assert stop.signal_number is None


def test_ignored_signals_stay_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with signals.command(ends_process=False) as stop:
      send(signal.SIGINT)
      assert stop.signal_number is None
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_caught_signal_is_not_raised_in_the_cleanup(soon_again):
  with signals.command(ends_process=False):
    try:
      send()
      wait()
    except signals.Interrupted:
      signals.acknowledge()
    time.sleep(0.2)  # where a retry would raise
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.fixture
def printed(monkeypatch):
  """Return a list that gets the announced lines and exit statuses. Nothing is written or ended."""
  found = []
  monkeypatch.setattr(signals, "_print_now", found.append)
  monkeypatch.setattr(signals.os, "_exit", found.append)
  return found


def after(printed, count):
  """Wait until `printed` has this many entries, and return it."""
  end = time.monotonic() + 60
  while len(printed) < count and time.monotonic() < end:
    time.sleep(0.001)
  return printed


def test_signals_are_announced_while_the_step_runs(printed):
  with signals.command(ends_process=False):
    with (
      contextlib.suppress(signals.Interrupted),
      signals.stop_on_signals() as request,
      signals.announced("stops: {}".format, lambda: "ended"),
    ):
      send(signal.SIGTERM)
      assert after(printed, 1) == ["stops: SIGTERM"]
      send(signal.SIGTERM)  # as `timeout` does
      send(signal.SIGINT)
      pytest.fail("the second one raises")
    assert request.signal_number == signal.SIGINT
    assert after(printed, 3)[:3] == ["stops: SIGTERM", "ended", 130]  # and again, if not ended
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_are_announced_while_a_compiled_function_runs(printed):
  returned = []
  with signals.command(ends_process=False), signals.stop_on_signals() as request:
    with signals.announced(lambda name: f"{name} {returned}", str):
      threading.Timer(0.1, send, [signal.SIGINT]).start()
      hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000)  # seconds, in which no handler runs
      returned.append(True)
    assert printed == ["SIGINT []"]
    assert request.signal_number == signal.SIGINT


@pytest.mark.parametrize("fails", [True, False])
def test_a_forced_stop_ends_without_its_line(printed, monkeypatch, fails):
  ended = threading.Event()

  def end(status):
    printed.append(status)
    ended.set()

  def forced():
    if fails:
      raise ConnectionError
    return str(ended.wait(10))

  monkeypatch.setattr(signals.os, "_exit", end)
  monkeypatch.setattr(signals, "FORCED_WITHIN", 600 if fails else 0.05)
  with (
    contextlib.suppress(signals.Interrupted),
    signals.command(ends_process=False),
    signals.stop_on_signals(),
    signals.announced(str, forced),
  ):
    send(signal.SIGINT)
    after(printed, 1)
    send(signal.SIGINT)
  assert printed[:2] == ["SIGINT", 130]


def test_without_a_command_nothing_is_announced(printed):
  before = signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    with signals.announced(str, str):
      send(signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert printed == []
