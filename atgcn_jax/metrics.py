"""Mean average precision, mean area under the ROC curve and d', as audio tagging reports them."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri


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
  scores, labels = np.asarray(scores), np.asarray(labels).astype(bool)
  if scores.shape != labels.shape or scores.ndim != 2:
    raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be one [N, K]")
  if np.isnan(scores).any():
    raise ValueError("scores hold NaN")
  per_class = [_class_metrics(scores[:, k], labels[:, k]) for k in range(labels.shape[1])]
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


def _class_metrics(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
  """Average precision and AUC of one class; equal scores count as one threshold."""
  positives = int(labels.sum())
  negatives = len(labels) - positives
  if not positives or not negatives:
    return np.nan, np.nan
  order = np.argsort(-scores, kind="stable")
  ranked = scores[order]
  last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
  true = np.cumsum(labels[order])[last_of_tie].astype(np.float64)
  false = 1.0 + last_of_tie - true
  recall_steps = np.diff(true, prepend=0.0) / positives
  average_precision = float(np.sum(recall_steps * true / (true + false)))
  true_rate = np.concatenate([[0.0], true / positives])
  false_rate = np.concatenate([[0.0], false / negatives])
  return average_precision, float(np.trapezoid(true_rate, false_rate))


def _mean(values: np.ndarray) -> float:
  present = values[~np.isnan(values)]
  return float(present.mean()) if len(present) else float("nan")
