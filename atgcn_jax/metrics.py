"""The metrics of audio tagging: mean average precision, mean area under the ROC curve and d'."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtri

CLASSES, CLIPS = 64, 512  # transposed at a time; bounds the memory


def tagging_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | np.ndarray]:
  """Return the metrics over all classes and per class.

  A class without positives or without negatives has the value NaN and is left out of the means.
  If no class remains, the means are NaN.

  Args:
    scores: float[N, K]. Any increasing function of the probability.
    labels: bool or 0/1 [N, K].

  Returns:
    `mAP`, `mAUC`, `d_prime` (of the mean AUC), `mean_class_d_prime` (the mean of the d' of the
    classes), and the per-class arrays `average_precision` [K] and `auc` [K].

  Raises:
    ValueError: The shapes differ, or a score is NaN.

  Source:
    The definitions of scikit-learn's average_precision_score and roc_auc_score; d' =
    sqrt(2) Φ⁻¹(AUC) as in Hershey et al., ICASSP 2017.
  """
  blocks = map_blocks(_block_metrics, scores, labels)
  per_class = [metrics for block in blocks for metrics in block]
  average_precision, auc = np.array(per_class, np.float64).reshape(-1, 2).T
  mean_auc = mean_of_defined(auc)
  return {
    "mAP": mean_of_defined(average_precision),
    "mAUC": mean_auc,
    "d_prime": float(np.sqrt(2) * ndtri(mean_auc)),
    "mean_class_d_prime": mean_of_defined(np.sqrt(2) * ndtri(auc)),
    "average_precision": average_precision,
    "auc": auc,
  }


def map_blocks(
  function: Callable[[np.ndarray, np.ndarray], Any], scores: np.ndarray, labels: np.ndarray
) -> list[Any]:
  """Apply a function to blocks of classes in threads.

  Args:
    function: Takes the scores [n, N] and the boolean labels [n, N] of n classes.
    scores: float[N, K].
    labels: bool or 0/1 [N, K].

  Returns:
    The result of each block, in order.

  Raises:
    ValueError: The shapes differ, or a score is NaN.
  """
  scores, labels = np.asarray(scores), np.asarray(labels).astype(bool, copy=False)
  if scores.shape != labels.shape or scores.ndim != 2:
    raise ValueError(
      f"scores and labels must have one shape [N, K], got {scores.shape} and {labels.shape}"
    )

  def of_block(first: int) -> Any:
    block = _columns(scores, first)
    if np.isnan(block).any():
      raise ValueError("scores contain NaN")
    return function(block, _columns(labels, first))

  # NumPy releases the global interpreter lock while it sorts and copies.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(of_block, range(0, labels.shape[1], CLASSES)))


def _block_metrics(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
  """Return the average precision and AUC of each class, from scores and labels [n, N]."""
  return [_class_metrics(*rows) for rows in zip(scores, labels)]


def _class_metrics(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Return the average precision and AUC of one class, from scores and labels [N].

  Equal scores count as one threshold. Both metrics follow from the ranks of the positives among
  all clips and among the positives. This is fast because positives are few.
  """
  chosen, every = np.sort(scores[labels]), np.sort(scores)
  positives, negatives = len(chosen), len(every) - len(chosen)
  if not positives or not negatives:
    return np.nan, np.nan
  below, not_above = (np.searchsorted(every, chosen, side) for side in ("left", "right"))
  true_below, true_not_above = (np.searchsorted(chosen, chosen, s) for s in ("left", "right"))
  precision = (positives - true_below) / (len(every) - below)
  # A negative with the same score counts half.
  beaten = (below - true_below + not_above - true_not_above) / 2
  return float(precision.mean()), float(beaten.mean() / negatives)


def _columns(values: np.ndarray, first: int) -> np.ndarray:
  """Return a block of classes from `first` on, each contiguous in memory.

  The transpose goes in steps that fit the cache.
  """
  columns = values[:, first : first + CLASSES]
  transposed = np.empty(columns.shape[::-1], values.dtype)
  for clip in range(0, len(values), CLIPS):
    transposed[:, clip : clip + CLIPS] = columns[clip : clip + CLIPS].T
  return transposed


def mean_of_defined(values: np.ndarray) -> float:
  """Return the mean of the values that are not NaN; NaN if there are none, or ∞ and -∞."""
  present = values[~np.isnan(values)]
  with np.errstate(invalid="ignore"):
    return float(present.mean()) if len(present) else float("nan")
