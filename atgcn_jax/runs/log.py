"""What a training run tells: metrics.jsonl, TensorBoard files, and the terminal."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tqdm import tqdm

from atgcn_jax.runs.scalars import open_scalars, write_scalars
from atgcn_jax.training.checkpoint import writing

METRICS = "metrics.jsonl"
QUIET_SECONDS = 15  # between two lines where the terminal is none
FLUSH_SECONDS = 30  # between two writings of the TensorBoard file, which may lie far away


def read_records(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of a run's metrics.jsonl; a last line cut short is passed over."""
  path = pathlib.Path(workdir) / METRICS
  if not path.is_file():
    return []
  records = []
  for line in path.read_text().splitlines():
    try:
      records.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return records


class RunLog:
  """Writes records as they come; one object a start of a run."""

  def __init__(
    self, workdir: str | os.PathLike, start: int, steps: int, batch: int, title: str = ""
  ):
    """Open the files of a run that begins at step `start`; what lies beyond it is dropped.

    Args:
      title: of one among many runs, set before all it says; it is then told by its bar alone.
    Raises:
      WorkFailed: if they cannot be written; so do `record`, `evaluated` and `close`.
    """
    self.workdir = workdir
    self.steps, self.batch, self.title = steps, batch, title
    path = pathlib.Path(workdir) / METRICS
    kept = [record for record in read_records(workdir) if record["step"] <= start]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    with writing(workdir, METRICS):
      if not path.is_file() or path.read_text() != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
      self._file = path.open("a")
    self._tensorboard_folder = str(pathlib.Path(workdir) / "tensorboard")
    self._tensorboard: EventsWriter | None = None
    self._flushed = 0.0
    self._bar = tqdm(
      total=steps * batch,
      initial=start * batch,
      desc=title or None,
      unit="clip",
      unit_scale=True,
      disable=None,
    )
    self._began, self._start, self._spoke = time.monotonic(), start, 0.0

  def stepped(self, step: int) -> None:
    """Move the bar: `step` updates are done."""
    self._bar.update(self.batch)
    if self._bar.disable and time.monotonic() - self._spoke > QUIET_SECONDS:
      self._spoke = time.monotonic()
      rate = (step - self._start) / (self._spoke - self._began)
      left = datetime.timedelta(seconds=round((self.steps - step) / rate))
      self.say(f"step {step} of {self.steps}, {rate * self.batch:.1f} clips/s, {left} left")

  def record(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
    """Write one record, None for what is undefined; `prefix` groups its values in TensorBoard."""
    with writing(self.workdir, f"{METRICS} of step {step}"):
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      self._file.flush()
    with writing(self.workdir, f"the TensorBoard file of step {step}"):
      if self._tensorboard is None:  # not before there is a record: a finished run leaves no file
        purge = self._start + 1 if self._start else None
        self._tensorboard = open_scalars(self._tensorboard_folder, purge)
      shown = {f"{prefix}/{name}": x for name, x in values.items() if x is not None}
      write_scalars(self._tensorboard, shown, step)
      if time.monotonic() - self._flushed > FLUSH_SECONDS:
        self._tensorboard.flush()
        self._flushed = time.monotonic()
    if "loss" in values:
      self._bar.set_postfix_str(f"step {step}, loss {values['loss']:.4f}")

  def say(self, message: str) -> None:
    """A line on stderr that does not tear the bar."""
    self._bar.write(f"{self.title}: {message}" if self.title else message, file=sys.stderr)

  def evaluated(self, step: int, values: Mapping[str, float | None]) -> None:
    """Record the figures of a validation, and say them."""
    self.record(step, values, "validation")
    if not self.title:
      figures = (f"{name} {value:.4f}" for name, value in values.items() if value is not None)
      self.say(f"step {step}: validation {', '.join(figures)}")

  def close(self) -> None:
    """Flush and close all."""
    self._bar.close()
    with writing(self.workdir, "the log"):
      self._file.close()
      if self._tensorboard is not None:
        self._tensorboard.close()
