"""Apache Beam pipeline that converts sound files to log-mels."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.label_list import list_labelled, listed
from atgcn_jax.data.layouts.listing import Clip, Listing, check_audio_folder, loaded
from atgcn_jax.data.store.findings_table import flags_of, missing_of
from atgcn_jax.data.store.store_builder import outcome
from atgcn_jax.data.tfds.description import NUMBERS, DatasetPlan
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

ROWS = 4096  # number of rows of the label list per file for the workers
UNREADABLE = "unreadable.csv"


def list_sounds(
  audio: str, labels: str, settings: Frontend, vocabulary: Vocabulary | None
) -> Listing:
  """List the files of a label list in a folder or bucket; see `label_list.list_labelled`."""
  if "://" in audio:
    return listed(labels, vocabulary, functools.partial(load_remote, audio, settings), audio)
  return list_labelled(audio, labels, settings, vocabulary)


def load_remote(folder: str, settings: Frontend, filename: str) -> Clip:
  """Load a sound file from a bucket, at the front end's sample rate.

  Raises:
    UserError: If the file does not exist or cannot be read as sound.
  """
  from etils import epath

  try:
    content = (epath.Path(folder) / filename).read_bytes()
  except FileNotFoundError:
    raise UserError("no such file; check the path") from None
  return loaded(content, settings)


def sound_examples(folder: Any, plan: DatasetPlan, listing: Listing, strict: bool = False) -> Any:
  """Return the Beam transform that converts sound files to (key, example) pairs.

  The rows of the listing are passed to the workers as files in `folder`, because the description
  of a pipeline must be small. Unreadable files are recorded in files `unreadable-…` in `folder`.

  Args:
    folder: Folder of the dataset.
    plan: Plan of the dataset.
    listing: The sound files.
    strict: Whether sounds with a missing part count as unreadable.
  """
  import apache_beam as beam

  rows = list(enumerate(zip(listing.sources, plan.rows())))
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
      | "Rows" >> beam.FlatMap(read_rows)
      | "Spread" >> beam.Reshuffle()
      | "LogMels"
      >> beam.FlatMap(
        sound_example, listing.load, listing.root, plan.frontend, plan.dtype, strict
      ).with_outputs("unreadable", main="clips")
    )
    _ = made.unreadable | "Unreadable" >> beam.io.WriteToText(os.fspath(folder / "unreadable"))
    return made.clips

  return examples()


def read_rows(file: str) -> list[Any]:
  """Read the rows [number, [source, row of the plan]] of a file that `sound_examples` wrote."""
  from etils import epath

  return json.loads(epath.Path(file).read_text())


def sound_example(
  row: Any,
  load: Callable[[str], Clip],
  root: str,
  settings: Frontend,
  dtype: str,
  strict: bool = False,
) -> Iterator[Any]:
  """Yield (number, example) for a row, or the reason for failure to the output `unreadable`."""
  import apache_beam as beam

  number, (source, of_plan) = row
  _keep_off_accelerators()
  clip = outcome(load, root, settings, dtype, source, strict=strict)
  if isinstance(clip, str):
    if "://" not in root:
      # A network folder may have disappeared. Its clips must not count as unreadable.
      check_audio_folder(root)
    beam.metrics.Metrics.counter("atgcn_jax", "unreadable").inc()
    yield beam.pvalue.TaggedOutput("unreadable", json.dumps([of_plan["clip_id"], clip]))
  else:
    values = clip._asdict()
    values |= {
      "findings": flags_of(clip.findings),
      "missing_seconds": missing_of(clip.findings),
    }
    numbers = {name: kind(values[name]) for name, kind in NUMBERS.items()}
    yield number, {**of_plan, **numbers, "log_mel": clip.row}


@functools.cache
def _keep_off_accelerators() -> None:
  import jax

  jax.config.update("jax_platforms", "cpu")


def collected(folder: Any) -> list[tuple[str, str]]:
  """Return (file name, reason) for each unreadable file, and write them to UNREADABLE if any.

  The temporary files of the Beam pipeline are removed.
  """
  left = list(folder.glob("unreadable-*"))
  lines = [line for file in left for line in file.read_text().splitlines()]
  unreadable = sorted(tuple(json.loads(line)) for line in lines)
  for file in [*left, *folder.glob("rows-*.json")]:
    file.unlink()
  if unreadable:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("file", "reason"), *unreadable])
    (folder / UNREADABLE).write_text(text.getvalue())
  return unreadable
