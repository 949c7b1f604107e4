"""The pace of a run: what its log tells of it, which host lags, and traces for the profiler."""

from __future__ import annotations

import os
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.runs.log import TENSORBOARD, RunLog
from atgcn_jax.runs.step_inputs import Feed
from atgcn_jax.runtime.buckets import in_bucket, path_of
from atgcn_jax.runtime.process_setup import peak_bytes
from atgcn_jax.runtime.processes import Pulse, host_names
from atgcn_jax.runtime.signals import Stopped, StopRequest

LAGS_BY = 0.1  # of the time: so much more than the others' a host spends before it lags


class Pace:
  """Clips a second and where the time goes, since a step."""

  def __init__(self, step: int, batch: int):
    self.batch = batch
    self.restart(step)

  def restart(self, step: int) -> None:
    """Begin anew at this step."""
    self.step, self._began = step, time.monotonic()
    self._busy = self._waited = np.zeros(jax.process_count())

  def add(self, busy: np.ndarray, waited: np.ndarray) -> None:
    """Add the seconds of a step, of each process: outside the devices, and waiting for input."""
    self._busy, self._waited = self._busy + busy, self._waited + waited

  def add_own(self, busy: float, waited: float) -> None:
    """Add the seconds of a step of this process."""
    mine = np.arange(len(self._busy)) == jax.process_index()
    self.add(busy * mine, waited * mine)

  @property
  def seconds(self) -> float:
    """Since the start."""
    return time.monotonic() - self._began

  def figures(self, step: int) -> dict[str, float]:
    """`clips_per_second`, and a chip; `input_wait`, a share of the time; `memory_bytes`.

    The wait is that of the process that waited longest; the memory is the most that a device of
    this process, or of a CPU the process, has needed so far.
    """
    rate = (step - self.step) * self.batch / self.seconds
    return {
      "clips_per_second": rate,
      "clips_per_second_per_chip": rate / jax.device_count(),
      "input_wait": float(self._waited.max()) / self.seconds,
      "memory_bytes": float(peak_bytes()),
    }

  def laggard(self, hosts: list[str]) -> str:
    """Which process holds up the others, and by what; empty where none does.

    In step with each other all take the same time; who lags has none left to wait for the others.
    """
    shares = self._busy / self.seconds
    usual, most = statistics.median_low(shares), int(shares.argmax())
    if shares[most] < usual + LAGS_BY or shares[most] < 1.5 * usual:
      return ""
    waited = self._waited[most] / self.seconds
    return (
      f"process {most} of {len(hosts)} on {hosts[most]} lags: its host is busy {shares[most]:.0%} "
      f"of the time, waiting for input {waited:.0%}; the others' usually {usual:.0%}"
    )


