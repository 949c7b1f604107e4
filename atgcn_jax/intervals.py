"""Confidence intervals of mAP, mAUC and of differences between systems, without resampling.

The estimand is the expected value on test sets of N clips drawn like this one, with the same number
of positives per label. AP depends on these counts: with few positives it exceeds its limit for an
infinite number of clips. An interval for another test set size would also have to correct the
estimate.

The variance is that of the delete-one jackknife, stratified by positives and negatives of each
label. The deviation of a clip is the sum over labels of the change that its removal causes. Labels
that share clips may therefore be correlated. Few positives, which may all rank alike, show too
little of their variance. So the value of a label with m positives also deviates by an m-th of its
difference from the mean over labels. The interval is symmetric on the logit scale and uses a
quantile of Student's t. It stays within the range of the metric and contains the estimate.
`docs/intervals.md` reports its coverage.

Source:
  Efron & Stein, Ann. Statist. 9, 1981 (the jackknife tends to overestimate the variance); DeLong et
  al., Biometrics 44, 1988 (for AUC, this variance is theirs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, stdtrit

from atgcn_jax.metrics import map_blocks

CONFIDENCE = 0.95
METRICS = ("mAP", "mAUC")
# Degrees of freedom per effective clip: 2 V² / Var(V), with the sum of the fourth powers as Var(V).
# mAUC gets half as many: near 1, a test set without hard positives has too high a value and, at the
# same time, too low a variance.
FREEDOM = {"mAP": 2.0, "mAUC": 1.0, "difference": 2.0}
ROUNDING = 1e-13  # smaller deviations count as 0


class Sampled(NamedTuple):
  """A metric on one test set, or the difference of two metrics, and its sampling error per clip.

  Attributes:
    value: The metric. NaN if no label has both a positive and a negative.
    deviations: float64[N]. The sum of their squares is the variance of `value`.
    clips: The number of clips with a positive of a scored label, or with a negative if these are
      fewer.
    varies: Whether any deviation (in a difference, of either system) is not 0.
    freedom: Degrees of freedom per effective clip, as in FREEDOM.
  """

  value: float
  deviations: np.ndarray
  clips: int
  varies: bool
  freedom: float


def sampled(scores: np.ndarray, labels: np.ndarray) -> dict[str, Sampled]:
  """Return `mAP` and `mAUC` with the deviation of each clip.

  The difference of each label's value from the mean over labels, divided by the number m of its
  positives (or negatives, if these are fewer), is spread over these clips. It stands for the
  variance that m clips do not show: all of it for one clip, hardly any for many. It includes the
  variation between labels.

  Args:
    scores: float[N, K].
    labels: bool or 0/1 [N, K].

  Raises:
    ValueError: The shapes differ, or a score is NaN.
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
    fewer = (clips for block in blocks for clips in block.fewer)
    for clips, apart in zip(fewer, (values - means) * np.sqrt(K / (K - 1))):
      deviations[:, clips] += apart[:, None] / len(clips) ** 1.5
  deviations[np.abs(deviations) < ROUNDING] = 0  # so that `varies` ignores rounding errors
  labels = np.asarray(labels, bool)
  scored = labels[:, labels.any(axis=0) & ~labels.all(axis=0)]
  count = min(int(scored.any(axis=1).sum()), int((~scored.all(axis=1)).sum()))
  return {
    name: Sampled(float(value), sums / K, count, bool(sums.any()), FREEDOM[name])
    for name, value, sums in zip(METRICS, means, deviations)
  }


