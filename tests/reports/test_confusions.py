"""Confusions between labels, and the worst mistakes, of multi-label scores."""

import numpy as np
import pytest

from atgcn_jax.reports.confusions import (
  Mistake,
  break_even_thresholds,
  multi_label_confusion,
  worst_mistakes,
)

# The matrix of the random labels below, as another implementation of the paper computed it:
# mlcEvaluator2 of dkrst/Multi_Label_Confusion_Matrix at commit 1b2f6950, run on the same arrays.
REFERENCE = [
  [5, 5, 3, 4, 7],
  [4, 8, 2, 2, 5],
  [4, 2, 9, 1, 6],
  [5, 2, 5, 6, 6],
  [3, 4, 2, 3, 1],
]


@pytest.mark.parametrize(
  ("true", "found", "counts"),
  [
    ("", "", {"..": 1}),
    ("a", "a", {"aa": 1}),
    ("ab", "a", {"aa": 1, "b.": 1}),  # category 1: missed, nothing wrong
    ("ab", "", {"a.": 1, "b.": 1}),
    ("a", "abc", {"aa": 1, "ab": 1, "ac": 1}),  # category 2: wrong, nothing missed
    ("", "bc", {".b": 1, ".c": 1}),
    ("ab", "bc", {"bb": 1, "ac": 1}),  # category 3: missed and wrong
    ("ab", "cd", {"ac": 1, "ad": 1, "bc": 1, "bd": 1}),
  ],
)
def test_one_clip(true, found, counts):
  names = "abcd"
  labels, predicted = (
    np.array([[name in chosen for name in names]]).astype(int) for chosen in (true, found)
  )
  matrix = multi_label_confusion(labels, predicted != 0).toarray()
  places = "abcd."  # the last row is no label, the last column no prediction
  cells = {places[i] + places[j]: int(matrix[i, j]) for i, j in zip(*np.nonzero(matrix))}
  assert cells == counts


def test_a_random_matrix():
  random = np.random.default_rng(7)
  labels = (random.random((50, 4)) < 0.4).astype(int)
  predicted = random.random((50, 4)) < 0.35
  assert multi_label_confusion(labels, predicted).toarray().tolist() == REFERENCE


def test_as_many_clips_reach_the_threshold_as_have_the_label():
  random = np.random.default_rng(0)
  scores, labels = random.random((60, 5)), random.random((60, 5)) < [0, 0.1, 0.4, 0.9, 1]
  thresholds = break_even_thresholds(scores, labels)
  assert np.isinf(thresholds[0])
  np.testing.assert_array_equal((scores >= thresholds).sum(axis=0), labels.sum(axis=0))


def test_the_worst_mistakes():
  scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7], [0.5, 0.5, 0.5], [0.6, 0.4, 0.4]])
  labels = np.array([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]])
  heard, missed = worst_mistakes(scores, labels, np.array([0.5, 0.5, 0.5]), 10)
  assert heard == [Mistake(0, 0), Mistake(1, 2), Mistake(2, 0)]  # clip 3 has no absent label
  assert missed == [Mistake(0, 2), Mistake(1, 0), Mistake(3, 1)]
  found = worst_mistakes(scores, labels, np.array([0.5, 0.5, 0.5]), 1)
  assert found == ([Mistake(0, 0)], [Mistake(0, 2)])
  # Labels that are heard where they belong, and scores below the threshold, are no mistakes.
  heard, missed = worst_mistakes(scores, labels, np.array([0.2, 0.3, 0.75]), 10)
  assert heard == [Mistake(0, 0), Mistake(2, 0)]
  assert missed == [Mistake(0, 2), Mistake(3, 2)]
  assert worst_mistakes(scores, scores >= 0.5, np.full(3, 0.5), 10) == ([], [])
  heard, missed = worst_mistakes(scores, labels, np.full(3, np.nan), 10)
  assert not heard, "labels without a threshold are never heard"
  assert len(missed) == 3
