"""What a system hears instead of a label: confusions and mistakes of multi-label scores."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy


def multi_label_confusion(labels: np.ndarray, predicted: np.ndarray) -> scipy.sparse.csr_array:
  """Return the multi-label confusion matrix, int64[K + 1, K + 1], which is sparse.

  Rows are labels of the clips, columns are predicted labels. A label that is predicted counts on
  the diagonal. A predicted label that the clip does not have counts in the rows of the labels that
  were missed in the clip, or if none was missed, in the rows of all its labels. The last column
  counts labels that were missed in clips without such a prediction. The last row counts such
  predictions in clips without a label.

  Args:
    labels: [N, K], nonzero where a clip has the label.
    predicted: bool[N, K], whether the label is predicted.

  Source:
    Heydarian, Doyle and Samavi, MLCM: Multi-Label Confusion Matrix, IEEE Access, 2022.
  """
  clips, K = labels.shape
  rows: list[np.ndarray] = []
  columns: list[np.ndarray] = []

  def count(of: np.ndarray, instead: np.ndarray) -> None:
    rows.append(np.repeat(of, len(instead)))
    columns.append(np.tile(instead, len(of)))

  none = np.array([K])
  for i in range(clips):
    true, found = np.flatnonzero(labels[i]), np.flatnonzero(predicted[i])
    missed, wrong = np.setdiff1d(true, found), np.setdiff1d(found, true)
    hit = np.intersect1d(true, found)
    rows.append(hit)
    columns.append(hit)
    if len(wrong):
      count(missed if len(missed) else true if len(true) else none, wrong)
    elif len(missed):
      count(missed, none)
    elif not len(true):
      count(none, none)
  places = (np.concatenate([[], *rows]).astype(int), np.concatenate([[], *columns]).astype(int))
  ones = np.ones(len(places[0]), np.int64)
  return scipy.sparse.coo_array((ones, places), (K + 1, K + 1)).tocsr()


def break_even_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Return the score of each label that as many clips reach as have the label, float64[K].

  Up to ties, precision and recall are equal there. The value is infinite for labels without a clip.

  Args:
    scores: float[N, K].
    labels: [N, K], nonzero where a clip has the label.
  """
  positives = np.count_nonzero(labels, axis=0)
  ranked = -np.sort(-scores, axis=0)
  least = ranked[np.maximum(positives, 1) - 1, np.arange(scores.shape[1])].astype(np.float64)
  return np.where(positives > 0, least, np.inf)


class Mistake(NamedTuple):
  """The positions of a clip and of a label whose score is wrong."""

  clip: int
  label: int


def worst_mistakes(
  scores: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, count: int
) -> tuple[list[Mistake], list[Mistake]]:
  """Return the highest scores of absent labels that are heard, and the lowest of missed labels.

  A label is heard in a clip if its score reaches its threshold. Of each clip, each list has only
  the worst mistake.

  Args:
    scores: float[N, K].
    labels: [N, K], nonzero where a clip has the label.
    thresholds: float[K], NaN for labels that are never heard.
    count: The maximum length of each list.
  """
  with np.errstate(invalid="ignore"):
    is_heard, present = scores >= thresholds, labels != 0
  absent_scores = np.where(is_heard & ~present, scores, -np.inf)
  present_scores = np.where(present & ~is_heard, scores, np.inf)
  heard = _most_extreme(absent_scores.argmax(axis=1), -absent_scores.max(axis=1), count)
  missed = _most_extreme(present_scores.argmin(axis=1), present_scores.min(axis=1), count)
  return heard, missed


def _most_extreme(label_of_clip: np.ndarray, order: np.ndarray, count: int) -> list[Mistake]:
  """Return the clips with the smallest finite `order`, with their labels."""
  clips = np.argsort(order, kind="stable")[:count]
  return [Mistake(int(i), int(label_of_clip[i])) for i in clips if np.isfinite(order[i])]