def intervals(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Return the 95 % intervals over clips of one system.

  Args:
    scores: float[N, K].
    labels: bool or 0/1 [N, K].

  Returns:
    `mAP_low`, `mAP_high`, `mAUC_low` and `mAUC_high`.

  Raises:
    ValueError: The shapes differ, or a score is NaN.
  """
  limits = {name: interval([metric]) for name, metric in sampled(scores, labels).items()}
  return {
    f"{name}_{end}": limit
    for name, both in limits.items()
    for end, limit in zip(("low", "high"), both)
  }


def difference(one: Sampled, other: Sampled) -> Sampled:
  """Return the first minus the second metric of two systems on the same clips."""
  return Sampled(
    one.value - other.value,
    one.deviations - other.deviations,
    one.clips,
    one.varies or other.varies,
    FREEDOM["difference"],
  )


def mean_over_folds(folds: Sequence[Sampled]) -> Sampled:
  """Return the mean of one metric over test sets that share no clips."""
  return Sampled(
    float(np.mean([fold.value for fold in folds])),
    np.concatenate([fold.deviations for fold in folds]) / len(folds),
    sum(fold.clips for fold in folds),
    any(fold.varies for fold in folds),
    folds[0].freedom,
  )


def interval(seeds: Sequence[Sampled], lowest: float = 0.0) -> tuple[float, float]:
  """Return the limits of the mean over seeds, with a nominal coverage of `CONFIDENCE`.

  The interval covers the sampling of clips. With two or more seeds it also covers the variation
  between seeds.

  Two variances are added. The first is that of the mean over seeds across clips. The second is that
  across seeds on the same clips, minus the part that is explained by the different deviations of
  single clips, because the first already contains it. The quantile is the mean of the two t
  quantiles, weighted by variance.

  If no clip deviates, as in a perfect ranking, the limits assume unseen clips with the lowest
  (highest) value. Their share is the largest that `clips` observations do not exclude.

  Args:
    seeds: The same metric of one or more training runs on the same clips.
    lowest: The lowest value of the metric: 0, or -1 for a difference. The highest is 1.

  Returns:
    The lower and the upper limit. (NaN, NaN) if the value is NaN.

  Source:
    Cochran, Biometrics 20, 1964 (the weighted quantile).
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
  variance, tail = sum(variances), (1 - CONFIDENCE) / 2
  if not variance:
    if any(seed.varies for seed in seeds):  # a difference of two systems that rank alike
      return value, value
    share = 1 - tail ** (1 / seeds[0].clips)
    return value - share * (value - lowest), value + share * (1 - value)
  quantile = np.average(-stdtrit(freedoms, tail), weights=variances)
  place = (value - lowest) / (1 - lowest)
  half = quantile * np.sqrt(variance) / (1 - lowest) / (place * (1 - place))
  low, high = lowest + (1 - lowest) * expit(logit(place) + np.array([-half, half]))
  return min(float(low), value), max(float(high), value)  # rounding must not exclude the value


def _freedom(squares: np.ndarray, of: Sampled) -> float:
  """Return the degrees of freedom of a sum of squared deviations: few if few clips dominate."""
  if not squares.any():
    return 1
  share = squares / squares.sum()
  return max(min(of.freedom / float((share**2).sum()), of.clips - 1), 1)


class _Block(NamedTuple):
  """The n scored labels of a block.

  Attributes:
    values: AP and AUC, [n, 2].
    deviations: Sums [2, N] over the labels with at least two positives and two negatives.
    fewer: For each label, the numbers of its positive clips, or of its negatives if they are fewer.
  """

  values: np.ndarray
  deviations: np.ndarray
  fewer: list[np.ndarray]


def _block_deviations(scores: np.ndarray, labels: np.ndarray) -> _Block:
  """Return the deviations of a block of labels, not yet divided by the number of labels.

  Args:
    scores: float[n, N].
    labels: bool[n, N].
  """
  N = scores.shape[1]
  values, deviations, fewer = [], np.zeros((len(METRICS), N)), []
  scored = labels.any(axis=1) & ~labels.all(axis=1)
  for label_scores, chosen in zip(scores[scored], labels[scored]):
    positive, negative = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    positive = positive[np.argsort(label_scores[positive])]
    metrics, *changes = _label_deviations(label_scores[positive], label_scores[negative])
    values.append(metrics)
    fewer.append(min(positive, negative, key=len))
    if len(fewer[-1]) > 1:
      for clips, change in zip((positive, negative), changes):
        deviations[:, clips] += change
  return _Block(np.array(values).reshape(-1, len(METRICS)), deviations, fewer)


def _label_deviations(
  positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the metrics of one label and the deviations of its clips.

  The change by removing a clip is exact, also with ties, and is computed for all clips at once: a
  clip counts for the precision at all positives that score no higher.

  Args:
    positive: Scores [P] of the positives, ascending.
    negative: Scores [M] of the negatives.

  Returns:
    AP and AUC [2], the deviations of the positives [2, P] and those of the negatives [2, M].
  """
  P, M = len(positive), len(negative)
  others = np.sort(negative)
  first, last = (np.searchsorted(positive, positive, side) for side in ("left", "right"))
  below, not_above = (np.searchsorted(others, positive, side) for side in ("left", "right"))
  fewer, not_more = (np.searchsorted(positive, negative, side) for side in ("left", "right"))
  beaten = (below + not_above) / 2 / M  # for each positive, the share of negatives below it
  missed = 1 - (fewer + not_more) / 2 / P  # for each negative, the share of positives above it
  auc = beaten.mean()
  true, every = P - first, P - first + M - below  # numbers at or above each positive
  precision = true / every
  # The precision at each positive after another positive at or above it is removed, and its loss
  # by each negative at or above it.
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
  """Return the sums of the first 0, 1, …, all values."""
  return np.concatenate([[0.0], np.cumsum(values)])
