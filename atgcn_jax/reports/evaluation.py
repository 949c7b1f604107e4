"""Evaluation of a checkpoint, and its result files."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from atgcn_jax.data.layouts.listing import check_audio_folder
from atgcn_jax.data.open_clips import store_name
from atgcn_jax.errors import UserError
from atgcn_jax.intervals import intervals
from atgcn_jax.labels.ontology import (
  Ontology,
  check_labels,
  label_ancestors,
  label_distances,
  label_levels,
)
from atgcn_jax.metrics import mean_of_defined, tagging_metrics
from atgcn_jax.ontology_metrics import carried_up, map_by_level, ontology_map
from atgcn_jax.reports.evaluation_files import FOLDER, Place, write_files
from atgcn_jax.runs.calibrated_labels import labels_added
from atgcn_jax.runs.clip_ids import clip_ids_hash
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.label_graph import ontology_at, ontology_path
from atgcn_jax.runs.log import finite_or_none
from atgcn_jax.runs.resumable_scores import kept_scores
from atgcn_jax.runs.scoring import ScoredSplit, score_split
from atgcn_jax.runtime.buckets import check_output_folder, path_of
from atgcn_jax.runtime.processes import first_only


def evaluate(
  workdir: str | os.PathLike,
  *,
  step: str = "latest",
  store_path: str | None = None,
  split: str = "test",
  labels_path: str | None = None,
  out: str | os.PathLike | None = None,
  added_path: str | None = None,
  ontology: str | None = None,
  audio: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Return the metrics of a checkpoint on a split, and write them to files.

  The files in the run directory are `evaluation/SPLIT-STEP.json`, `evaluation/SPLIT-STEP.csv` (per
  class), and the page, which is `report.html` for the test split at the step `latest`, and
  `evaluation/SPLIT-STEP.html` otherwise. If the store is not the training store, they are
  `evaluation/SPLIT-STEP-STORE-HASH.json`, `.csv` and `.html`; HASH is the first 8 characters of the
  store's fingerprint. If `labels_path` or `added_path` is given, the names of all three end in the
  name of that file. If a file cannot be written, a warning is issued and the metrics are returned.

  If the store has only some of the run's labels, or `labels_path` is given, only these labels are
  evaluated. The AP and AUC of each label do not change; the means are over the evaluated labels.
  Clips without any of these labels count as negatives.

  Scores of finished batches are stored. If the evaluation is interrupted, the same call continues
  and returns the same bits.

  Args:
    workdir: The run directory.
    step: A number, `latest` or `best`.
    store_path: A clip store or TFDS dataset with all or some of the run's labels, in any order; by
      default the training store.
    split: `train`, `validation` or `test`, by the folds in the run's config, or `all`.
    labels_path: A file of label ids for `read_label_ids`. If given, the store may have labels that
      the run does not have.
    out: A folder to write the files to instead of the run directory.
    added_path: A file of labels to estimate in addition (`read_added_labels`). Their names in the
      files end in " (estimated)". The estimates are calibrated on the run's validation clips.
    ontology: The path of an ontology, by default that of the config, if it names one. If labels are
      missing from that of the config, a warning is issued.
    audio: The folder of the sounds, as given to `atgcn prepare`, for the mistakes on the page. The
      sounds of the built-in soundscapes are known without it.

  Returns:
    `mAP`, `mAUC`, `d_prime` and `mean_class_d_prime` (None if undefined); `mAP_low`, `mAP_high`,
    `mAUC_low` and `mAUC_high`, the 95 % intervals over clips; `clips`, `classes` and
    `classes_scored`; `positives`, the total number of labels of all clips; `step`, `split` and the
    `folds` of the clips; `clip_ids_sha256` (`clip_ids_hash`); the name of the `store` and its
    `store_fingerprint`; `labels`, the path of the file of labels, if given; and with added labels
    `added`, the path of their file, `mAP_known` and `mAP_added`. With an ontology: `OmAP`
    (`ontology_map`), `mAP_by_level` and `mAP_ontology_targets`, where each clip also has the labels
    above its own.

  Raises:
    UserError: If the run, step, store, split, labels or `out` cannot be used.
    WorkFailed: If a score is not finite.
  """
  return evaluate_and_write(
    workdir, step, store_path, split, labels_path, out, added_path, ontology, audio=audio
  )[0]


