"""The files of an evaluation: JSON, a CSV by class, and the page."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.data.clip_sounds import SoundOf, sounds_in_folder, soundscape_sounds
from atgcn_jax.labels.sparse import selected
from atgcn_jax.reports.clip_media import sound_address, spectrogram_address
from atgcn_jax.reports.confusions import Mistake, break_even_thresholds, worst_mistakes
from atgcn_jax.reports.page import write_report
from atgcn_jax.reports.page_mistakes import Example
from atgcn_jax.runs.config import plain_config
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.parts import system_name
from atgcn_jax.runs.records import read_records
from atgcn_jax.runs.scoring import ScoredSplit
from atgcn_jax.runs.thresholds import read_thresholds
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import write_whole

FOLDER = "evaluation"
MISTAKES = 8  # number of clips in each list of mistakes


class Place(NamedTuple):
  """Where the files of an evaluation are written.

  Attributes:
    workdir: The run directory.
    out: The folder of all files, or None for the run directory and its folder of evaluations.
    is_own: Whether the store is the training store of the run.
    is_default: Whether the page is the run's `report.html`.
  """

  workdir: pathlib.Path
  out: str | os.PathLike | None
  is_own: bool
  is_default: bool


def write_files(
  place: Place,
  scored: ScoredSplit,
  result: dict[str, Any],
  metrics: dict[str, Any],
  audio: str | os.PathLike | None,
) -> str:
  """Write the JSON, the CSV per class and the page of an evaluation, and return the page's path.

  Args:
    place: Where to write.
    scored: The scores.
    result: The result of `evaluate`.
    metrics: The result of `tagging_metrics`.
    audio: The folder of the sounds, or None.

  Raises:
    OSError: If a file cannot be written.
  """
  folder = place.workdir / FOLDER if place.out is None else path_of(place.out)
  folder.mkdir(parents=True, exist_ok=True)
  stem = _stem(result, place.is_own)
  page = folder / f"{stem}.html"
  if place.is_default:
    page = (place.workdir if place.out is None else folder) / "report.html"
  write_whole(folder / f"{stem}.json", f"{json.dumps(result, indent=2)}\n".encode())
  write_whole(folder / f"{stem}.csv", _table_by_class(scored, metrics).encode())
  run, scores, labels = scored.loaded.run, scored.scores, scored.labels
  vectors, graph = None, None
  if "added" not in result:  # estimated labels have no vectors of their own under a linear head
    vectors = run.label_vectors(scored.loaded.state)[scored.columns]
    graph = None if run.propagation is None else selected(run.propagation, scored.columns)
  thresholds = _thresholds(place.workdir, scored)
  sound_of = _sounds(scored, audio, place.is_own)
  rule = break_even_thresholds(scores, labels) if thresholds is None else thresholds
  heard, missed = worst_mistakes(scores, labels, rule, MISTAKES)
  examples = [_examples(scored, mistakes, sound_of) for mistakes in (heard, missed)]
  if audio is not None and not any(one.sound for part in examples for one in part):
    warnings.warn(
      f"--audio {os.fspath(audio)}: has none of the clips on the page, such as "
      f"{scored.clip_ids[0]}; name the folder that was given to `atgcn prepare`",
      stacklevel=2,
    )
  write_report(
    page,
    title=_title(system_name(run.config.model), place, result),
    result=result,
    records=read_records(place.workdir),
    vocabulary=scored.vocabulary,
    scores=scores,
    labels=labels,
    average_precision=metrics["average_precision"],
    auc=metrics["auc"],
    thresholds=thresholds,
    heard=examples[0],
    missed=examples[1],
    label_vectors=vectors,
    propagation=graph,
    config=plain_config(run.config),
  )
  return str(page)


def _thresholds(workdir: pathlib.Path, scored: ScoredSplit) -> np.ndarray | None:
  """Return the thresholds of the run at the step of the scores, float64[K], or None without them.

  Added labels, which the run has no thresholds for, have their break-even thresholds.
  """
  stored = read_thresholds(workdir)
  if stored is None or stored.step != scored.loaded.step:
    return None
  known = scored.columns < len(scored.loaded.run.vocabulary)
  others = break_even_thresholds(scored.scores, scored.labels)
  return np.where(known, stored.of(scored.vocabulary), others)


def _title(system: str, place: Place, result: dict[str, Any]) -> str:
  """Return the title of the page: the system, the run and what was evaluated."""
  run = os.path.basename(os.path.abspath(place.workdir))  # the folder may be named as "."
  parts = [f"run {run}", f"split {result['split']}", f"step {result['step']}"]
  if not place.is_own:
    parts.append(f"store {result['store']}")
  parts += [f"{key} {result[key]}" for key in ("labels", "added") if key in result]
  return f"{system}: {', '.join(parts)}"


def _stem(result: dict[str, Any], is_own: bool) -> str:
  """Return the name of the files without suffix."""
  stem = f"{result['split']}-{result['step']}"
  if not is_own:
    name = result["store"].removesuffix(".h5").replace("/", "-")
    stem += f"-{name:.80}-{result['store_fingerprint'][:8]}"
  for key in ("labels", "added"):
    if key in result:
      stem += f"-{pathlib.Path(result[key]).stem}"
  return stem


def _table_by_class(scored: ScoredSplit, metrics: dict[str, Any]) -> str:
  """Return the metrics of each class as CSV."""
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(["mid", "display_name", "positives", "average_precision", "auc"])
  writer.writerows(
    zip(
      scored.vocabulary.ids,
      scored.vocabulary.names,
      scored.labels.sum(axis=0, dtype=np.int64),
      metrics["average_precision"],
      metrics["auc"],
    )
  )
  return table.getvalue()


def _sounds(scored: ScoredSplit, audio: str | os.PathLike | None, is_own: bool) -> SoundOf | None:
  """Return the sounds of the store's clips, or None if they are not known."""
  if audio is not None:
    return sounds_in_folder(audio, scored.store.frontend)
  is_built_in = is_own and scored.loaded.run.config.data.store == SOUNDSCAPES
  return soundscape_sounds() if is_built_in else None


def _examples(
  scored: ScoredSplit, mistakes: Sequence[Mistake], sound_of: SoundOf | None
) -> list[Example]:
  """Return mistakes with the pictures and sounds of their clips."""
  examples = []
  for mistake in mistakes:
    clip_id = str(scored.clip_ids[mistake.clip])
    waveform = None if sound_of is None else sound_of(clip_id)
    heard = "" if waveform is None else sound_address(waveform, scored.store.frontend.sample_rate)
    picture = spectrogram_address(scored.store, int(scored.clips[mistake.clip]))
    examples.append(Example(mistake, clip_id, picture, heard))
  return examples
