"""Comparison of two runs on the same clips: overall metrics, AP per label, and the label graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from atgcn_jax.errors import UserError
from atgcn_jax.intervals import difference, interval, sampled
from atgcn_jax.labels.sparse import csr, without_diagonal
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs.clip_ids import clip_ids_hash
from atgcn_jax.runs.parts import system_name
from atgcn_jax.runs.resumable_scores import Keep
from atgcn_jax.runs.scoring import Opened, ScoredSplit, chosen_labels, open_split, score_labels
from atgcn_jax.training import sharding


class Comparison(NamedTuple):
  """The results of two runs, A and B, on N clips and the K labels that both runs have.

  Pairs are (A, B).

  Attributes:
    runs: The run directories.
    systems: The names of the systems.
    steps: The steps of the checkpoints.
    known: The number of labels of each run.
    split: The split.
    clips: N.
    clip_ids_sha256: The hash of the clip ids.
    vocabulary: The K labels.
    positives: int[K], the number of clips with each label.
    metrics: `tagging_metrics` of each run.
    difference: The mAP of B minus the mAP of A.
    low, high: The 95 % interval of `difference` over clips.
    mauc_low, mauc_high: The 95 % interval of the difference in mAUC over clips.
    graph_of: The run whose graph is used, `A` or `B`; empty if neither run has a graph.
    neighbours: int[K], the number of other labels from which each label gathers in that graph, or
      None.
    correlation: Spearman's rank correlation of the difference in AP and `neighbours` over labels,
      NaN if undefined.
    p_value: The p-value of `correlation`, NaN if undefined.
  """

  runs: tuple[str, str]
  systems: tuple[str, str]
  steps: tuple[int, int]
  known: tuple[int, int]
  split: str
  clips: int
  clip_ids_sha256: str
  vocabulary: Vocabulary
  positives: np.ndarray
  metrics: tuple[dict[str, Any], dict[str, Any]]
  difference: float
  low: float
  high: float
  mauc_low: float
  mauc_high: float
  graph_of: str
  neighbours: np.ndarray | None
  correlation: float
  p_value: float


def compare(
  run_a: str | os.PathLike,
  run_b: str | os.PathLike,
  *,
  step: str = "latest",
  store_path: str | None = None,
  split: str = "test",
  labels_path: str | None = None,
  keep: Keep | None = None,
) -> Comparison:
  """Compare two runs on the same clips. No report is written.

  Without `store_path`, each run scores its own store. The two stores may have different front ends,
  but must have the same clips. The labels are those that both runs and both stores have, in the
  order of B. See `evaluate` for metrics of a subset of the labels.

  Args:
    run_a: Directory of the first run.
    run_b: Directory of the second run.
    step: As for `evaluate`, for both runs.
    store_path: As for `evaluate`, for both runs.
    split: As for `evaluate`, for both runs.
    labels_path: As for `evaluate`, for both runs.
    keep: A function from `kept_scores`.

  Raises:
    UserError: If a run, step, store, split or label cannot be used or compared.
    WorkFailed: If a score is not finite.
  """
  mesh = sharding.data_mesh()
  a, b = (open_split(run, step, store_path, split, mesh) for run in (run_a, run_b))
  known = [v for o in (b, a) for v in (o.loaded.run.vocabulary, o.store.vocabulary)]
  ids = chosen_labels(known, labels_path)
  if not ids:
    raise UserError(f"{run_b}: has no label of {run_a}; compare runs that share labels")
  order = same_clips(a, b, ids, (str(run_a), str(run_b)))
  scored = [
    score_labels(opened, ids, mesh, f"scoring {name}", keep)
    for opened, name in ((a, "A"), (b, "B"))
  ]
  return compared(scored[0], scored[1], order, (str(run_a), str(run_b)), split)


def same_clips(a: Opened, b: Opened, ids: Sequence[str], runs: tuple[str, str]) -> np.ndarray:
  """Return the position of each clip of A among the clips of B, int64[N].

  Args:
    a: The clips of A.
    b: The clips of B.
    ids: Ids of labels that both stores have.
    runs: Names of the two runs, for the message.

  Raises:
    UserError: If the clips or their labels differ.
  """
  ours, theirs = (opened.store.clip_ids[opened.clips] for opened in (a, b))
  if clip_ids_hash(ours) != clip_ids_hash(theirs):
    only, where = next(
      ((sorted(rest)[0], run) for rest, run in zip(_differing(ours, theirs), runs) if rest),
      ("one more than once", "one of them"),
    )
    raise UserError(
      f"{runs[1]}: its {len(theirs)} clips differ from the {len(ours)} clips of {runs[0]} (only "
      f"{where} has {only}); give a --store for both runs, and a --split with the same clips"
    )
  ranks = np.argsort(np.argsort(ours, kind="stable"), kind="stable")
  order = np.argsort(theirs, kind="stable")[ranks]
  labels = [o.store.labels(o.clips)[:, o.store.vocabulary.positions(ids)] for o in (a, b)]
  if (unlike := (labels[0] != labels[1][order]).any(axis=1)).any():
    raise UserError(
      f"{b.store.path}: clip {ours[np.argmax(unlike)]} has other labels than in {a.store.path}; "
      "give a --store for both runs"
    )
  return order


def _differing(ours: np.ndarray, theirs: np.ndarray) -> tuple[set[str], set[str]]:
  one, other = set(ours.tolist()), set(theirs.tolist())
  return one - other, other - one


def compared(
  a: ScoredSplit, b: ScoredSplit, order: np.ndarray, runs: tuple[str, str], split: str
) -> Comparison:
  """Return the comparison of the scores of two runs.

  Args:
    a: The scores of A.
    b: The scores of B.
    order: int64[N], the position of each clip of A among the clips of B.
    runs: The run directories.
    split: The split.
  """
  # Both have the same labels, each in the order of its own run.
  vocabulary, labels = b.vocabulary, b.labels[order]
  ours = a.scores[:, a.vocabulary.positions(vocabulary.ids)]
  theirs = b.scores[order]
  metrics = (tagging_metrics(ours, labels), tagging_metrics(theirs, labels))
  of_b, of_a = sampled(theirs, labels), sampled(ours, labels)
  changes = {name: difference(of_b[name], of_a[name]) for name in of_b}
  (low, high), (mauc_low, mauc_high) = (
    interval([changes[name]], lowest=-1) for name in ("mAP", "mAUC")
  )
  of_runs = [scored.loaded.run for scored in (a, b)]
  graph_of, neighbours = "", None
  for name, scored in (("B", b), ("A", a)):
    graph = scored.loaded.run.propagation
    if neighbours is None and graph is not None:
      rows = scored.loaded.run.vocabulary.positions(vocabulary.ids)
      graph_of, neighbours = name, neighbours_of(graph)[rows]
  ap_a, ap_b = (np.asarray(of_run["average_precision"]) for of_run in metrics)
  return Comparison(
    runs=runs,
    systems=(system_name(of_runs[0].config.model), system_name(of_runs[1].config.model)),
    steps=(a.loaded.step, b.loaded.step),
    known=(len(of_runs[0].vocabulary), len(of_runs[1].vocabulary)),
    split=split,
    clips=len(order),
    clip_ids_sha256=clip_ids_hash(a.clip_ids),
    vocabulary=vocabulary,
    positives=labels.sum(axis=0, dtype=np.int64),
    metrics=metrics,
    difference=changes["mAP"].value,
    low=low,
    high=high,
    mauc_low=mauc_low,
    mauc_high=mauc_high,
    graph_of=graph_of,
    neighbours=neighbours,
    **rank_correlation(ap_b - ap_a, neighbours),
  )


def neighbours_of(propagation: Any) -> np.ndarray:
  """Return the number of other labels from which each label gathers, int[K].

  This is the number of entries off the diagonal in each row.

  Args:
    propagation: [K, K], an array or csr_array.
  """
  return np.diff(csr(without_diagonal(propagation)).indptr)


def rank_correlation(changes: np.ndarray, neighbours: np.ndarray | None) -> dict[str, float]:
  """Return Spearman's `correlation` and its `p_value`, NaN if undefined.

  Args:
    changes: float[K]; labels with NaN are ignored.
    neighbours: int[K], or None.

  Source:
    scipy.stats.spearmanr.
  """
  defined = np.isfinite(changes)
  if neighbours is not None:
    one, other = changes[defined], neighbours[defined]
    if len(one) > 2 and np.ptp(one) > 0 and np.ptp(other) > 0:
      found = scipy.stats.spearmanr(one, other)
      return {"correlation": float(found.statistic), "p_value": float(found.pvalue)}
  return {"correlation": np.nan, "p_value": np.nan}


def changes_of(comparison: Comparison) -> np.ndarray:
  """Return the AP of B minus the AP of A for each label, float64[K], NaN where undefined."""
  a, b = (metrics["average_precision"] for metrics in comparison.metrics)
  return b - a


def most_changed(comparison: Comparison, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the labels with the largest gains and with the largest losses, largest first.

  Both are int[n] with n at most `count`.
  """
  changes = changes_of(comparison)
  order = np.argsort(changes, kind="stable")  # NaN last
  losing = order[: int((changes < 0).sum())]
  gaining = order[::-1][int(np.isnan(changes).sum()) :][: int((changes > 0).sum())]
  return gaining[:count], losing[:count]
