"""The pace of a run: what its log tells of it, which host lags, and traces for the profiler."""

from __future__ import annotations

import os
import pathlib
import statistics
import time

import jax
import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.runs.log import TENSORBOARD
from atgcn_jax.runtime.buckets import in_bucket, path_of
from atgcn_jax.runtime.process_setup import peak_bytes

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
    UserError: if the run does not come by its first step.
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
    UserError: for anything else.
  """
  first, _, count = text.partition(":")
  if not (first.isdecimal() and count.isdecimal() and int(count) > 0):
    raise UserError(f"--profile {text}: write STEP:COUNT, the first step and how many, as 100:3")
  return int(first), int(count)
