"""Weights and calibration of estimates for labels that a classifier was not trained on.

The estimate of a label is a weighted sum of the square roots of the scores of other labels. The
square root raises the scores of rare labels, which a classifier of many labels keeps low.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.sparse import dense

RIDGE = 0.3  # chosen on held-out training clips of AudioSet; .03 to 3 differ by .005 mAP
NEIGHBOURS = 3  # number of labels of a relation in `conditional_weights`
LEAST = 1e-6  # smallest weighted sum whose logarithm is taken


class Calibration(NamedTuple):
  """The line from the logarithm of a weighted sum to the log-odds of a label. Slopes are ≥ 0."""

  intercept: float
  slope: float


def regression_weights(counts: Counts, known: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Return the weights of the known labels with which each new label is predicted, float64[A, K].

  The weights are those of the ridge regression of a label's presence on the presence of the known
  labels, over the clips that were counted. Counts of pairs determine it.

  Args:
    counts: Counts of all labels.
    known: int[K], positions of the known labels.
    new: int[A], positions of the new labels.

  Source: ridge regression from its normal equations (Hoerl and Kennard, Technometrics 1970).
  """
  together = label_pairs(counts)
  return np.linalg.solve(
    _with_ridge(together[np.ix_(known, known)]), together[np.ix_(known, new)]
  ).T


def left_out_weights(counts: Counts) -> np.ndarray:
  """Return the `regression_weights` of each label on all others, float64[K, K], zero diagonal.

  One inverse gives all K regressions: the weights of label k are its row of the inverse, divided
  by the negative diagonal entry.
  """
  inverse = np.linalg.inv(_with_ridge(label_pairs(counts)))
  weights = -inverse / np.diag(inverse)[:, None]
  np.fill_diagonal(weights, 0)
  return weights


def conditional_weights(counts: Counts) -> np.ndarray:
  """Return P(k | j) for the `NEIGHBOURS` labels j where it is highest, float64[K, K], else 0."""
  together = label_pairs(counts)
  occurrences = np.diag(together).copy()
  np.fill_diagonal(together, 0)
  given = together / np.maximum(occurrences, 1)
  least = np.sort(given, axis=1)[:, -min(NEIGHBOURS, len(given))][:, None]
  return np.where(given >= least, given, 0)


def neighbour_weights(counts: Counts, known: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Return P(k | j) of each new label k and known label j, scaled to sum to 1 for k, float64[A, K].

  Args:
    counts: Counts of all labels.
    known: int[K], positions of the known labels.
    new: int[A], positions of the new labels.
  """
  together = label_pairs(counts)
  return scaled_to_one(together[np.ix_(new, known)] / np.maximum(counts.occurrences[known], 1))


def word_weights(new: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Return weights from the cosine similarity of word vectors, to the fourth power, float64[A, K].

  The weights of a label sum to 1, or to 0 if no known label is similar.

  Args:
    new: float[A, E], vectors of the new labels.
    known: float[K, E], vectors of the known labels.
  """
  new, known = (
    v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9) for v in (new, known)
  )
  weights = np.maximum(new.astype(np.float64) @ known.T.astype(np.float64), 0) ** 4
  return scaled_to_one(weights)


def scaled_to_one(weights: np.ndarray) -> np.ndarray:
  """Return weights [A, K] whose rows sum to 1; rows of zeros remain."""
  totals = weights.sum(axis=1, keepdims=True)
  return weights / np.where(totals > 0, totals, 1)


def weighted_sums(scores: Any, weights: np.ndarray) -> Any:
  """Return the weighted sums of the square roots of scores, [N, A].

  Args:
    scores: float[N, K], scores of the known labels, 0 to 1, of NumPy or JAX.
    weights: float[A, K].
  """
  return scores**0.5 @ weights.T


def fit_calibration(sums: np.ndarray, labels: np.ndarray) -> Calibration:
  """Fit a line by logistic regression over all pairs of a clip and a label.

  Args:
    sums: float[N, K], the `weighted_sums` of labels, each left out of its own sum.
    labels: [N, K], 1 where a clip has the label.

  Returns:
    The calibration. The slope is 0 where the sums do not help.

  Raises:
    ValueError: No clip has a label, or every clip has all.

  Source: Platt scaling, with scikit-learn's LogisticRegression.
  """
  from sklearn.linear_model import LogisticRegression  # takes a second

  x, y = logarithms(sums).reshape(-1, 1), np.asarray(labels).ravel() > 0
  line = LogisticRegression(C=1e6).fit(x, y)
  slope = max(float(line.coef_[0, 0]), 0.0)
  if slope:
    return Calibration(float(line.intercept_[0]), slope)
  return Calibration(float(np.log(y.mean() / (1 - y.mean()))), 0.0)


def logarithms(sums: np.ndarray) -> np.ndarray:
  """Return the natural logarithms of sums, which count as `LEAST` if they are smaller."""
  return np.log(np.maximum(sums, LEAST))


def label_pairs(counts: Counts) -> np.ndarray:
  """Return the number of clips with both labels, float64[K, K], with occurrences as diagonal."""
  together = dense(counts.cooccurrences).astype(np.float64)
  np.fill_diagonal(together, counts.occurrences)
  return together


def _with_ridge(together: np.ndarray) -> np.ndarray:
  """Add the ridge to the diagonal, and 1 for labels that never occur, which get the weight 0."""
  occurrences = np.diag(together)
  return together + np.diag(RIDGE * occurrences + (occurrences == 0))
