"""The metrics compared with those of scikit-learn."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from atgcn_jax.metrics import CLASSES, CLIPS, tagging_metrics


def expected(scores, labels):
  """Return AP and AUC per class from scikit-learn; NaN if a class has only one kind of clip."""
  values = np.full((2, labels.shape[1]), np.nan)
  for k in np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0)):
    values[0, k] = average_precision_score(labels[:, k], scores[:, k])
    values[1, k] = roc_auc_score(labels[:, k], scores[:, k])
  return values


def check(scores, labels):
  found = tagging_metrics(scores, labels)
  average_precision, auc = expected(scores, labels)
  np.testing.assert_allclose(found["average_precision"], average_precision, rtol=0, atol=1e-9)
  np.testing.assert_allclose(found["auc"], auc, rtol=0, atol=1e-9)
  assert found["mAP"] == pytest.approx(np.nanmean(average_precision), abs=1e-9)
  assert found["mAUC"] == pytest.approx(np.nanmean(auc), abs=1e-9)
  d_prime = np.sqrt(2) * norm.ppf(np.nanmean(auc))
  assert found["d_prime"] == pytest.approx(d_prime, abs=1e-9)
  return found


@pytest.mark.parametrize("levels", [2, 7, 100_000])
def test_equal_to_scikit_learn_with_ties(levels):
  r = np.random.default_rng(levels)
  labels = r.random((300, 12)) < np.linspace(0.01, 0.9, 12)
  labels[:40] = False  # clips without labels
  labels[40:42, 0] = True
  scores = r.integers(0, levels, (300, 12)) / levels + 0.2 * labels
  scores = np.round(scores * levels) / levels
  check(scores, labels)
  check(scores.astype(np.float32), labels.astype(np.int8))


@pytest.mark.parametrize("score_type", ["float16", "float32", "float64"])
@pytest.mark.parametrize("label_type", ["bool", "uint8", "int64", "float32"])
def test_any_type_and_more_positives_than_negatives(score_type, label_type):
  r = np.random.default_rng(1)
  clips, classes = 2 * CLIPS + 7, CLASSES + 5  # neither is a multiple of the block size
  labels = r.random((clips, classes)) < np.linspace(0.004, 0.996, classes)
  labels[0], labels[1] = True, False
  logits = 2 * r.standard_normal(labels.shape) - 3 + labels
  scores = np.round(1 / (1 + np.exp(-logits)), 2).astype(score_type)  # many are equal
  turned = np.asfortranarray(scores)
  found = check(scores, labels.astype(label_type))
  np.testing.assert_array_equal(tagging_metrics(turned, labels)["auc"], found["auc"])


def test_classes_with_one_kind_of_clip_are_left_out():
  r = np.random.default_rng(0)
  labels = r.random((50, 4)) < 0.3
  labels[:, 1], labels[:, 2] = False, True
  scores = r.random((50, 4))
  found = check(scores, labels)
  np.testing.assert_array_equal(np.isnan(found["auc"]), [False, True, True, False])
  alone = tagging_metrics(scores[:, [0, 3]], labels[:, [0, 3]])
  for name in ("mAP", "mAUC", "d_prime", "mean_class_d_prime"):
    assert found[name] == alone[name]


def test_all_scores_equal():
  labels = np.array([[1, 0], [0, 0], [0, 1], [0, 1]])
  found = check(np.full((4, 2), 0.5), labels)
  np.testing.assert_allclose(found["average_precision"], [0.25, 0.5])
  np.testing.assert_allclose(found["auc"], [0.5, 0.5])
  assert found["d_prime"] == pytest.approx(0, abs=1e-12)


def test_one_class():
  found = check(np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [1]]))
  assert found["mAP"] == pytest.approx((1 + 2 / 3) / 2)
  assert found["mAUC"] == pytest.approx(0.5)


def test_one_clip_has_no_metric():
  found = tagging_metrics(np.array([[0.9, 0.1]]), np.array([[1, 0]]))
  assert np.isnan([found[name] for name in ("mAP", "mAUC", "d_prime")]).all()
  assert np.isnan(found["auc"]).tolist() == [True, True]


def test_perfect_and_reversed_rankings():
  labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
  scores = np.array([[4, 4], [3, 3], [2, 2], [1, 1]])
  best, worst = (tagging_metrics(scores[:, [k]], labels[:, [k]]) for k in (0, 1))
  assert (best["mAP"], best["mAUC"], best["d_prime"]) == (1, 1, np.inf)
  assert worst["mAP"] == pytest.approx((1 / 3 + 2 / 4) / 2)
  assert (worst["mAUC"], worst["d_prime"]) == (0, -np.inf)


def test_d_prime_of_the_mean_and_mean_of_d_primes():
  r = np.random.default_rng(3)
  labels = r.random((400, 5)) < 0.4
  scores = r.standard_normal((400, 5)) + labels * np.array([0.1, 0.5, 1.0, 2.0, 3.0])
  found = tagging_metrics(scores, labels)
  classes = np.sqrt(2) * norm.ppf(found["auc"])
  assert found["mean_class_d_prime"] == pytest.approx(classes.mean(), abs=1e-9)
  assert found["d_prime"] != pytest.approx(found["mean_class_d_prime"], abs=1e-3)
  # The mAUC .974 and d' 2.736 of the paper agree to the printed digits.
  assert np.sqrt(2) * norm.ppf(0.974) == pytest.approx(2.736, abs=0.02)


def test_logits_rank_as_their_sigmoids_and_infinities_tie():
  r = np.random.default_rng(4)
  labels = r.random((60, 3)) < 0.5
  logits = np.round(r.standard_normal((60, 3)), 1)
  a, b = (tagging_metrics(s, labels) for s in (logits, 1 / (1 + np.exp(-logits))))
  assert (a["mAP"], a["mAUC"]) == (b["mAP"], b["mAUC"])
  infinite = np.where(logits > 0.5, np.inf, logits)
  check_like = np.where(logits > 0.5, 100.0, logits)
  assert tagging_metrics(infinite, labels)["mAP"] == tagging_metrics(check_like, labels)["mAP"]


def test_invalid_scores_and_labels_are_refused():
  with pytest.raises(ValueError, match="must have one shape"):
    tagging_metrics(np.zeros((3, 2)), np.zeros((3, 1)))
  with pytest.raises(ValueError, match="must have one shape"):
    tagging_metrics(np.zeros(3), np.zeros(3))
  with pytest.raises(ValueError, match="NaN"):
    tagging_metrics(np.array([[np.nan], [0.0]]), np.array([[1], [0]]))
  with pytest.raises(ValueError, match="NaN"):  # also in a class that has no metric
    tagging_metrics(np.array([[0.5, np.nan], [0.0, 0.0]]), np.array([[1, 0], [0, 0]]))
