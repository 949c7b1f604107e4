"""Telemetry of a training: throughput, lagging hosts, and traces for the profiler."""

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

LAGS_BY = 0.1  # share of the time that a host must be busy beyond the others to count as lagging


class Pace:
  """Throughput and use of time since a step."""

  def __init__(self, step: int, batch: int):
    self.batch = batch
    self.restart(step)

  def restart(self, step: int) -> None:
    """Restart the measurement at this step."""
    self.step, self._began = step, time.monotonic()
    self._busy = self._waited = np.zeros(jax.process_count())

  def add(self, busy: np.ndarray, waited: np.ndarray) -> None:
    """Add the seconds that each process was busy on the host, and waited for input, in a step."""
    self._busy, self._waited = self._busy + busy, self._waited + waited

  def add_own(self, busy: float, waited: float) -> None:
    """Add the seconds of a step for this process only."""
    mine = np.arange(len(self._busy)) == jax.process_index()
    self.add(busy * mine, waited * mine)

  @property
  def seconds(self) -> float:
    """The seconds since the start of the measurement."""
    return time.monotonic() - self._began

  def figures(self, step: int) -> dict[str, float]:
    """Return the figures for the log.

    Args:
      step: The number of complete steps.

    Returns:
      `clips_per_second`; `clips_per_second_per_chip`; `input_wait`, the share of the time that the
      process that waited longest waited for input; and `memory_bytes`, the peak memory of a device
      of this process, or of the process itself on a CPU.
    """
    rate = (step - self.step) * self.batch / self.seconds
    return {
      "clips_per_second": rate,
      "clips_per_second_per_chip": rate / jax.device_count(),
      "input_wait": float(self._waited.max()) / self.seconds,
      "memory_bytes": float(peak_bytes()),
    }

  def laggard(self, hosts: list[str]) -> str:
    """Return a message about the process that slows down the others, or an empty string.

    All processes take the same time per step, because they wait for each other. The lagging process
    is busy on its host while the others wait.
    """
    shares = self._busy / self.seconds
    usual, most = statistics.median_low(shares), int(shares.argmax())
    if shares[most] < usual + LAGS_BY or shares[most] < 1.5 * usual:
      return ""
    waited = self._waited[most] / self.seconds
    return (
      f"process {most} of {len(hosts)} on {hosts[most]} lags: its host is busy {shares[most]:.0%} "
      f"of the time, waiting for input {waited:.0%}; other hosts are usually busy {usual:.0%}"
    )


