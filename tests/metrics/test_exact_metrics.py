"""Metrics compared with exact fractions, under ties and for classes with few positives."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.ontology_metrics import ontology_map


def exact_average_precision(scores, labels):
  """Return the sum over distinct scores of precision times the rise of recall."""
  positives, precision = sum(labels), Fraction(0)
  for threshold in sorted(set(scores), reverse=True):
    above = [label for score, label in zip(scores, labels) if score >= threshold]
    new = sum(label for score, label in zip(scores, labels) if score == threshold)
    precision += Fraction(sum(above), len(above)) * Fraction(new, positives)
  return precision


def exact_auc(scores, labels):
  """Return the share of pairs of a positive and a negative in order; equal scores count half."""
  pairs = [
    Fraction(1 + (a > b) - (a < b), 2)
    for (a, x), (b, y) in product(zip(scores, labels), repeat=2)
    if x and not y
  ]
  return sum(pairs) / len(pairs)


def test_every_small_class():
  """All labels and all orders of up to five clips, with all ties."""
  for clips in range(2, 6):
    labels = np.array(list(product([0, 1], repeat=clips)))
    labels = labels[labels.any(axis=1) & ~labels.all(axis=1)]
    for scores in product(range(clips), repeat=clips):
      if scores[0] != min(scores) or len(set(scores)) != max(scores) + 1:
        continue  # each set of ties once
      found = tagging_metrics(np.tile(np.array(scores, "f")[:, None], len(labels)), labels.T)
      ap = [exact_average_precision(scores, row.tolist()) for row in labels]
      auc = [exact_auc(scores, row.tolist()) for row in labels]
      np.testing.assert_allclose(found["average_precision"], [float(x) for x in ap], rtol=1e-15)
      np.testing.assert_allclose(found["auc"], [float(x) for x in auc], rtol=1e-15)
      assert found["mAP"] == pytest.approx(float(sum(ap) / len(ap)), rel=1e-14)
      assert found["mAUC"] == pytest.approx(float(sum(auc) / len(auc)), rel=1e-14)


@pytest.mark.parametrize("positives", [1, 2, 199])
def test_few_positives_or_negatives_among_many_clips(positives):
  r = np.random.default_rng(positives)
  scores = r.integers(0, 9, 200)
  labels = np.arange(200) < positives
  found = tagging_metrics(scores[:, None] / 8, labels[:, None])
  pair = scores.tolist(), labels.astype(int).tolist()
  assert found["mAP"] == pytest.approx(float(exact_average_precision(*pair)), rel=1e-14)
  assert found["mAUC"] == pytest.approx(float(exact_auc(*pair)), rel=1e-14)


def test_ontology_map_under_ties():
  """With one distance between all labels, the coarse level 0 is average precision."""
  r = np.random.default_rng(5)
  scores, labels = r.integers(0, 3, (12, 3)), r.random((12, 3)) < 0.4
  labels[:3] = np.eye(3, dtype=bool)
  found = ontology_map(scores, labels, 2 * (1 - np.eye(3, dtype=int)))
  exact = [exact_average_precision(s.tolist(), y.tolist()) for s, y in zip(scores.T, labels.T)]
  assert found.by_level[0] == pytest.approx(float(sum(exact) / 3), rel=1e-12)


def test_scores_that_saturate():
  """Scores of 0, 1 and the largest floats keep their order; equal ones are ties."""
  labels = np.array([[1], [0], [1], [0]])
  for scores in ([1.0, 1.0, 0.0, 0.0], [3e38, 3e38, -3e38, -3e38], [np.inf, np.inf, 0, 0]):
    found = tagging_metrics(np.array(scores, "f")[:, None], labels)
    assert (found["mAP"], found["mAUC"]) == (0.5, 0.5)
