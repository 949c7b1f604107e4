"""Estimates of labels from counts and word vectors."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import (
  NEIGHBOURS,
  RIDGE,
  conditional_weights,
  fit_calibration,
  left_out_weights,
  logarithms,
  regression_weights,
  weighted_sums,
  word_weights,
)


@pytest.fixture(scope="module")
def labels():
  """Labels uint8[400, 6] that depend on each other."""
  rng = np.random.default_rng(0)
  first = rng.random((400, 3)) < 0.3
  second = first & (rng.random((400, 3)) < 0.7) | (rng.random((400, 3)) < 0.1)
  return np.concatenate([first, second], axis=1).astype(np.uint8)


def counted(labels):
  together = labels.T.astype(np.int64) @ labels
  return Counts(np.diag(together).copy(), together - np.diag(np.diag(together)))


def test_regression_weights_are_those_of_scikit_learn(labels):
  known, new = np.array([0, 1, 3, 4]), np.array([2, 5])
  found = regression_weights(counted(labels), known, new)
  # A penalty in proportion to a label's occurrences is a penalty of 1 on scaled inputs.
  scale = np.sqrt(RIDGE * labels[:, known].sum(axis=0))
  model = Ridge(alpha=1.0, fit_intercept=False).fit(labels[:, known] / scale, labels[:, new])
  np.testing.assert_allclose(found, model.coef_ / scale, atol=1e-10)


def test_one_inverse_leaves_each_label_out(labels):
  counts = counted(labels)
  for k, row in enumerate(left_out_weights(counts)):
    others = np.delete(np.arange(6), k)
    assert row[k] == 0
    expected = regression_weights(counts, others, np.array([k]))[0]
    np.testing.assert_allclose(row[others], expected, atol=1e-12)


def test_a_label_that_never_occurs_gets_no_weight(labels):
  labels = labels.copy()
  labels[:, 1] = 0
  counts = counted(labels)
  assert np.isfinite(left_out_weights(counts)).all()
  weights = regression_weights(counts, np.array([0, 1, 3]), np.array([2]))
  assert weights[0, 1] == 0


def test_conditional_weights_are_the_highest_probabilities(labels):
  given, k = conditional_weights(counted(labels)), 3
  shares = [labels[labels[:, j] == 1, k].mean() if j != k else 0 for j in range(labels.shape[1])]
  least = np.sort(shares)[-NEIGHBOURS]
  np.testing.assert_allclose(given[k], np.where(shares >= least, shares, 0))


def test_word_weights_prefer_similar_words():
  known = np.array([[1.0, 0], [0, 1], [-1, 0]])
  weights = word_weights(np.array([[2.0, 1], [0, 0]]), known)
  np.testing.assert_allclose(weights[0], [16 / 17, 1 / 17, 0])
  assert not weights[1].any()  # a zero vector is similar to nothing


def test_calibration_is_monotone_and_calibrated(labels):
  rng = np.random.default_rng(1)
  scores = np.clip(labels * 0.6 + rng.random(labels.shape) * 0.4, 0, 1)
  sums = weighted_sums(scores, left_out_weights(counted(labels)))
  line = fit_calibration(sums, labels)
  assert line.slope > 0
  estimates = 1 / (1 + np.exp(-line.intercept - line.slope * logarithms(sums)))
  assert estimates.mean() == pytest.approx(labels.mean(), rel=1e-3)
  order = np.argsort(sums.ravel())
  assert (np.diff(estimates.ravel()[order]) >= 0).all()


def test_sums_that_do_not_help_give_the_share_of_positives(labels):
  line = fit_calibration(1.0 - 0.9 * labels, labels)
  assert line.slope == 0
  assert 1 / (1 + np.exp(-line.intercept)) == pytest.approx(labels.mean())
