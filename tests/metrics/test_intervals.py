"""Intervals compared with the removal of each clip, on degenerate data, and their coverage."""

import numpy as np
import pytest
import scipy.stats
from coverage_study import cell, draw, few_clips, population
from marks import slow
from scipy.special import expit, logit

from atgcn_jax.intervals import (
  METRICS,
  difference,
  interval,
  intervals,
  mean_over_folds,
  sampled,
)
from atgcn_jax.metrics import CLASSES, tagging_metrics

LEAST = 0.025  # probability outside the interval on each side


def scored(clips, labels, seed, levels=20):
  """Return scores with ties, and labels with 0 to all positives, some with 1 or all but 1."""
  r = np.random.default_rng(seed)
  counts = r.integers(0, clips + 1, labels)
  counts[:3] = (1, clips - 1, 2)[: len(counts[:3])]
  chosen = np.argsort(r.random((clips, labels)), axis=0) < counts
  return np.round(r.random((clips, labels)) * levels + 0.3 * levels * chosen) / levels, chosen


def by_removal(scores, labels, key):
  """Return the deviations of one label, from its metric without each clip in turn."""
  whole = tagging_metrics(scores, labels)[key][0]
  without = [
    tagging_metrics(np.delete(scores, n, 0), np.delete(labels, n, 0))[key][0]
    for n in range(len(labels))
  ]
  found, changes = np.zeros(len(labels)), whole - np.array(without)
  for side in (labels[:, 0], ~labels[:, 0]):
    count = side.sum()
    found[side] = (changes[side] - changes[side].mean()) * np.sqrt((count - 1) / count)
  return found


@pytest.mark.parametrize(("clips", "levels"), [(30, 8), (23, 1000), (12, 2)])
def test_deviations_equal_those_by_removing_each_clip(clips, levels):
  scores, labels = scored(clips, 9, clips, levels)
  found, metrics = sampled(scores, labels), tagging_metrics(scores, labels)
  for name, key in zip(METRICS, ("average_precision", "auc")):
    values = metrics[key][~np.isnan(metrics[key])]
    K, expected = len(values), np.zeros(clips)
    for k in np.flatnonzero(~np.isnan(metrics[key])):
      positives = labels[:, k].sum()
      m = min(positives, clips - positives)
      fewer = labels[:, k] if m == positives else ~labels[:, k]
      # The difference from the other labels, an m-th of it in the root of a sum of m squares.
      expected[fewer] += (metrics[key][k] - values.mean()) * np.sqrt(K / (K - 1)) / m / np.sqrt(m)
      if m > 1:
        expected += by_removal(scores[:, [k]], labels[:, [k]], key)
    assert found[name].value == pytest.approx(metrics[name], abs=1e-12)
    np.testing.assert_allclose(found[name].deviations, expected / K, rtol=0, atol=1e-12)


def test_the_variance_of_auc_agrees_with_delong():
  scores, labels = scored(40, 4, 1, 1000)
  scores, labels = scores[:, 3:], labels[:, 3:]
  positive, negative = scores[labels], scores[~labels]
  wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
  delong = sum(wins.mean(axis=axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1))
  found = sampled(scores, labels)["mAUC"]
  assert (found.deviations**2).sum() == pytest.approx(delong)


def test_more_labels_than_one_block():
  r = np.random.default_rng(2)
  labels = r.random((50, CLASSES + 9)) < 0.2
  scores = r.random(labels.shape)
  moved = np.roll(np.arange(CLASSES + 9), 60)
  one, other = (
    sampled(scores[:, order], labels[:, order])["mAP"] for order in (slice(None), moved)
  )
  assert one.value == pytest.approx(other.value)
  np.testing.assert_allclose(one.deviations, other.deviations, rtol=0, atol=1e-15)


