"""The log of a training run: metrics.jsonl, TensorBoard files and terminal output."""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tqdm import tqdm

from atgcn_jax.runs.growing_files import growing_file
from atgcn_jax.runs.records import METRICS, read_records
from atgcn_jax.runs.tensorboard import open_scalars, write_scalars
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.training.checkpoint import report_write_failures

TENSORBOARD = "tensorboard"
PROGRESS_SECONDS = 60  # seconds between two progress lines
FLUSH_SECONDS = 30  # between two flushes of the TensorBoard file, which may be on slow storage


def metrics_text(values: Mapping[str, float | None], clips: int) -> str:
  """Return the metrics of a validation as text, with the reason if some are undefined.

  Args:
    values: The metrics by name, None if undefined.
    clips: The number of validation clips.
  """
  figures = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
  *others, last = [name for name, value in values.items() if value is None] or [""]
  if not last:
    return figures
  if figures:  # only d' can be undefined on its own: it is infinite for a mean AUC of 0 or 1
    return f"{figures}; {last} is infinite"
  if clips == 1:
    why = "there is only one validation clip, but a label needs a clip with it and one without it"
  else:
    why = f"each label is in all or in none of the {clips} validation clips"
  return f"{', '.join(others)} and {last} are undefined: {why}"


class RunLog:
  """The log of a run, from one start or resume to its end."""

  def __init__(
    self, workdir: str | os.PathLike, start: int, steps: int, batch: int, title: str = ""
  ):
    """Open the log files of a run. Records after step `start` are removed.

    Args:
      workdir: The run directory.
      start: The step at which training starts or resumes.
      steps: The last step.
      batch: The number of clips per step.
      title: The name of one of several runs. It precedes each message. If set, progress is only
        shown by the bar.

    Raises:
      WorkFailed: If a file cannot be written; also raised by `record`, `evaluated` and `close`.
    """
    self.workdir = workdir
    self.steps, self.batch, self.title = steps, batch, title
    records = [record for record in read_records(workdir) if record["step"] <= start]
    text = "".join(json.dumps(record) + "\n" for record in records)
    with report_write_failures(workdir, METRICS):
      self._file = growing_file(path_of(workdir) / METRICS, text)
    self._tensorboard_folder = str(path_of(workdir) / TENSORBOARD)
    self._tensorboard: EventsWriter | None = None
    self._flushed = 0.0
    self._bar = tqdm(total=steps, initial=start, desc=title or None, unit="step", disable=None)
    self._start, self._last_line = start, float("-inf")

  def stepped(self, step: int) -> None:
    """Move the bar. `step` updates have been started, and all but the last are complete."""
    self._move(step - 1)

  def _move(self, done: int) -> None:
    """Show this number of steps. The rate excludes the first step, which includes compilation."""
    if done > self._start == self._bar.n:
      self._bar.n = self._bar.initial = self._bar.last_print_n = done
      self._bar.unpause()
    elif done > self._bar.n:
      self._bar.update(done - self._bar.n)

  def resumed(self) -> None:
    """Exclude the time since the last step, such as an evaluation, from the rate of the bar."""
    self._bar.unpause()

  def progress_is_due(self) -> bool:
    """Return whether a progress line is due, which is once a minute."""
    return not self.title and time.monotonic() - self._last_line >= PROGRESS_SECONDS

  def report_progress(self, step: int, loss: float, pace: Mapping[str, float]) -> None:
    """Print a progress line.

    Args:
      step: The number of complete steps.
      loss: The loss of the last step.
      pace: The values of `Pace.figures`.
    """
    self._last_line = time.monotonic()
    rate = pace["clips_per_second"]
    left = datetime.timedelta(seconds=round((self.steps - step) * self.batch / rate))
    self.say(
      f"step {step} of {self.steps}: loss {loss:.4f}, {rate:.1f} clips/s "
      f"({pace['clips_per_second_per_chip']:.1f} per chip), input wait {pace['input_wait']:.0%}, "
      f"memory {pace['memory_bytes'] / 2**30:.2f} GiB, {left} left"
    )

  def record(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
    """Write one record. Undefined values are None. `prefix` groups the values in TensorBoard."""
    with report_write_failures(self.workdir, f"{METRICS} of step {step}"):
      self._file.write((json.dumps({"step": step, **values}) + "\n").encode())
    with report_write_failures(self.workdir, f"the TensorBoard file of step {step}"):
      if self._tensorboard is None:  # opened at the first record, so a finished run adds no file
        self._tensorboard = open_scalars(self._tensorboard_folder, self._start + 1)
      shown = {f"{prefix}/{name}": x for name, x in values.items() if x is not None}
      write_scalars(self._tensorboard, shown, step)
      if time.monotonic() - self._flushed > FLUSH_SECONDS:
        self._tensorboard.flush()
        self._flushed = time.monotonic()
    if "loss" in values:
      self._move(step)
      self._bar.set_postfix_str(f"loss {values['loss']:.4f} at step {step}")

  def say(self, message: str) -> None:
    """Print a line to stderr above the bar."""
    self._bar.write(f"{self.title}: {message}" if self.title else message, file=sys.stderr)

  def evaluated(self, step: int, values: Mapping[str, float | None], clips: int) -> None:
    """Record and print the metrics of a validation on this number of clips."""
    self.record(step, values, "validation")
    self._file.flush()
    if not self.title:
      self.say(f"step {step}: validation {metrics_text(values, clips)}")

  def close(self) -> None:
    """Flush and close the files and the bar."""
    self._bar.close()
    with report_write_failures(self.workdir, "the log"):
      self._file.close()
      if self._tensorboard is not None:
        self._tensorboard.close()


class NoLog(RunLog):
  """A log that writes nothing, for all processes except process 0."""

  def __init__(self):
    self.title = ""

  def stepped(self, step: int) -> None:
    """Do nothing."""

  def progress_is_due(self) -> bool:
    """Return False."""
    return False

  def resumed(self) -> None:
    """Do nothing."""

  def record(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
    """Do nothing."""

  def evaluated(self, step: int, values: Mapping[str, float | None], clips: int) -> None:
    """Do nothing."""

  def say(self, message: str) -> None:
    """Do nothing."""

  def close(self) -> None:
    """Do nothing."""


def open_log(
  workdir: str | os.PathLike, start: int, steps: int, batch: int, title: str = ""
) -> RunLog:
  """Return the `RunLog` of a run in process 0, and a `NoLog` in other processes."""
  return NoLog() if jax.process_index() else RunLog(workdir, start, steps, batch, title)


def finite_or_none(value: Any) -> float | None:
  """Return the value as a float, or None if it is NaN or infinite, which JSON cannot represent."""
  return float(value) if math.isfinite(value) else None
