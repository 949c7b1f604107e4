"""Two runs on the same clips: their figures, label by label, and what the label graph has to do."""

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
from atgcn_jax.runs.resumable_scores import Keep
from atgcn_jax.runs.run import system_name
from atgcn_jax.runs.scoring import Opened, ScoredSplit, chosen_labels, open_split, score_labels
from atgcn_jax.training import sharding


class Comparison(NamedTuple):
  """What two runs, A and B, make of N clips and of the K labels that both know.

  `metrics` are `tagging_metrics` of A and of B; `difference` is the mAP of B minus that of A,
  `low` to `high` its 95 % interval over clips, `mauc_low` to `mauc_high` that of the difference
  in mAUC. `positives` int[K] are clips of a label. `neighbours` int[K] is from how many other
  labels each gathers in the graph of run `graph_of`, `A` or `B`; None where neither has one.
  `correlation` is Spearman's, of the labels' differences in AP and their neighbours, `p_value`
  that of no correlation; NaN where it is not defined.
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
  """The comparison of two runs on the same clips; nothing is written.

  Arguments are those of `evaluate`, for both runs. Without a store each scores its own, which may
  be of another front end, but of the same clips. The labels are those that both runs and stores
  know, in B's order; see `evaluate` for what figures of some labels are.

  Args:
    keep: As `kept_scores` gives it.

  Raises:
    UserError: For runs, a step, a store, a split or labels that cannot be used, or compared.
    WorkFailed: If a score is not finite.
  """
  mesh = sharding.data_mesh()
  a, b = (open_split(run, step, store_path, split, mesh) for run in (run_a, run_b))
  known = [v for o in (b, a) for v in (o.loaded.run.vocabulary, o.store.vocabulary)]
  ids = chosen_labels(known, labels_path)
  if not ids:
    raise UserError(f"{run_b}: knows none of the labels of {run_a}; compare runs that share some")
  order = same_clips(a, b, ids, (str(run_a), str(run_b)))
  scored = [
    score_labels(opened, ids, mesh, f"scoring {name}", keep)
    for opened, name in ((a, "A"), (b, "B"))
  ]
  return compared(scored[0], scored[1], order, (str(run_a), str(run_b)), split)


def same_clips(a: Opened, b: Opened, ids: Sequence[str], runs: tuple[str, str]) -> np.ndarray:
  """Where the clips of A stand among those of B, int64[N].

  Args:
    ids: Of labels that both stores know.
    runs: What the two are called, for the message.

  Raises:
    UserError: If the clips are not the same, or have other labels.
  """
  ours, theirs = (opened.store.clip_ids[opened.clips] for opened in (a, b))
  if clip_ids_hash(ours) != clip_ids_hash(theirs):
    only, where = next(
      ((sorted(rest)[0], run) for rest, run in zip(_differing(ours, theirs), runs) if rest),
      ("one more than once", "one of them"),
    )
    raise UserError(
      f"{runs[1]}: {len(theirs)} clips that are not the {len(ours)} of {runs[0]} (only {where} has "
      f"{only}); give a --store for both, and a --split that holds the same clips of it"
    )
  ranks = np.argsort(np.argsort(ours, kind="stable"), kind="stable")
  order = np.argsort(theirs, kind="stable")[ranks]
  labels = [o.store.labels(o.clips)[:, o.store.vocabulary.positions(ids)] for o in (a, b)]
  if (unlike := (labels[0] != labels[1][order]).any(axis=1)).any():
    raise UserError(
      f"{b.store.path}: clip {ours[np.argmax(unlike)]} has other labels than in {a.store.path}; "
      "give a --store for both"
    )
  return order


def _differing(ours: np.ndarray, theirs: np.ndarray) -> tuple[set[str], set[str]]:
  one, other = set(ours.tolist()), set(theirs.tolist())
  return one - other, other - one


def compared(
  a: ScoredSplit, b: ScoredSplit, order: np.ndarray, runs: tuple[str, str], split: str
) -> Comparison:
  """The comparison of two runs' scores.

  Args:
    order: Where the clips of A stand among those of B, int64[N].
  """
  # The labels of both are the same, but each in the order of its own run.
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
  """From how many other labels each gathers, int[K]: its row's entries off the diagonal.

  Args:
    propagation: [K, K], an array or csr_array.
  """
  return np.diff(csr(without_diagonal(propagation)).indptr)


def rank_correlation(changes: np.ndarray, neighbours: np.ndarray | None) -> dict[str, float]:
  """`correlation` and `p_value` of two figures of labels; NaN where they are not defined.

  Args:
    changes: float[K]; labels with NaN are left out.
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
  """AP of B minus AP of A of each label, float64[K], NaN where undefined."""
  a, b = (metrics["average_precision"] for metrics in comparison.metrics)
  return b - a


def most_changed(comparison: Comparison, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The labels that gain most and those that lose most, int[<= count] each, the most first."""
  changes = changes_of(comparison)
  order = np.argsort(changes, kind="stable")  # NaN last
  losing = order[: int((changes < 0).sum())]
  gaining = order[::-1][int(np.isnan(changes).sum()) :][: int((changes > 0).sum())]
  return gaining[:count], losing[:count]