def test_the_interval_contains_the_estimate():
  r = np.random.default_rng(0)
  for seed in range(150):
    clips, labels, levels = r.integers(1, 30), r.integers(1, 9), int(r.choice([1, 3, 1000]))
    scores, chosen = scored(clips, labels, seed, levels)
    runs = [scores, *np.round(scores + r.normal(0, 0.3, (2, clips, labels)), int(r.integers(0, 4)))]
    found = [sampled(run, chosen) for run in runs]
    for name in METRICS:
      of_runs = [one[name] for one in found]
      for some, lowest in (
        (of_runs[:1], 0),
        (of_runs, 0),
        ([difference(of_runs[0], of_runs[1])], -1),
        ([difference(one, of_runs[2]) for one in of_runs[:2]], -1),
      ):
        value = np.mean([one.value for one in some])
        low, high = interval(some, lowest)
        assert np.isnan([value, low, high]).all() or lowest <= low <= value <= high <= 1


@pytest.mark.parametrize(("name", "factor"), [("mAP", 2), ("mAUC", 1)])
def test_a_single_system_by_hand(name, factor):
  scores, labels = scored(60, 5, 3, 1000)
  one = sampled(scores, labels)[name]
  squares = one.deviations**2
  freedom = factor * squares.sum() ** 2 / (squares**2).sum()
  assert freedom < one.clips - 1
  half = scipy.stats.t.ppf(1 - LEAST, freedom) * np.sqrt(squares.sum())
  slope = one.value * (1 - one.value)
  expected = expit(logit(one.value) + np.array([-1, 1]) * half / slope)
  assert interval([one]) == pytest.approx(tuple(expected))
  found = intervals(scores, labels)
  assert (found[f"{name}_low"], found[f"{name}_high"]) == interval([one])
  assert list(found) == ["mAP_low", "mAP_high", "mAUC_low", "mAUC_high"]


def test_no_interval_without_classes():
  for shape in ((0, 3), (1, 3), (4, 0), (4, 3)):
    found = intervals(np.zeros(shape), np.zeros(shape))
    assert np.isnan(list(found.values())).all()


def test_a_perfect_ranking_has_a_wide_interval():
  labels = np.eye(10, dtype=bool)[:, :6]
  found = intervals(labels + 0.0, labels)
  # Six clips have a positive. If each were ranked perfectly with a probability below .025^(1/6),
  # a perfect ranking of all six would be too rare.
  assert (found["mAP_low"], found["mAP_high"]) == (pytest.approx(LEAST ** (1 / 6)), 1)
  assert (found["mAUC_low"], found["mAUC_high"]) == (pytest.approx(LEAST ** (1 / 6)), 1)
  worst = intervals(-1.0 * labels, labels)
  assert (worst["mAUC_low"], worst["mAUC_high"]) == (0, pytest.approx(1 - LEAST ** (1 / 6)))


def test_a_single_positive_gives_a_wide_interval():
  labels = np.arange(9)[:, None] == 4
  found = intervals(-np.arange(9.0)[:, None], labels)  # four negatives above
  assert found["mAP_low"] < 0.01
  assert found["mAP_high"] > 0.97
  two = np.arange(9)[:, None] == [4, 4, 3]
  narrower = intervals(-np.arange(9.0)[:, None] + np.zeros(3), two)
  assert 0 < narrower["mAP_low"] < 0.21 < narrower["mAP_high"] < 1


def test_systems_that_rank_alike():
  scores, labels = scored(40, 5, 4)
  one, other = sampled(scores, labels)["mAP"], sampled(2 * scores + 1, labels)["mAP"]
  assert interval([difference(one, other)], -1) == (0, 0)
  perfect = sampled(labels + 0.0, labels)["mAP"]
  low, high = interval([difference(perfect, perfect)], -1)  # more clips may show a difference
  assert (low, high) == (pytest.approx(-high), pytest.approx(1 - LEAST ** (1 / perfect.clips)))


def test_a_difference_is_paired():
  r = np.random.default_rng(5)
  scores, labels = scored(200, 5, 5, 1000)
  a, b = (sampled(s, labels)["mAP"] for s in (scores, scores + 0.02 * r.random(scores.shape)))
  (low, high), (of_a_low, of_a_high) = interval([difference(b, a)], -1), interval([a])
  assert high - low < (of_a_high - of_a_low) / 3
  turned = interval([difference(a, b)], -1)
  assert turned == (pytest.approx(-high), pytest.approx(-low))