def evaluate_and_write(
  workdir: str | os.PathLike,
  step: str,
  store_path: str | None,
  split: str,
  labels_path: str | None,
  out: str | os.PathLike | None,
  added_path: str | None,
  ontology: str | None,
  *,
  audio: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], str | None]:
  """Return the result of `evaluate`, and the path of the page or None if a file was not written."""
  if out is not None:
    first_only(lambda: check_output_folder("--out", out))
  if ontology:
    first_only(lambda: ontology_at(ontology, "--ontology"))  # a bad file is refused before scoring
  if audio is not None:
    first_only(lambda: check_audio_folder(audio))
  with kept_scores(path_of(workdir) / FOLDER if out is None else out) as keep:
    add = labels_added(workdir, added_path) if added_path else None
    scored = score_split(workdir, step, store_path, split, labels_path, keep, add)
    trained_on = scored.loaded.run.store_fingerprint  # empty for imported weights
    is_own = scored.store.fingerprint == trained_on if trained_on else store_path is None
    usual = (split, step) == ("test", "latest") and not labels_path and not added_path
    place = Place(path_of(workdir), out, is_own=is_own, is_default=is_own and usual)
    return first_only(
      lambda: _written(place, scored, split, labels_path, added_path, ontology, audio)
    )


def _written(
  place: Place,
  scored: ScoredSplit,
  split: str,
  labels_path: str | None,
  added_path: str | None,
  ontology: str | None,
  audio: str | os.PathLike | None,
) -> tuple[dict[str, Any], str | None]:
  scores, labels = scored.scores, scored.labels
  metrics = tagging_metrics(scores, labels)
  names = ("mAP", "mAUC", "d_prime", "mean_class_d_prime")
  positives = labels.sum(axis=0, dtype=np.int64)
  result = {name: finite_or_none(metrics[name]) for name in names} | {
    **{name: finite_or_none(limit) for name, limit in intervals(scores, labels).items()},
    "clips": len(scored.clip_ids),
    "classes": len(scored.vocabulary),
    "classes_scored": int(np.isfinite(metrics["average_precision"]).sum()),
    "positives": int(positives.sum()),
    "step": scored.loaded.step,
    "split": split,
    "folds": np.unique(scored.folds).tolist(),
    "clip_ids_sha256": clip_ids_hash(scored.clip_ids),
    "store": store_name(scored.store),
    "store_fingerprint": scored.store.fingerprint,
  }
  if labels_path:
    result["labels"] = str(labels_path)
  if added_path:
    known = scored.columns < len(scored.loaded.run.vocabulary)
    precision = np.asarray(metrics["average_precision"])
    result["added"] = str(added_path)
    for name, chosen in (("mAP_known", known), ("mAP_added", ~known)):
      result[name] = finite_or_none(mean_of_defined(precision[chosen]))
  config = scored.loaded.run.config
  path = ontology or ontology_path(config.data.root, config.graph.ontology)
  if path and (ontology or path == SOUNDSCAPES or path_of(path).exists()):
    average = np.asarray(metrics["average_precision"])
    try:
      result |= ontology_results(ontology_at(path, "--ontology"), scored, average)
    except UserError as error:
      if ontology:
        raise
      warnings.warn(f"without metrics of the ontology: {error}", stacklevel=2)
  # Only process 0 runs this, so the computations must only use its local devices.
  try:
    return result, write_files(place, scored, result, metrics, audio)
  except OSError as error:
    warnings.warn(
      f"{place.out or place.workdir}: files of the evaluation cannot be written "
      f"({error.strerror or error}); name {'another folder' if place.out else 'a folder'} with "
      "--out",
      stacklevel=2,
    )
    return result, None


def ontology_results(
  ontology: Ontology, scored: ScoredSplit, average_precision: np.ndarray
) -> dict[str, Any]:
  """Return the results that need an ontology; see `evaluate`."""
  ids = scored.vocabulary.ids
  check_labels(ontology, ids, "--ontology")
  apart = label_distances(ontology, ids)
  levels = map_by_level(average_precision, label_levels(ontology, ids))
  carried = carried_up(scored.labels, label_ancestors(ontology, ids))
  return {
    "OmAP": finite_or_none(ontology_map(scored.scores, scored.labels, apart).mean),
    "mAP_by_level": {str(level): finite_or_none(value) for level, value in levels.items()},
    "mAP_ontology_targets": finite_or_none(tagging_metrics(scored.scores, carried)["mAP"]),
  }
