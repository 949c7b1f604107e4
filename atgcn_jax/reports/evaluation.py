"""Evaluation of a checkpoint, and its result files."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.intervals import intervals
from atgcn_jax.labels.ontology import (
  Ontology,
  label_ancestors,
  label_distances,
  label_levels,
)
from atgcn_jax.labels.sparse import selected
from atgcn_jax.metrics import mean_of_defined, tagging_metrics
from atgcn_jax.ontology_metrics import map_by_level, ontology_map
from atgcn_jax.reports.page import write_report
from atgcn_jax.runs.calibrated_labels import labels_added
from atgcn_jax.runs.clip_ids import clip_ids_hash
from atgcn_jax.runs.config import SOUNDSCAPES, plain_config
from atgcn_jax.runs.label_graph import ontology_at, ontology_path
from atgcn_jax.runs.log import finite_or_none, read_records
from atgcn_jax.runs.parts import system_name
from atgcn_jax.runs.resumable_scores import kept_scores
from atgcn_jax.runs.scoring import ScoredSplit, score_split
from atgcn_jax.runtime.buckets import check_output_folder, in_bucket, path_of
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.runtime.whole_files import write_whole

FOLDER = "evaluation"


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
) -> dict[str, Any]:
  """Return the metrics of a checkpoint on a split, and write them to files.

  The files in the run directory are `evaluation/SPLIT-STEP.json`, `evaluation/SPLIT-STEP.csv` (per
  class) and `report.html`. If the store is not the training store, they are
  `evaluation/SPLIT-STEP-STORE-HASH.json`, `.csv` and `.html`; HASH is the first 8 characters of the
  store's fingerprint. If `labels_path` is given, the names of the JSON and CSV files end in the
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
    ontology: The path of an ontology, by default that of the config, if it names one.

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
    workdir, step, store_path, split, labels_path, out, added_path, ontology
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
) -> tuple[dict[str, Any], str | None]:
  """Return the result of `evaluate`, and the path of the page or None if a file was not written."""
  if out is not None:
    first_only(lambda: check_output_folder("--out", out))
  with kept_scores(path_of(workdir) / FOLDER if out is None else out) as keep:
    add = labels_added(workdir, added_path) if added_path else None
    scored = score_split(workdir, step, store_path, split, labels_path, keep, add)
    trained_on = scored.loaded.run.store_fingerprint  # empty for imported weights
    is_own = scored.store.fingerprint == trained_on if trained_on else store_path is None
    return first_only(
      lambda: _written(
        path_of(workdir), out, scored, split, labels_path, is_own, added_path, ontology
      )
    )


def _written(
  workdir: pathlib.Path,
  out: str | os.PathLike | None,
  scored: ScoredSplit,
  split: str,
  labels_path: str | None,
  is_own: bool,
  added_path: str | None,
  ontology: str | None,
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
  if path and (ontology or path == SOUNDSCAPES or os.path.exists(path)):
    average = np.asarray(metrics["average_precision"])
    result |= ontology_results(ontology_at(path, "--ontology"), scored, average)
  # Only process 0 runs this, so the computations must only use its local devices.
  try:
    return result, write_files(workdir, out, scored, result, metrics, positives, is_own)
  except OSError as error:
    place = workdir if out is None else out
    warnings.warn(
      f"{place}: files of the evaluation cannot be written ({error.strerror or error}); "
      f"name {'another folder' if out else 'a folder'} with --out",
      stacklevel=2,
    )
    return result, None


def ontology_results(
  ontology: Ontology, scored: ScoredSplit, average_precision: np.ndarray
) -> dict[str, Any]:
  """Return the results that need an ontology; see `evaluate`."""
  ids = scored.vocabulary.ids
  apart = label_distances(ontology, ids)
  levels = map_by_level(average_precision, label_levels(ontology, ids))
  carried = scored.labels.copy()
  for k, above in enumerate(label_ancestors(ontology, ids)):
    carried[:, above] |= scored.labels[:, k : k + 1]
  return {
    "OmAP": finite_or_none(ontology_map(scored.scores, scored.labels, apart).mean),
    "mAP_by_level": {str(level): finite_or_none(value) for level, value in levels.items()},
    "mAP_ontology_targets": finite_or_none(tagging_metrics(scored.scores, carried)["mAP"]),
  }


def store_name(store: ClipStore) -> str:
  """Return the name of a store: its file name, or the name and version of a TFDS dataset."""
  path = pathlib.PurePath(store.path if in_bucket(store.path) else os.path.abspath(store.path))
  return path.name if isinstance(store.log_mel, np.memmap) else "/".join(path.parts[-2:])


def write_files(
  workdir: pathlib.Path,
  out: str | os.PathLike | None,
  scored: ScoredSplit,
  result: dict[str, Any],
  metrics: dict[str, Any],
  positives: np.ndarray,
  is_own: bool,
) -> str:
  """Write the JSON, the CSV per class and the page of an evaluation, and return the page's path.

  Args:
    workdir: The run directory.
    out: The folder of all files; by default the run directory and its folder of evaluations.
    scored: The scores.
    result: The result of `evaluate`.
    metrics: The result of `tagging_metrics`.
    positives: int[K], the number of clips with each label.
    is_own: Whether the store is the training store of the run.

  Raises:
    OSError: If a file cannot be written.
  """
  folder = workdir / FOLDER if out is None else path_of(out)
  folder.mkdir(parents=True, exist_ok=True)
  run, vocabulary = scored.loaded.run, scored.vocabulary
  stem = f"{result['split']}-{result['step']}"
  page = (workdir if out is None else folder) / "report.html"
  if not is_own:
    name = result["store"].removesuffix(".h5").replace("/", "-")
    stem += f"-{name:.80}-{result['store_fingerprint'][:8]}"
    page = folder / f"{stem}.html"
  for key in ("labels", "added"):
    if key in result:
      stem += f"-{pathlib.Path(result[key]).stem}"
  write_whole(folder / f"{stem}.json", f"{json.dumps(result, indent=2)}\n".encode())
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(["mid", "display_name", "positives", "average_precision", "auc"])
  writer.writerows(
    zip(
      vocabulary.ids,
      vocabulary.names,
      positives,
      metrics["average_precision"],
      metrics["auc"],
    )
  )
  write_whole(folder / f"{stem}.csv", table.getvalue().encode())
  vectors, graph = None, None
  if "added" not in result:  # estimated labels have no vectors of their own under a linear head
    shape = (1, run.frontend.frames, run.frontend.n_mels)
    variables = jax.device_get(scored.loaded.state)
    features: Any = run.model().apply(variables, np.zeros(shape, np.float32), return_features=True)
    vectors = np.asarray(features["label_vectors"])[scored.columns]
    graph = None if run.propagation is None else selected(run.propagation, scored.columns)
  write_report(
    page,
    title=f"{system_name(run.config.model)} in {workdir.name}",
    summary=result,
    records=read_records(workdir),
    vocabulary=vocabulary,
    positives=positives,
    average_precision=metrics["average_precision"],
    auc=metrics["auc"],
    label_vectors=vectors,
    propagation=graph,
    config=plain_config(run.config),
  )
  return str(page)
