"""Scores of clips, the figures that follow from them, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from atgcn_jax.buckets import path_of
from atgcn_jax.data.pipeline import Share, batches, sequential
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store import ClipStore
from atgcn_jax.data.tfds_store import open_clips
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.metrics import interval, resampled_maps, tagging_metrics
from atgcn_jax.runs.assemble import Run, store_of
from atgcn_jax.runs.clip_ids import clip_ids_hash
from atgcn_jax.runs.config import plain
from atgcn_jax.runs.log import read_records
from atgcn_jax.runs.processes import first_only, whole
from atgcn_jax.runs.report import write_report
from atgcn_jax.runs.restore import Loaded, load
from atgcn_jax.training import sharding
from atgcn_jax.training.step import make_score_step

FOLDER = "evaluation"


def score_clips(
  score_step: Callable,
  variables: Any,
  store: ClipStore,
  clips: np.ndarray,
  batch: int,
  mesh: jax.sharding.Mesh,
  *,
  before_batch: Callable[[], object] = lambda: None,
  progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """(scores float32[N, K], labels uint8[N, K]) of these clips, in their order, on every process.

  Args:
    before_batch: called before each batch; may raise to stop.
    progress: show a bar.
  """
  clips_of, count = sequential(clips, batch)
  share = Share(jax.process_index(), jax.process_count())
  scores = []
  hidden = None if progress else True  # None: shown on a terminal
  with tqdm(total=len(clips), unit="clip", desc="scoring", disable=hidden) as bar:
    for loaded in batches(store, clips_of, 0, count, share):
      before_batch()
      inputs = {name: loaded[name] for name in ("log_mel", "peak_db")}
      scored = score_step(variables, sharding.place(inputs, mesh))
      scores.append(np.asarray(whole(scored)))
      bar.update(min(batch, len(clips) - bar.n))
  return np.concatenate(scores)[: len(clips)], store.labels(clips)


def evaluate(
  workdir: str | os.PathLike,
  *,
  step: str = "latest",
  store_path: str | None = None,
  split: str = "test",
) -> dict[str, Any]:
  """The figures of a checkpoint on a split, also written to the run directory.

  `evaluation/SPLIT-STEP.json` and `.csv` (per class) and `report.html` are written.

  Returns: `mAP`, `mAUC`, `d_prime`, `mean_class_d_prime` (None where undefined), `mAP_low` and
    `mAP_high`, the 95 % interval over clips drawn anew, `clips`, `classes`, `classes_scored`,
    `positives` (labels of all clips together), `step`, `split`, the `folds` its clips are of, and
    `clip_ids_sha256` (`clip_ids_hash`).
  Raises:
    UserError: for a run, step, store or split that cannot be used.
    WorkFailed: if a score is not finite.
  """
  scored = score_split(workdir, step, store_path, split)
  return first_only(lambda: written_figures(path_of(workdir), scored, split))


def written_figures(workdir: pathlib.Path, scored: ScoredSplit, split: str) -> dict[str, Any]:
  """What `evaluate` returns, and its files written."""
  loaded, clip_ids, folds, scores, labels = scored
  run = loaded.run
  metrics = tagging_metrics(scores, labels)
  low, high = interval(resampled_maps([scores], labels, np.random.default_rng(0))[:, 0])
  names = ("mAP", "mAUC", "d_prime", "mean_class_d_prime")
  positives = labels.sum(axis=0, dtype=np.int64)
  result = {name: finite_or_none(metrics[name]) for name in names} | {
    "mAP_low": finite_or_none(low),
    "mAP_high": finite_or_none(high),
    "clips": len(clip_ids),
    "classes": len(run.vocabulary),
    "classes_scored": int(np.isfinite(metrics["average_precision"]).sum()),
    "positives": int(positives.sum()),
    "step": loaded.step,
    "split": split,
    "folds": np.unique(folds).tolist(),
    "clip_ids_sha256": clip_ids_hash(clip_ids),
  }
  # From here on this process is alone, and so must be what it computes with.
  write_files(workdir, run, jax.device_get(loaded.state), result, metrics, positives)
  return result


class ScoredSplit(NamedTuple):
  """A checkpoint and its scores float32[N, K] of clips: ids, folds str[N], labels uint8[N, K]."""

  loaded: Loaded
  clip_ids: np.ndarray
  folds: np.ndarray
  scores: np.ndarray
  labels: np.ndarray


def score_split(
  workdir: str | os.PathLike, step: str, store_path: str | None, split: str
) -> ScoredSplit:
  """The scores of a checkpoint for a split; arguments and errors are those of `evaluate`."""
  mesh = sharding.data_mesh()
  loaded = load(workdir, step, mesh)
  run = loaded.run
  store = open_clips(store_path) if store_path else store_of(run.config)
  check_store(run, store)
  clips = split_clips(store, run.config.data, split)
  if not len(clips):
    raise UserError(f"--split {split}: {store.path} has no clip in it; name another split")
  batch = run.config.evaluation.batch_size
  batch += -batch % jax.device_count()
  score_step = make_score_step(run.model(), mesh, normaliser=run.normaliser)
  variables = run.for_inference()(loaded.state)
  scores, labels = score_clips(score_step, variables, store, clips, batch, mesh, progress=True)
  clip_ids = store.clip_ids[clips]
  if not (sound := np.isfinite(scores).all(axis=1)).all():
    bad = clip_ids[np.argmin(sound)]
    raise WorkFailed(f"{store.path}: the scores of {bad} are not finite; prepare the store again")
  return ScoredSplit(loaded, clip_ids, store.folds[clips], scores, labels)


def check_store(run: Run, store: ClipStore) -> None:
  """Refuse a store that the run's system cannot score.

  Raises:
    UserError: for another vocabulary or front end.
  """
  if store.vocabulary.ids != run.vocabulary.ids:
    pairs = zip_longest(store.vocabulary.ids, run.vocabulary.ids, fillvalue="none")
    k, (theirs, ours) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
    raise UserError(
      f"{store.path}: a store of another vocabulary (label {k} is {theirs}, the run's is {ours}); "
      "prepare it with the run's vocabulary"
    )
  if store.frontend != run.frontend:
    raise UserError(
      f"{store.path}: a store of the front end {store.frontend.name}; the run needs "
      f"{run.frontend.name}, prepare it with --frontend {run.frontend.name}"
    )


def write_files(
  workdir: pathlib.Path,
  run: Run,
  variables: Any,
  result: dict[str, Any],
  metrics: dict[str, Any],
  positives: np.ndarray,
) -> None:
  """The JSON, the per-class CSV and the page of an evaluation."""
  folder = workdir / FOLDER
  folder.mkdir(exist_ok=True)
  stem = f"{result['split']}-{result['step']}"
  (folder / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n")
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(["mid", "display_name", "positives", "average_precision", "auc"])
  writer.writerows(
    zip(
      run.vocabulary.ids,
      run.vocabulary.names,
      positives,
      metrics["average_precision"],
      metrics["auc"],
    )
  )
  (folder / f"{stem}.csv").write_bytes(table.getvalue().encode())
  shape = (1, run.frontend.frames, run.frontend.n_mels)
  features: Any = run.model().apply(variables, np.zeros(shape, np.float32), return_features=True)
  write_report(
    workdir / "report.html",
    title=f"{system_name(run.config.model)} in {workdir.name}",
    summary=result,
    records=read_records(workdir),
    vocabulary=run.vocabulary,
    positives=positives,
    average_precision=metrics["average_precision"],
    auc=metrics["auc"],
    label_vectors=np.asarray(features["label_vectors"]),
    propagation=run.propagation,
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