class Telemetry:
  """The heartbeat, throughput, trace and log of a training.

  The order of calls in a step is `next_batch`, `dispatched`, `end_step`, and `record` if due.
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
    """Start the telemetry of a training.

    Args:
      log: The log.
      trace: The trace.
      stop: The stop request of this process.
      mesh: The device mesh.
      start: The step at which training starts or resumes.
      batch: The number of clips per step.
    """
    self.log, self._trace, self._stop = log, trace, stop
    self._pulse, self._hosts, self._start = Pulse(mesh, 3), host_names(), start
    self._since_record, self._since_line = Pace(start, batch), Pace(start, batch)
    self._asked = self._received = self._busy = self._waited = 0.0

  def beat(self) -> np.ndarray:
    """Exchange the times of the previous step with the other processes.

    Returns:
      float32[2, processes], the busy and the waiting seconds of each process.

    Raises:
      Stopped: If any process received a signal.
    """
    known = self._pulse.beat([self._stop.signal_number or 0, self._busy, self._waited])
    if number := int(known[:, 0].max()):
      raise Stopped(number)
    return known[:, 1:].T.copy()

  def next_batch(self, step: int, feed: Feed) -> Any:
    """Send a heartbeat, start the trace if it starts at this step, and return the next batch."""
    known = self.beat()
    self._since_line.add(*known)  # the same step for all processes, so the times are comparable
    known[:, jax.process_index()] = 0  # the own times were added earlier
    self._since_record.add(*known)
    self._trace.before(step)
    self._asked = time.monotonic()
    batch = next(feed.given)
    self._received = time.monotonic()
    return batch

  def dispatched(self) -> None:
    """Take the time after the step was dispatched to the devices."""
    self._busy, self._waited = time.monotonic() - self._asked, self._received - self._asked

  def end_step(self, step: int, before: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Add the step to the throughput, end the trace, move the bar, and print a line if due.

    Args:
      step: The step.
      before: The metrics of the previous step, which is complete.
      metrics: The metrics of this step, which may still run.
    """
    # Exclude the first step, which includes compilation. Several processes know its times two steps
    # later. This step began before the restart, so its times do not count either.
    if 0 < step - self._start <= min(2, jax.process_count()):
      self._restart_pace(step)
    else:
      self._since_record.add_own(self._busy, self._waited)
    if step > self._since_line.step and self.log.progress_is_due():
      self.log.report_progress(step, float(before["loss"]), self._since_line.figures(step))
      if lag := self._since_line.laggard(self._hosts):
        self.log.say(lag)
      self._since_line.restart(step)
    self._trace.after(step, metrics)
    self.log.stepped(step + 1)

  def record(self, step: int, metrics: dict[str, Any], learning_rate: float) -> None:
    """Write the metrics, the learning rate and the throughput after `step` steps to the log."""
    values = {name: float(value) for name, value in metrics.items()}
    values["learning_rate"] = learning_rate
    self.log.record(step, values | self._since_record.figures(step), "train")
    self._since_record.restart(step)

  def restart(self, step: int) -> None:
    """Exclude the time since the last step, such as an evaluation, from the throughput."""
    self._restart_pace(step)
    self.log.resumed()

  def _restart_pace(self, step: int) -> None:
    self._since_record.restart(step)
    self._since_line.restart(step)


def trace_options() -> jax.profiler.ProfileOptions:
  """Return options to trace XLA and the host, but not Python calls.

  Tracing the Python calls of all threads has crashed.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  return options


class Profile:
  """An XLA trace of some steps, written where the profiler of TensorBoard reads it."""

  def __init__(self, folder: pathlib.Path, first: int, count: int):
    self.folder, self.first, self.count, self._open = folder, first, count, False

  def before(self, step: int) -> None:
    """Start the trace if this is its first step."""
    if step == self.first:
      jax.profiler.start_trace(str(self.folder), profiler_options=trace_options())
      self._open = True

  def after(self, step: int, result: object) -> None:
    """Wait for the result and end the trace if this is its last step."""
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
  """Return the requested trace, or one that never starts.

  Args:
    asked: The first step and the number of steps, or None for no trace.
    start: The step at which training starts or resumes.
    steps: The last step.
    workdir: The run directory.

  Raises:
    UserError: If the run is finished, training does not include the first step of the trace, or
      `workdir` is in a bucket.
  """
  first, count = asked or (-1, 0)
  if asked and start >= steps:
    raise UserError(
      f"--profile {first}:{count}: the run is already at step {start}, so there is no step to "
      "trace; train further with --config.optim.steps"
    )
  if asked and not start <= first < steps:
    raise UserError(
      f"--profile {first}:{count}: training runs from step {start} to {steps - 1}; start at one of "
      "these"
    )
  if asked and in_bucket(workdir):
    raise UserError(
      f"--profile: {workdir} is in a bucket, where no trace can be written; train a few steps in a "
      "folder on a disk"
    )
  return Profile(path_of(workdir) / TENSORBOARD, first, count)


def parsed_profile(text: str) -> tuple[int, int]:
  """Parse STEP:COUNT.

  Raises:
    UserError: If the text has another form.
  """
  first, _, count = text.partition(":")
  if not (first.isdecimal() and count.isdecimal() and int(count) > 0):
    raise UserError(
      f"--profile {text}: must be STEP:COUNT, the first step and the number of steps, such as 100:3"
    )
  return int(first), int(count)
