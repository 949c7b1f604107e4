"""Confidence intervals of mAP, mAUC and of differences between systems, without resampling.

The estimand is the expected value on test sets of N clips drawn like this one, with the same number
of positives of each label. AP depends on these counts (with few positives it exceeds its limit for
ever more clips), so an interval for another test set size would have to correct the estimate too.

The variance is that of the delete-one jackknife, stratified by positives and negatives of each
label: a clip's deviation is the sum over labels of what its removal changes, so that labels that
share clips may be correlated. The interval is symmetric on the logit scale, with a quantile of
Student's t, so it lies within the metric's range and contains the estimate. `docs/intervals.md` has
its coverage.

Source: Efron & Stein, Ann. Statist. 9, 1981 (the jackknife overestimates the variance, if
anything); DeLong et al., Biometrics 44, 1988 (AUC, where this is their variance).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy.special import expit, logit

from atgcn_jax.metrics import map_blocks

CONFIDENCE = 0.95
METRICS = ("mAP", "mAUC")
# Degrees of freedom per effective clip: 2 V² / Var(V), the sum of the fourth powers for Var(V). Of
# mAUC half as many: near 1, a test set without hard positives has too high a value and too low a
# variance at once.
FREEDOM = {"mAP": 2.0, "mAUC": 1.0, "difference": 2.0}
ROUNDING = 1e-13


class Sampled(NamedTuple):
  """A metric on one test set, or the difference of two, and its sampling error by clip.

  `value` is NaN where no label has both a positive and a negative. `deviations` float64[N] sum to 0
  in each label's positives and negatives; the sum of their squares is the variance of `value`.
  `clips` is the number of clips with a positive of a scored label, or with a negative if these are
  fewer. `varies` is whether any deviation, of either system in a difference, is other than 0.
  `freedom` is as in FREEDOM.
  """

  value: float
  deviations: np.ndarray
  clips: int
  varies: bool
  freedom: float


def sampled(scores: np.ndarray, labels: np.ndarray) -> dict[str, Sampled]:
  """`mAP` and `mAUC` with the deviation of each clip.

  A label with a single positive (or negative) has no variance of its own. The deviation of its
  value from the mean over labels, which includes what labels differ by, takes its place.

  Args:
    scores: float[N, K].
    labels: bool or 0/1 [N, K].
  Raises:
    ValueError: if the shapes differ, or a score is NaN.
  """
  blocks = map_blocks(_block_deviations, scores, labels)
  N = len(labels)
  deviations = sum((block.deviations for block in blocks), np.zeros((len(METRICS), N)))
  values = np.concatenate([np.empty((0, len(METRICS))), *(block.values for block in blocks)])
  K = len(values)
  if not K:
    return {name: Sampled(np.nan, np.zeros(N), 0, False, FREEDOM[name]) for name in METRICS}
  means = values.mean(axis=0)
  if K > 1:
    for block in blocks:
      for clip, of_label in block.single:
        deviations[:, clip] += (of_label - means) * np.sqrt(K / (K - 1))
  deviations[np.abs(deviations) < ROUNDING] = 0  # so that what does not vary is recognised
  labels = np.asarray(labels, bool)
  scored = labels[:, labels.any(axis=0) & ~labels.all(axis=0)]
  clips = min(int(scored.any(axis=1).sum()), int((~scored.all(axis=1)).sum()))
  return {
    name: Sampled(float(value), found / K, clips, bool(found.any()), FREEDOM[name])
    for name, value, found in zip(METRICS, means, deviations)
  }


def intervals(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """The 95 % intervals over clips of one system: `mAP_low`, `mAP_high`, `mAUC_low`, `mAUC_high`.

  Arguments and errors are those of `sampled`.
  """
  limits = {name: interval([found]) for name, found in sampled(scores, labels).items()}
  return {
    f"{name}_{end}": limit
    for name, both in limits.items()
    for end, limit in zip(("low", "high"), both)
  }


def difference(one: Sampled, other: Sampled) -> Sampled:
  """The first minus the second, of two systems on the same clips."""
  return Sampled(
    one.value - other.value,
    one.deviations - other.deviations,
    one.clips,
    one.varies or other.varies,
    FREEDOM["difference"],
  )


def mean_over_folds(folds: Sequence[Sampled]) -> Sampled:
  """The mean of one metric over test sets that share no clip."""
  return Sampled(
    float(np.mean([fold.value for fold in folds])),
    np.concatenate([fold.deviations for fold in folds]) / len(folds),
    sum(fold.clips for fold in folds),
    any(fold.varies for fold in folds),
    folds[0].freedom,
  )


def interval(
  seeds: Sequence[Sampled], lowest: float = 0.0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
  """The limits of the mean over seeds: over clips, and from two seeds on over seeds as well.

  Two variances are added: that of the mean over seeds across clips, and that across seeds on the
  same clips, less the part that the seeds' different deviations of single clips explain, as the
  first contains it. The quantile is the mean of the two t quantiles, weighted by variance. Where
  no clip deviates, as in a perfect ranking, the limits are those that would be reached if the
  largest share of other clips that `clips` observations do not exclude had the lowest (highest)
  value.

  Args:
    seeds: the same metric of one or more trainings on the same clips.
    lowest: the lowest value of the metric, whose highest is 1; -1 for a difference.
    confidence: the stated coverage.
  Returns:
    The lower and the upper limit; (NaN, NaN) where the value is NaN.
  Source: Cochran, Biometrics 20, 1964 (the weighted quantile).
  """
  value = float(np.mean([seed.value for seed in seeds]))
  if np.isnan(value):
    return np.nan, np.nan
  deviations = np.stack([seed.deviations for seed in seeds])
  squares = deviations.mean(axis=0) ** 2
  variances, freedoms = [float(squares.sum())], [_freedom(squares, seeds[0])]
  if len(seeds) > 1:
    shared = deviations.var(axis=0, ddof=1).sum()
    beyond = np.var([seed.value for seed in seeds], ddof=1) - shared
    variances.append(max(float(beyond), 0.0) / len(seeds))
    freedoms.append(len(seeds) - 1)
  variance, tail = sum(variances), (1 - confidence) / 2
  if not variance:
    if any(seed.varies for seed in seeds):  # two systems that rank alike
      return value, value
    share = 1 - tail ** (1 / seeds[0].clips)
    return value - share * (value - lowest), value + share * (1 - value)
  quantile = np.average(scipy.stats.t.isf(tail, freedoms), weights=variances)
  place = (value - lowest) / (1 - lowest)
  half = quantile * np.sqrt(variance) / (1 - lowest) / (place * (1 - place))
  low, high = lowest + (1 - lowest) * expit(logit(place) + np.array([-half, half]))
  return min(float(low), value), max(float(high), value)  # not outside by rounding


def _freedom(squares: np.ndarray, of: Sampled) -> float:
  """Degrees of freedom of a sum of squared deviations: few where a few clips dominate."""
  if not squares.any():
    return 1
  share = squares / squares.sum()
  return max(min(of.freedom / float((share**2).sum()), of.clips - 1), 1)


class _Block(NamedTuple):
  """The n scored labels of a block.

  `values` [n, 2] are AP and AUC, `deviations` [2, N] sums over the labels with two positives and
  two negatives or more, `single` the clip and the values [2] of each other label.
  """

  values: np.ndarray
  deviations: np.ndarray
  single: list[tuple[int, np.ndarray]]


def _block_deviations(scores: np.ndarray, labels: np.ndarray) -> _Block:
  """The deviations of some labels, [n, N] each, not yet divided by the number of labels."""
  N = scores.shape[1]
  values, deviations, single = [], np.zeros((len(METRICS), N)), []
  scored = labels.any(axis=1) & ~labels.all(axis=1)
  for of_label, chosen in zip(scores[scored], labels[scored]):
    positive, negative = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    positive = positive[np.argsort(of_label[positive])]
    found, *changes = _label_deviations(of_label[positive], of_label[negative])
    values.append(found)
    if min(len(positive), len(negative)) == 1:
      single.append((int(min(positive, negative, key=len)[0]), found))
    else:
      for clips, change in zip((positive, negative), changes):
        deviations[:, clips] += change
  return _Block(np.array(values).reshape(-1, len(METRICS)), deviations, single)


def _label_deviations(
  positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """AP and AUC of one label, [2], and the deviations of its positives [2, P] and negatives [2, M].

  What the removal of a clip changes is exact, with ties, and found for all clips at once: a clip
  counts for the precision at all positives that score no higher.

  Args:
    positive: scores [P], ascending.
    negative: scores [M].
  """
  P, M = len(positive), len(negative)
  others = np.sort(negative)
  first, last = (np.searchsorted(positive, positive, side) for side in ("left", "right"))
  below, not_above = (np.searchsorted(others, positive, side) for side in ("left", "right"))
  fewer, not_more = (np.searchsorted(positive, negative, side) for side in ("left", "right"))
  beaten = (below + not_above) / 2 / M  # by each positive, the share of negatives
  missed = 1 - (fewer + not_more) / 2 / P
  auc = beaten.mean()
  true, every = P - first, P - first + M - below  # at or above each positive
  precision = true / every
  # The precision at each positive with one positive less, and its loss to each negative, above it.
  without = (true - 1) / np.maximum(every - 1, 1)
  loss = np.where(every > 1, precision / np.maximum(every - 1, 1), 0) / P
  kept = _sums(without)[last] - without + precision.sum() - _sums(precision)[last]
  taken = _sums(loss)[not_more]
  of_positives = np.stack([kept.mean() - kept, beaten - auc]) / np.sqrt(P * max(P - 1, 1))
  of_negatives = np.stack([(taken.mean() - taken) * (M - 1), missed - auc])
  return (
    np.array([precision.mean(), auc]),
    of_positives,
    of_negatives / np.sqrt(M * max(M - 1, 1)),
  )


def _sums(values: np.ndarray) -> np.ndarray:
  """The sums of the first 0, 1, … all values."""
  return np.concatenate([[0.0], np.cumsum(values)])
