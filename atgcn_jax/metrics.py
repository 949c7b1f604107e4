"""Mean average precision, mean area under the ROC curve and d', as audio tagging reports them.

And how far mAP would vary with other clips of the same kind.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.special import ndtri

CLASSES, CLIPS = 64, 512  # how many are turned about at a time, which bounds the memory
RESAMPLES, CONFIDENCE = 1000, 0.95
TOGETHER = 64  # resamples at a time


def tagging_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | np.ndarray]:
  """`mAP`, `mAUC`, `d_prime`, `mean_class_d_prime`, `average_precision` [K] and `auc` [K].

  Classes without a positive or without a negative are NaN and left out of the means; with no
  class left the means are NaN. `d_prime` is that of the mean AUC; `mean_class_d_prime` is the
  mean of the classes' own.

  Args:
    scores: float[N, K], any increasing function of the probability.
    labels: bool or 0/1 [N, K].
  Raises:
    ValueError: if the shapes differ, or a score is NaN.
  Source: definitions of scikit-learn's average_precision_score and roc_auc_score; d' =
    sqrt(2) Φ⁻¹(AUC) as in Hershey et al., ICASSP 2017.
  """
  scores, labels = np.asarray(scores), np.asarray(labels).astype(bool, copy=False)
  if scores.shape != labels.shape or scores.ndim != 2:
    raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be one [N, K]")
  blocks = range(0, labels.shape[1], CLASSES)
  with concurrent.futures.ThreadPoolExecutor() as pool:  # NumPy sorts and copies without the lock
    found = pool.map(lambda k: _block_metrics(_columns(scores, k), _columns(labels, k)), blocks)
    per_class = [of_class for block in found for of_class in block]
  average_precision, auc = np.array(per_class, np.float64).reshape(-1, 2).T
  mean_auc = _mean(auc)
  return {
    "mAP": _mean(average_precision),
    "mAUC": mean_auc,
    "d_prime": float(np.sqrt(2) * ndtri(mean_auc)),
    "mean_class_d_prime": _mean(np.sqrt(2) * ndtri(auc)),
    "average_precision": average_precision,
    "auc": auc,
  }


def _block_metrics(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
  """Average precision and AUC of some classes, [n, N] each."""
  if np.isnan(scores).any():
    raise ValueError("scores hold NaN")
  return [_class_metrics(*of_class) for of_class in zip(scores, labels)]


def _class_metrics(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Average precision and AUC of one class, [N] each; equal scores count as one threshold.

  Both follow from the ranks of the positives alone, which are few: among all clips, and among
  themselves.
  """
  chosen, every = np.sort(scores[labels]), np.sort(scores)
  positives, negatives = len(chosen), len(every) - len(chosen)
  if not positives or not negatives:
    return np.nan, np.nan
  below, not_above = (np.searchsorted(every, chosen, side) for side in ("left", "right"))
  true_below, true_not_above = (np.searchsorted(chosen, chosen, s) for s in ("left", "right"))
  precision = (positives - true_below) / (len(every) - below)
  # A negative of the same score is half below.
  beaten = (below - true_below + not_above - true_not_above) / 2
  return float(precision.mean()), float(beaten.mean() / negatives)


def resampled_maps(
  systems: Sequence[np.ndarray],
  labels: np.ndarray,
  rng: np.random.Generator,
  resamples: int = RESAMPLES,
) -> np.ndarray:
  """mAP of systems on clips drawn anew with replacement, the same for all: float64[resamples, S].

  Each is exactly what `tagging_metrics` says of the drawn clips: a class without a positive or
  without a negative among them is left out; NaN where that leaves no class.

  Args:
    systems: S times scores float[N, K].
    labels: bool or 0/1 [N, K].
    rng: What clips are drawn from.

  Source: the bootstrap, Efron, Ann. Statist. 7, 1979.
  """
  labels = np.asarray(labels).astype(bool, copy=False)
  N, K = labels.shape
  ranked = [[_ranked(scores[:, k], labels[:, k]) for k in range(K)] for scores in systems]
  found = []
  for first in range(0, resamples, TOGETHER):
    drawn = rng.integers(0, N, (min(TOGETHER, resamples - first), N))
    times = np.stack([np.bincount(clips, minlength=N) for clips in drawn], 1).astype(np.float32)
    found.append([_mean_of_classes(classes, times) for classes in ranked])
  return np.concatenate(found, axis=1).T if found else np.empty((0, len(systems)))


