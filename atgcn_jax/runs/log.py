"""What a training run tells: metrics.jsonl, TensorBoard files, and the terminal."""

from __future__ import annotations

import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.record_writer import register_writer_factory
from tqdm import tqdm

from atgcn_jax.runs.tensorboard import open_scalars, write_scalars
from atgcn_jax.runtime.buckets import in_bucket, path_of, write_whole
from atgcn_jax.training.checkpoint import report_write_failures

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
TELL_EVERY = 60  # seconds between two lines
FLUSH_SECONDS = 30  # between two writings of the TensorBoard file, which may lie far away
BUCKET_SECONDS = 30  # between two writings of a file in a bucket


def read_records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of a run's metrics.jsonl; a last line cut short is passed over."""
  path = path_of(workdir) / METRICS
  if not path.is_file():
    return []
  records = []
  for line in path.read_text().splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records


def metrics_text(values: Mapping[str, float | None], clips: int) -> str:
  """The figures of a validation on this many clips as text, and why one is undefined."""
  figures = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if value is not None)
  *others, last = [name for name, value in values.items() if value is None] or [""]
  if not last:
    return figures
  if figures:  # of these, d' alone may be infinite: of a mean AUC of 0 or 1
    return f"{figures}; {last} is infinite"
  if clips == 1:
    why = "the only validation clip cannot be both one with and one without a label"
  else:
    why = f"each label is on all or on none of the {clips} validation clips"
  return f"{', '.join(others)} and {last} are undefined: {why}"


class _Rewritten:
  """A growing file in a bucket, where nothing can be appended to: each flush writes it anew."""

  def __init__(self, path: str | os.PathLike, content: bytes = b""):
    """A file that holds this content already."""
    self._path, self._content = path_of(path), bytearray(content)
    self._written, self._written_at = len(content), time.monotonic()

  def write(self, content: bytes) -> None:
    """Add this; it is written at the latest with the first of it after BUCKET_SECONDS."""
    self._content += content
    if time.monotonic() - self._written_at > BUCKET_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Write what was added."""
    if self._written < len(self._content):
      write_whole(self._path, bytes(self._content))
      self._written, self._written_at = len(self._content), time.monotonic()

  def close(self) -> None:
    """Write the rest."""
    self.flush()


class _EventFiles:
  """What tensorboardX asks for the files of a bucket."""

  def open(self, path: str) -> _Rewritten:
    return _Rewritten(path)

  def directory_check(self, path: str) -> None:
    """A bucket needs no folders."""


register_writer_factory("gs", _EventFiles())


def _growing(path: pathlib.Path, text: str) -> Any:
  """A binary file that holds this text and takes more."""
  if not path.is_file() or path.read_text() != text:
    write_whole(path, text.encode())
  return _Rewritten(path, text.encode()) if in_bucket(path) else path.open("ab", buffering=0)


class RunLog:
  """Writes records as they come; one object a start of a run."""

  def __init__(
    self, workdir: str | os.PathLike, start: int, steps: int, batch: int, title: str = ""
  ):
    """Open the files of a run that begins at step `start`; what lies beyond it is dropped.

    Args:
      title: Of one among many runs, set before all it says; it is then told by its bar alone.

    Raises:
      WorkFailed: If they cannot be written; so do `record`, `evaluated` and `close`.
    """
    self.workdir = workdir
    self.steps, self.batch, self.title = steps, batch, title
    kept = [record for record in read_records(workdir) if record["step"] <= start]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    with report_write_failures(workdir, METRICS):
      self._file = _growing(path_of(workdir) / METRICS, text)
    self._tensorboard_folder = str(path_of(workdir) / TENSORBOARD)
    self._tensorboard: EventsWriter | None = None
    self._flushed = 0.0
    self._bar = tqdm(total=steps, initial=start, desc=title or None, unit="step", disable=None)
    self._start, self._told = start, float("-inf")

  def stepped(self, step: int) -> None:
    """Move the bar: `step` updates have begun, all but the last of them are done."""
    self._move(step - 1)

  def _move(self, done: int) -> None:
    """Have the bar show this many steps; its rate leaves out the first, which was compiled."""
    if done > self._start == self._bar.n:
      self._bar.n = self._bar.initial = self._bar.last_print_n = done
      self._bar.unpause()
    elif done > self._bar.n:
      self._bar.update(done - self._bar.n)

  def resumed(self) -> None:
    """Leave the time since the last step, as of an evaluation, out of the rate of the bar."""
    self._bar.unpause()

  def is_time_to_tell(self) -> bool:
    """Whether a minute has passed since the last line."""
    return not self.title and time.monotonic() - self._told >= TELL_EVERY

  def tell(self, step: int, loss: float, pace: Mapping[str, float]) -> None:
    """A line on how the run goes, of what is also in TensorBoard."""
    self._told = time.monotonic()
    rate = pace["clips_per_second"]
    left = datetime.timedelta(seconds=round((self.steps - step) * self.batch / rate))
    self.say(
      f"step {step} of {self.steps}: loss {loss:.4f}, {rate:.1f} clips/s "
      f"({pace['clips_per_second_per_chip']:.1f} a chip), input wait {pace['input_wait']:.0%}, "
      f"memory {pace['memory_bytes'] / 2**30:.2f} GiB, {left} left"
    )

  def record(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
    """Write one record, None for what is undefined; `prefix` groups its values in TensorBoard."""
    with report_write_failures(self.workdir, f"{METRICS} of step {step}"):
      self._file.write((json.dumps({"step": step, **values}) + "\n").encode())
    with report_write_failures(self.workdir, f"the TensorBoard file of step {step}"):
      if self._tensorboard is None:  # not before there is a record: a finished run leaves no file
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
    """A line on stderr that does not tear the bar."""
    self._bar.write(f"{self.title}: {message}" if self.title else message, file=sys.stderr)

  def evaluated(self, step: int, values: Mapping[str, float | None], clips: int) -> None:
    """Record the figures of a validation on this many clips, and print them."""
    self.record(step, values, "validation")
    self._file.flush()
    if not self.title:
      self.say(f"step {step}: validation {metrics_text(values, clips)}")

  def close(self) -> None:
    """Flush and close all."""
    self._bar.close()
    with report_write_failures(self.workdir, "the log"):
      self._file.close()
      if self._tensorboard is not None:
        self._tensorboard.close()


class NoLog(RunLog):
  """Of the processes that leave it to the first one to tell."""

  def __init__(self):
    self.title = ""

  def stepped(self, step: int) -> None:
    """Nothing."""

  def is_time_to_tell(self) -> bool:
    """Never."""
    return False

  def resumed(self) -> None:
    """Nothing."""

  def record(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
    """Nothing."""

  def evaluated(self, step: int, values: Mapping[str, float | None], clips: int) -> None:
    """Nothing."""

  def say(self, message: str) -> None:
    """Nothing."""

  def close(self) -> None:
    """Nothing."""


def open_log(
  workdir: str | os.PathLike, start: int, steps: int, batch: int, title: str = ""
) -> RunLog:
  """The `RunLog` of the first process; the others leave telling to it."""
  return NoLog() if jax.process_index() else RunLog(workdir, start, steps, batch, title)


def finite_or_none(value: Any) -> float | None:
  """JSON has no NaN and no infinity."""
  return float(value) if math.isfinite(value) else None
