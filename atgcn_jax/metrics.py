"""Mean average precision, mean area under the ROC curve and d', as audio tagging reports them."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtri

CLASSES, CLIPS = 64, 512  # how many are turned about at a time, which bounds the memory


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
  found = map_blocks(_block_metrics, scores, labels)
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


def map_blocks(
  function: Callable[[np.ndarray, np.ndarray], Any], scores: np.ndarray, labels: np.ndarray
) -> list[Any]:
  """Apply a function to blocks of classes in threads; returns one result per block, in order.

  Args:
    function: takes the scores and the labels bool of n classes, [n, N] each.
    scores: float[N, K].
    labels: bool or 0/1 [N, K].
  Raises:
    ValueError: if the shapes differ, or a score is NaN.
  """
  scores, labels = np.asarray(scores), np.asarray(labels).astype(bool, copy=False)
  if scores.shape != labels.shape or scores.ndim != 2:
    raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be one [N, K]")

  def of_block(first: int) -> Any:
    block = _columns(scores, first)
    if np.isnan(block).any():
      raise ValueError("scores hold NaN")
    return function(block, _columns(labels, first))

  with concurrent.futures.ThreadPoolExecutor() as pool:  # NumPy sorts and copies without the lock
    return list(pool.map(of_block, range(0, labels.shape[1], CLASSES)))


def _block_metrics(scores: np.ndarray, labels: np.ndarray) -> list[tuple[float, float]]:
  """Average precision and AUC of some classes, [n, N] each."""
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