def resampled_differences(
  ours: Sequence[np.ndarray],
  others: Sequence[np.ndarray],
  labels: np.ndarray,
  rng: np.random.Generator,
) -> tuple[float, np.ndarray]:
  """The mean mAP of some systems minus that of others: of the clips, and of clips drawn anew.

  Returns: the difference, and float64[RESAMPLES], each of one draw that is the same for all.

  Args:
    ours, others: scores float[N, K], one or more of either.
    labels, rng: as `resampled_maps` takes them.
  """
  systems = [*ours, *others]
  measured = np.array([[tagging_metrics(scores, labels)["mAP"] for scores in systems]])
  drawn = resampled_maps(systems, labels, rng)
  found, resampled = (
    maps[:, : len(ours)].mean(axis=1) - maps[:, len(ours) :].mean(axis=1)
    for maps in (measured, drawn)
  )
  return float(found[0]), resampled


def interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
  """The percentile interval of resampled figures [R]; NaN is left out, (NaN, NaN) if all are.

  Source: the percentile bootstrap, Efron & Tibshirani, An Introduction to the Bootstrap, 1993.
  """
  defined = values[~np.isnan(values)]
  if not len(defined):
    return np.nan, np.nan
  low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
  return float(low), float(high)


class _Ranked(NamedTuple):
  """Which clips of a class lie between the scores of its positives, 0 or 1 [thresholds, N].

  Row j of `every` has the clips from the j-th distinct score of a positive up to the next, row j of
  `positive` the positives among them.
  """

  every: scipy.sparse.csr_array
  positive: scipy.sparse.csr_array


def _ranked(scores: np.ndarray, labels: np.ndarray) -> _Ranked:
  order = np.argsort(scores)
  thresholds = np.unique(scores[labels])

  def between(clips):
    bounds = np.searchsorted(scores[clips], thresholds)
    kept = clips[bounds[0] :] if len(bounds) else clips[:0]
    # float32 counts to 2^24 exactly.
    return scipy.sparse.csr_array(
      (
        np.ones(len(kept), np.float32),
        kept,
        np.append(bounds, len(clips)) - len(clips) + len(kept),
      ),
      shape=(len(thresholds), len(scores)),
    )

  return _Ranked(between(order), between(order[labels[order]]))


def _mean_of_classes(classes: Sequence[_Ranked], times: np.ndarray) -> np.ndarray:
  """mAP [R] where clip n is there `times[n, r]` times, float32[N, R]."""
  total, defined = np.zeros((2, times.shape[1]))
  for every, positive in classes:
    here = positive @ times
    above, true_above = (np.cumsum(x[::-1], axis=0)[::-1] for x in (every @ times, here))
    positives = here.sum(axis=0)
    counts = (positives > 0) & (positives < len(times))
    precision = (here.astype(np.float64) * true_above / np.maximum(above, 1)).sum(axis=0)
    total[counts] += precision[counts] / positives[counts]
    defined += counts
  return np.divide(total, defined, out=np.full(len(total), np.nan), where=defined > 0)


def _columns(values: np.ndarray, first: int) -> np.ndarray:
  """Some classes from `first` on, each in one piece; in steps that stay in the cache."""
  columns = values[:, first : first + CLASSES]
  turned = np.empty(columns.shape[::-1], values.dtype)
  for clip in range(0, len(values), CLIPS):
    turned[:, clip : clip + CLIPS] = columns[clip : clip + CLIPS].T
  return turned


def _mean(values: np.ndarray) -> float:
  present = values[~np.isnan(values)]
  return float(present.mean()) if len(present) else float("nan")
