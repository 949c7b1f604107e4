"""Sound files to log-mels by Apache Beam, wherever it runs."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data import prepare
from atgcn_jax.data.tfds_files import Plan, example
from atgcn_jax.errors import UserError

ROWS = 4096  # rows of the label list a worker takes at a time
UNREADABLE = "unreadable.csv"


def sound_examples(folder: Any, plan: Plan, audio: str) -> Any:
  """The Beam transform that makes (key, example) of sound files.

  The rows of the list go to the workers as files in `folder`, as a pipeline's own description must
  stay small. What cannot be read as sound goes to files `unreadable-…` there.
  """
  import apache_beam as beam

  rows = [(number, *row) for number, row in enumerate(zip(plan.clip_ids, plan.folds, plan.labels))]
  files = []
  for start in range(0, len(rows), ROWS):
    file = folder / f"rows-{start:09d}.json"
    file.write_text(json.dumps(rows[start : start + ROWS]))
    files.append(os.fspath(file))

  @beam.ptransform_fn
  def examples(pipeline):
    made = (
      pipeline
      | "Lists" >> beam.Create(files)
      | "Rows" >> beam.FlatMap(rows_of)
      | "Spread" >> beam.Reshuffle()
      | "LogMels"
      >> beam.FlatMap(
        sound_example, audio=audio, settings=plan.frontend, dtype=plan.dtype
      ).with_outputs("unreadable", main="clips")
    )
    _ = made.unreadable | "Unreadable" >> beam.io.WriteToText(os.fspath(folder / "unreadable"))
    return made.clips

  return examples()


def rows_of(file: str) -> list[Any]:
  """The rows [number, id, fold, labels] of a file."""
  from etils import epath

  return json.loads(epath.Path(file).read_text())


def sound_example(row: Any, audio: str, settings: Frontend, dtype: str) -> Iterator[Any]:
  """(number, example) of a row, or what keeps it from being read as the output `unreadable`."""
  import apache_beam as beam

  number, clip_id, fold, labels = row
  _keep_off_accelerators()
  try:
    (log_mel,), (peak,) = prepare.log_mel_chunk(
      functools.partial(load_sound, audio, settings), settings, dtype, [clip_id]
    )
  except UserError as error:
    beam.metrics.Metrics.counter("atgcn_jax", "unreadable").inc()
    yield beam.pvalue.TaggedOutput("unreadable", json.dumps([clip_id, str(error)]))
    return
  yield number, example((clip_id, fold, labels), log_mel, peak)


@functools.cache
def _keep_off_accelerators() -> None:
  import jax

  jax.config.update("jax_platforms", "cpu")


def load_sound(folder: str, settings: Frontend, filename: str) -> np.ndarray:
  """As `prepare.load_clip`, also from a bucket.

  Raises:
    UserError: for a file that is missing or cannot be read as sound.
  """
  if "://" not in folder:
    return prepare.load_clip(folder, settings, filename)
  from etils import epath

  path = epath.Path(folder) / filename
  try:
    return prepare.clip_of(path.read_bytes(), settings)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def collected(folder: Any) -> list[tuple[str, str]]:
  """(file name, reason) of what could not be read, also written as UNREADABLE if there is any.

  The files that the Beam pipeline left for this are removed.
  """
  left = list(folder.glob("unreadable-*"))
  lines = [line for file in left for line in file.read_text().splitlines()]
  unreadable = sorted(tuple(json.loads(line)) for line in lines)
  for file in [*left, *folder.glob("rows-*.json")]:
    file.unlink()
  if unreadable:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("filename", "reason"), *unreadable])
    (folder / UNREADABLE).write_text(text.getvalue())
  return unreadable