def test_intervals_cover_seeds():
  scores, labels = scored(80, 5, 6, 1000)
  one = sampled(scores, labels)["mAP"]
  alike = interval([one, one, one])
  low, high = interval([one])
  assert alike == pytest.approx((low, high))
  apart = [one._replace(value=one.value + change) for change in (-0.1, 0, 0.1)]
  squares = one.deviations**2
  variances = np.array([squares.sum(), 0.1**2 / 3])
  freedoms = 2 * squares.sum() ** 2 / (squares**2).sum(), 2
  quantile = (scipy.stats.t.isf(LEAST, freedoms) * variances).sum() / variances.sum()
  half = quantile * np.sqrt(variances.sum()) / (one.value * (1 - one.value))
  expected = expit(logit(one.value) + np.array([-half, half]))
  assert interval(apart) == pytest.approx(tuple(expected))
  # The different deviations of clips explain the different values of the seeds: nothing is added.
  signs = np.random.default_rng(7).choice([-1.1, 1.1], len(labels)) / np.sqrt(len(labels))
  noisy = [
    one._replace(deviations=one.deviations + change * signs, value=one.value + change)
    for change in (-0.01, 0, 0.01)
  ]
  assert interval(noisy) == pytest.approx((low, high))


def test_folds_are_separate_test_sets():
  folds = [sampled(*scored(50, 5, seed, 1000))["mAP"] for seed in (8, 9)]
  both = mean_over_folds(folds)
  assert both.value == pytest.approx(np.mean([fold.value for fold in folds]))
  variances = [(fold.deviations**2).sum() for fold in folds]
  assert (both.deviations**2).sum() == pytest.approx(sum(variances) / 4)
  assert both.clips == sum(fold.clips for fold in folds)


def test_invalid_scores_and_labels_are_refused():
  with pytest.raises(ValueError, match="must have one shape"):
    sampled(np.zeros((3, 2)), np.zeros((3, 1)))
  with pytest.raises(ValueError, match="NaN"):
    sampled(np.array([[np.nan], [0.0]]), np.array([[1], [0]]))


@pytest.mark.parametrize("positives", [2, 5])
def test_few_clips_do_not_hide_a_label_that_is_guessed(positives):
  """Perfect labels show no variance. Low positives of another label show hardly any."""
  found = few_clips(positives, separations=(4, 4, 4, 0), sets=250)
  for name in METRICS:
    assert found[name].inside > 0.95, name


@pytest.mark.parametrize(("clips", "positives"), [(137, "1-6"), slow(400, "10")])
def test_coverage_of_the_true_value(clips, positives):
  """Check on 250 data sets that the coverage is within four standard errors of 95 %."""
  found = cell(population(clips, positives, labels=12), 250)
  for name in ("mAP", "mAUC", "mAP difference", "mAUC difference"):
    assert found[name].inside > 0.895, name
  assert found["mAP"].inside < 0.995
  assert found["mAP difference"].inside < 0.998


def test_seeds_that_differ_are_covered_only_with_their_variance():
  r, of, inside = np.random.default_rng(1), population(400, "10", labels=6), []
  values, limits, of_clips = [], [], []
  for _ in range(200):
    (scores,), labels = draw(r, of, gains=(0.0,), seeds=3, by_seed=0.4)
    seeds = [sampled(s, labels)["mAP"] for s in scores]
    values.append(np.mean([seed.value for seed in seeds]))
    limits.append(interval(seeds))
    mean = seeds[0]._replace(
      value=values[-1], deviations=np.mean([seed.deviations for seed in seeds], axis=0)
    )
    of_clips.append(interval([mean]))
  inside = [
    np.mean((np.array(x)[:, 0] <= np.mean(values)) & (np.mean(values) <= np.array(x)[:, 1]))
    for x in (limits, of_clips)
  ]
  assert inside[0] > 0.89
  assert inside[1] < 0.87