class Telemetry:
  """What watches a training and reports on it: heartbeat, pace, trace and log.

  The order of calls in a step: `next_batch`, `dispatched`, `end_step`, and `record` where due.
  """

  def __init__(
    self,
    log: RunLog,
    trace: Profile,
    stop: StopRequest,
    mesh: jax.sharding.Mesh,
    *,
    start: int,
    batch: int,
  ):
    """Watch a training that starts at this step.

    Args:
      stop: Of this process.
      batch: Clips in a step.
    """
    self.log, self._trace, self._stop = log, trace, stop
    self._pulse, self._hosts, self._start = Pulse(mesh, 3), host_names(), start
    self._since_record, self._since_line = Pace(start, batch), Pace(start, batch)
    self._asked = self._received = self._busy = self._waited = 0.0

  def beat(self) -> np.ndarray:
    """Exchange the seconds of the step before with the other processes: float32[2, processes].

    Raises:
      Stopped: After a signal in any process.
    """
    known = self._pulse.beat([self._stop.signal_number or 0, self._busy, self._waited])
    if number := int(known[:, 0].max()):
      raise Stopped(number)
    return known[:, 1:].T.copy()

  def next_batch(self, step: int, feed: Feed) -> Any:
    """Return the next batch of the feed, after a heartbeat; start the trace if it begins here."""
    known = self.beat()
    self._since_line.add(*known)  # of the same step for all, so that they can be compared
    known[:, jax.process_index()] = 0  # its own are known before
    self._since_record.add(*known)
    self._trace.before(step)
    self._asked = time.monotonic()
    batch = next(feed.given)
    self._received = time.monotonic()
    return batch

  def dispatched(self) -> None:
    """Take the time at which the devices had the step."""
    self._busy, self._waited = time.monotonic() - self._asked, self._received - self._asked

  def end_step(self, step: int, before: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Add the step to the pace, end the trace, move the bar, and print a line where it is time.

    Args:
      before: The metrics of the step before, which has ended.
      metrics: Those of this step, which may still run.
    """
    if step == self._start + 1:  # the first step was compiled
      self._restart_pace(step)
    self._since_record.add_own(self._busy, self._waited)
    if step > self._since_line.step and self.log.is_time_to_tell():
      self.log.tell(step, float(before["loss"]), self._since_line.figures(step))
      if lag := self._since_line.laggard(self._hosts):
        self.log.say(lag)
      self._since_line.restart(step)
    self._trace.after(step, metrics)
    self.log.stepped(step + 1)

  def record(self, step: int, metrics: dict[str, Any], learning_rate: float) -> None:
    """Write the metrics, the learning rate and the pace after `step` steps to the log."""
    values = {name: float(value) for name, value in metrics.items()}
    values["learning_rate"] = learning_rate
    self.log.record(step, values | self._since_record.figures(step), "train")
    self._since_record.restart(step)

  def restart(self, step: int) -> None:
    """Leave the time since the last step, such as of an evaluation, out of the pace."""
    self._restart_pace(step)
    self.log.resumed()

  def _restart_pace(self, step: int) -> None:
    self._since_record.restart(step)
    self._since_line.restart(step)


def trace_options() -> jax.profiler.ProfileOptions:
  """Of XLA and the host, without each Python call: following those of all threads has crashed."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  return options


class Profile:
  """An XLA trace of some steps, written where TensorBoard's profiler looks for it."""

  def __init__(self, folder: pathlib.Path, first: int, count: int):
    self.folder, self.first, self.count, self._open = folder, first, count, False

  def before(self, step: int) -> None:
    """Begin the trace if this step is its first."""
    if step == self.first:
      jax.profiler.start_trace(str(self.folder), profiler_options=trace_options())
      self._open = True

  def after(self, step: int, result: object) -> None:
    """End the trace if this step, with this result, is its last."""
    if self._open and step + 1 >= self.first + self.count:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """End the trace if it is still open."""
    if self._open:
      jax.profiler.stop_trace()
      self._open = False


def profile_of(
  asked: tuple[int, int] | None, start: int, steps: int, workdir: str | os.PathLike
) -> Profile:
  """The trace that is asked for, or one that never begins.

  Raises:
    UserError: If the run does not come by its first step.
  """
  first, count = asked or (-1, 0)
  if asked and not start <= first < steps:
    raise UserError(
      f"--profile {first}:{count}: the run goes from step {start} to {steps - 1}; name one of these"
    )
  if asked and in_bucket(workdir):
    raise UserError(
      f"--profile: {workdir} is in a bucket, where no trace can be written; train a few steps "
      "into a folder on a disk"
    )
  return Profile(path_of(workdir) / TENSORBOARD, first, count)


def parsed_profile(text: str) -> tuple[int, int]:
  """STEP:COUNT as numbers.

  Raises:
    UserError: For anything else.
  """
  first, _, count = text.partition(":")
  if not (first.isdecimal() and count.isdecimal() and int(count) > 0):
    raise UserError(f"--profile {text}: write STEP:COUNT, the first step and how many, as 100:3")
  return int(first), int(count)
