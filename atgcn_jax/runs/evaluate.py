"""The figures of a checkpoint, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np

from atgcn_jax.buckets import path_of, write_whole
from atgcn_jax.intervals import intervals
from atgcn_jax.labels.sparse import selected
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs.clip_ids import clip_ids_hash
from atgcn_jax.runs.config import plain
from atgcn_jax.runs.log import read_records
from atgcn_jax.runs.processes import first_only
from atgcn_jax.runs.report import write_report
from atgcn_jax.runs.scoring import ScoredSplit, score_split

FOLDER = "evaluation"


def evaluate(
  workdir: str | os.PathLike,
  *,
  step: str = "latest",
  store_path: str | None = None,
  split: str = "test",
  labels_path: str | None = None,
) -> dict[str, Any]:
  """The figures of a checkpoint on a split, also written to the run directory.

  `evaluation/SPLIT-STEP.json` and `.csv` (per class) and `report.html` are written; of the labels
  in a file, `SPLIT-STEP-FILE.json` and `.csv`.

  Where the store has only some of the run's labels, or a file names some, the figures are of these:
  means over them alone, each as it is among all, as a label's AP and AUC follow from its own scores
  and clips. A label that is left out counts neither as found nor as missed, and clips that have
  none of the labels stay, as negatives of all.

  Args:
    step: a number, `latest` or `best`.
    store_path: a clip store or TFDS dataset of the run's vocabulary or a part of it, in any order;
      by default the one trained on.
    split: `train`, `validation` or `test`, by the folds of the run's config, or `all` clips.
    labels_path: a file of label ids, as `read_label_ids` takes it; the store may then have labels
      that the run does not know.

  Returns:
    `mAP`, `mAUC`, `d_prime`, `mean_class_d_prime` (None where undefined), `mAP_low`, `mAP_high`,
    `mAUC_low` and `mAUC_high`, the 95 % intervals over clips, `clips`, `classes`, `classes_scored`,
    `positives` (labels of all clips together), `step`, `split`, the `folds` its clips are of,
    `clip_ids_sha256` (`clip_ids_hash`), and the file of `labels` where there is one.
  Raises:
    UserError: for a run, step, store, split or labels that cannot be used.
    WorkFailed: if a score is not finite.
  """
  scored = score_split(workdir, step, store_path, split, labels_path)
  return first_only(lambda: written_figures(path_of(workdir), scored, split, labels_path))


def written_figures(
  workdir: pathlib.Path, scored: ScoredSplit, split: str, labels_path: str | None
) -> dict[str, Any]:
  """What `evaluate` returns, and its files written."""
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
  }
  if labels_path:
    result["labels"] = str(labels_path)
  # From here on this process is alone, and so must be what it computes with.
  write_files(workdir, scored, result, metrics, positives)
  return result


def write_files(
  workdir: pathlib.Path,
  scored: ScoredSplit,
  result: dict[str, Any],
  metrics: dict[str, Any],
  positives: np.ndarray,
) -> None:
  """The JSON, the per-class CSV and the page of an evaluation."""
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  run, vocabulary = scored.loaded.run, scored.vocabulary
  stem = f"{result['split']}-{result['step']}"
  if "labels" in result:
    stem += f"-{pathlib.Path(result['labels']).stem}"
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
  shape = (1, run.frontend.frames, run.frontend.n_mels)
  variables = jax.device_get(scored.loaded.state)
  features: Any = run.model().apply(variables, np.zeros(shape, np.float32), return_features=True)
  graph = run.propagation
  write_report(
    workdir / "report.html",
    title=f"{system_name(run.config.model)} in {workdir.name}",
    summary=result,
    records=read_records(workdir),
    vocabulary=vocabulary,
    positives=positives,
    average_precision=metrics["average_precision"],
    auc=metrics["auc"],
    label_vectors=np.asarray(features["label_vectors"])[scored.columns],
    propagation=None if graph is None else selected(graph, scored.columns),
    config=plain(run.config),
  )


def system_name(model: Any) -> str:
  """What a `model` section's system is called: by the paper, or by its encoder and head."""
  if model.encoder == "cnn10":
    return "AT-GCN" if model.head == "graph" else "CNN10"
  return f"{model.encoder} with {'a label graph' if model.head == 'graph' else 'a linear head'}"


def finite_or_none(value: Any) -> float | None:
  """JSON has no NaN and no infinity."""
  return float(value) if math.isfinite(value) else None
