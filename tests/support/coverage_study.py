"""Measure how often the intervals of `atgcn_jax.intervals` contain the estimated value.

  python tests/support/coverage_study.py [--sets 1000] [--parts cells few methods seeds counts]

Prints Markdown tables. Data sets are drawn from populations in which labels share clips, the scores
of a clip are correlated, and some positives are hard to find. The true value of a cell is the mean
over its data sets. Its error is 1/20 to 1/30 of the deviation of a single data set.
`docs/intervals.md` has the results. The study takes about half an hour on one core.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
  os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402
import scipy.stats  # noqa: E402

from atgcn_jax.intervals import METRICS, difference, interval, sampled  # noqa: E402
from atgcn_jax.metrics import tagging_metrics  # noqa: E402

TAIL = 0.025
SHARED_BY_LABELS, SHARED_BY_CLIP = 0.6, 0.4  # correlations of labels in a group, and of scores
GAIN = 0.1  # advantage of the second system in the scores of positives
LIMIT_CLIPS = 100_000
CELLS = [  # clips, positives, labels, shift of the positives' scores
  *((50, positives, 20, 0) for positives in ("1", "1-6", "10")),
  *((137, positives, 20, 0) for positives in ("1", "1-6", "10", "30")),
  *((400, positives, 20, 0) for positives in ("1", "1-6", "10", "30", "100")),
  *((2000, positives, 20, 0) for positives in ("1", "1-6", "10", "30", "100", "1-100")),
  *((20_000, positives, 10, 0) for positives in ("1", "1-6", "10", "30", "100", "1-100")),
  *((400, "10", 1, 0), (400, "100", 1, 0), (137, "1-6", 5, 0), (2000, "1-100", 100, 0)),
  *((137, "1-6", 20, -1), (137, "1-6", 20, 1), (400, "10", 20, -1), (400, "10", 20, 1)),
]
FEW = [  # positives of each label, separations of the labels: clips with one label each
  (2, (4, 4, 4, 0)),
  (2, (3, 3, 3, 0)),
  (2, (3, 3, 3, 3)),
  (2, (1, 1, 1, 1)),
  (3, (4, 4, 4, 0)),
  (5, (4, 4, 4, 0)),
  (5, (3, 3, 3, 0)),
  (4, (4, 0)),
  (10, (4, 0)),
  (8, (4, 4, 4, 4, 4, 4, 4, 4, 4, 1)),
  (3, (2.5,) * 10),
  (8, (4,) * 10),
]
COMPARED = [(50, "1-6", 20, 0), (137, "1-6", 60, -1.5), (400, "10", 20, 0)]


class Population(NamedTuple):
  """K labels: number of positives in N clips, mean score, share of hard positives, and group."""

  clips: int
  counts: np.ndarray
  separations: np.ndarray
  hard: np.ndarray
  groups: np.ndarray


def population(clips: int, positives: str, labels: int = 20, shift: float = 0) -> Population:
  """Return the population of a cell.

  Args:
    clips: The number of clips.
    positives: The number of positives per label, or a range FIRST-LAST of log-uniform numbers.
    labels: The number of labels.
    shift: Added to the mean scores of positives. At 0, the number of negatives that score more than
      a typical positive is about the number of positives.
  """
  r = np.random.default_rng(0)
  first, last = (int(end) for end in (positives.split("-") * 2)[:2])
  counts = np.exp(r.uniform(np.log(first), np.log(last + 1), labels)).astype(int)
  separations = scipy.stats.norm.isf(counts / (clips - counts)) + r.normal(0.3 + shift, 0.7, labels)
  groups = r.integers(0, max(labels // 4, 1), labels)
  return Population(clips, counts, separations, r.uniform(0, 0.4, labels), groups)


def draw(
  r: np.random.Generator,
  of: Population,
  gains: Sequence[float] = (0.0, GAIN),
  seeds: int = 1,
  by_seed: float = 0.0,
  fixed: bool = True,
) -> tuple[list[list[np.ndarray]], np.ndarray]:
  """Return scores float32[N, K] by system and seed, and labels bool[N, K], of one data set.

  Args:
    r: The random generator.
    of: The population.
    gains: The value added to the scores of positives, for each system.
    seeds: The number of seeds per system.
    by_seed: The deviation of the value that a seed adds to the scores of positives.
    fixed: Whether the counts are those of the population, or those of independent clips.
  """
  N, K = of.clips, len(of.counts)

  def normal(*shape: int) -> np.ndarray:
    return r.standard_normal(shape, np.float32)

  common = normal(N, of.groups.max() + 1)[:, of.groups]
  latent = np.sqrt(SHARED_BY_LABELS) * common + np.sqrt(1 - SHARED_BY_LABELS) * normal(N, K)
  if fixed:
    least = [np.partition(latent[:, k], -count)[-count] for k, count in enumerate(of.counts)]
    labels = latent >= np.array(least)
  else:
    labels = latent > scipy.stats.norm.isf(of.counts / N)
  shift = labels * np.where(r.random((N, K), np.float32) < of.hard, 0.3, 1)
  noise = np.sqrt(SHARED_BY_CLIP) * normal(N, 1) + np.sqrt(1 - SHARED_BY_CLIP) * normal(N, K)
  scores = []
  for gain in gains:
    of_system = np.sqrt(0.7) * noise + np.sqrt(0.15) * normal(N, K)
    scores.append(
      [
        np.float32(
          of_system
          + np.sqrt(0.15) * normal(N, K)
          + shift * (of.separations + gain + by_seed * r.standard_normal())
        )
        for _ in range(seeds)
      ]
    )
  return scores, labels


class Coverage(NamedTuple):
  """Shares of data sets with the true value inside, below and above the interval, and its width."""

  inside: float
  below: float
  above: float
  width: float
  truth: float


def coverage(found: Sequence[tuple[float, float, float]], truth: float | None = None) -> Coverage:
  """Return the coverage of (value, low, high) of each data set.

  By default, the true value is the mean of the values.
  """
  values, low, high = np.array(found).T
  truth = float(values.mean()) if truth is None else truth
  below, above = float((truth < low).mean()), float((truth > high).mean())
  return Coverage(1 - below - above, below, above, float((high - low).mean()), truth)


def cell(of: Population, sets: int) -> dict[str, Coverage]:
  """Return the coverage for both metrics of a system, and for the difference of two systems.

  `limit` is the coverage of the mAP in the limit of many clips by the interval of mAP.
  """
  r = np.random.default_rng(1)
  found: dict[str, list] = {name: [] for name in (*METRICS, *(f"{m} difference" for m in METRICS))}
  for _ in range(sets):
    ((one,), (other,)), labels = draw(r, of)
    a, b = sampled(one, labels), sampled(other, labels)
    for name in METRICS:
      change = difference(b[name], a[name])
      found[name].append((a[name].value, *interval([a[name]])))
      found[f"{name} difference"].append((change.value, *interval([change], lowest=-1)))
  for of_metric in found.values():
    values, low, high = np.array(of_metric).T
    assert ((low <= values) & (values <= high)).all(), "an estimate outside its interval"
  scale = LIMIT_CLIPS // of.clips
  many = of._replace(clips=of.clips * scale, counts=of.counts * scale)
  ((scores,),), labels = draw(r, many, gains=(0.0,))
  limit = tagging_metrics(scores, labels)["mAP"]
  return {name: coverage(x) for name, x in found.items()} | {"limit": coverage(found["mAP"], limit)}


def few_clips(positives: int, separations: Sequence[float], sets: int) -> dict[str, Coverage]:
  """Return the coverage for both metrics where each clip has one label.

  Args:
    positives: The number of clips of each label.
    separations: The mean score of the positives of each label. That of negatives is 0.
    sets: The number of data sets.
  """
  r, labels = np.random.default_rng(5), np.repeat(np.eye(len(separations)) > 0, positives, axis=0)
  found: dict[str, list] = {name: [] for name in METRICS}
  for _ in range(sets):
    scores = r.standard_normal(labels.shape) + labels * np.array(separations)
    for name, one in sampled(scores, labels).items():
      found[name].append((one.value, *interval([one])))
  return {name: coverage(of_metric) for name, of_metric in found.items()}


def few_table(sets: int) -> str:
  """Return the table of few clips, among them labels that are ranked perfectly and guessed ones."""
  rows = []
  for positives, separations in FEW:
    x = few_clips(positives, separations, sets)
    alike = len(set(separations)) == 1
    text = f"{len(separations)} of {separations[0]}" if alike else ", ".join(map(str, separations))
    rows.append([len(separations) * positives, positives, text])
    for name in METRICS:
      rows[-1] += [f"{x[name].truth:.3f}", f"{x[name].width:.3f}", percent(x[name].inside)]
    print(*rows[-1], flush=True)
  head = ["clips", "positives", "separations", "mAP: mean", "width", "covered"]
  return table([*head, "mAUC: mean", "width", "covered"], rows)


def cells(sets: int) -> str:
  """Return the table of sizes and positives, and of further populations."""
  head = ["clips", "positives", "labels", "shift", "data sets", "mAP: mean", "width", "covered"]
  head += ["below, above", "mAUC: mean", "covered", "difference in mAP", "in mAUC"]
  rows = []
  for clips, positives, labels, shift in CELLS:
    count = sets if clips <= 400 else max(2 * sets // 5, 400)
    x = cell(population(clips, positives, labels, shift), count)
    mean, auc = x["mAP"], x["mAUC"]
    rows.append([f"{clips:,}", positives.replace("-", " to "), labels, f"{shift:+d}", count])
    rows[-1] += [f"{mean.truth:.3f}", f"{mean.width:.3f}", percent(mean.inside)]
    rows[-1] += [f"{100 * mean.below:.1f}, {100 * mean.above:.1f}"]
    rows[-1] += [f"{auc.truth:.3f}", percent(auc.inside)]
    rows[-1] += [percent(x[f"{name} difference"].inside) for name in METRICS]
    rows[-1] += [f"{x['limit'].truth:.3f}", percent(x["limit"].inside)]
    print(*rows[-1], flush=True)
  return table([*head, "mAP of ever more clips", "covered"], rows)


def resampled_maps(scores, labels, times_of) -> np.ndarray:
  """Return the mAP float64[B] of B resamples of the clips.

  Args:
    scores: [N, K].
    labels: bool[N, K].
    times_of: A function from bool[N] of a label to the number of times each clip is drawn, [B, N].
  """
  found = []
  for of_label, chosen in zip(scores.T, labels.T):
    order = np.argsort(-of_label)
    times = times_of(chosen)[:, order].astype(np.float32)
    hits = times * chosen[order]
    precision = np.cumsum(hits, axis=1) / np.maximum(np.cumsum(times, axis=1), 1)
    with np.errstate(invalid="ignore"):
      found.append((precision * hits).sum(axis=1) / hits.sum(axis=1))
  return np.nanmean(found, axis=0)


def other_methods(r, scores, labels, resamples: int) -> dict[str, tuple[float, float, float]]:
  """Return (value, low, high) of mAP by other methods."""
  N = len(labels)
  one = sampled(scores, labels)["mAP"]
  error, z = np.sqrt((one.deviations**2).sum()), scipy.stats.norm.isf(TAIL)
  times = r.multinomial(N, np.full(N, 1 / N), resamples)

  def stratified(chosen):
    drawn = np.empty((resamples, N), int)
    for side in (chosen, ~chosen):
      drawn[:, side] = r.multinomial(side.sum(), np.full(side.sum(), 1 / side.sum()), resamples)
    return drawn

  maps = resampled_maps(scores, labels, lambda _: times)
  of_labels = resampled_maps(scores, labels, stratified)
  low, high = np.quantile(maps, [TAIL, 1 - TAIL])
  shift = scipy.stats.norm.ppf(np.clip((maps < one.value).mean(), 1 / resamples, 1 - 1 / resamples))
  skew = (one.deviations**3).sum() / max(6 * error**3, 1e-12)
  ends = shift + np.array([-z, z])
  corrected = np.quantile(maps, scipy.stats.norm.cdf(shift + ends / (1 - skew * ends)))
  limits = {
    "percentile": (low, high),
    "basic": (2 * one.value - high, 2 * one.value - low),
    "bias-corrected, accelerated": corrected,
    "percentile, stratified by label": np.quantile(of_labels, [TAIL, 1 - TAIL]),
    "normal, deviation of the resamples": one.value + maps.std() * np.array([-z, z]),
    "normal, jackknife": one.value + error * np.array([-z, z]),
    "this one": interval([one]),
  }
  return {name: (one.value, *ends) for name, ends in limits.items()}


def methods(sets: int, resamples: int = 300) -> str:
  """Return the table of methods for mAP."""
  rows: dict[str, list] = {}
  head = ["method"]
  for clips, positives, count, shift in COMPARED:
    r, of, found = np.random.default_rng(2), population(clips, positives, count, shift), {}
    head += [f"{clips} clips, {positives.replace('-', ' to ')} positives", "estimate inside"]
    for _ in range(sets):
      ((scores,),), labels = draw(r, of, gains=(0.0,))
      for name, ends in other_methods(r, scores, labels, resamples).items():
        found.setdefault(name, []).append(ends)
    for name, ends in found.items():
      value, low, high = np.array(ends).T
      inside = ((low <= value) & (value <= high)).mean()
      rows.setdefault(name, [name]).extend([percent(coverage(ends).inside), percent(inside)])
      print(rows[name], flush=True)
  return table(head, list(rows.values()))


def seeds_table(sets: int) -> str:
  """Return the table of seeds: the mean over seeds and the difference of two systems."""
  rows = []
  for clips, positives in ((137, "1-6"), (400, "10"), (2000, "30")):
    for seeds in (1, 3, 5):
      for by_seed in (0.0, 0.05, 0.2):
        r, of = np.random.default_rng(3), population(clips, positives, 10)
        found: dict[str, list] = {"mean": [], "difference": []}
        for _ in range(sets):
          scores, labels = draw(r, of, seeds=seeds, by_seed=by_seed)
          a, b = ([sampled(s, labels)["mAP"] for s in of_system] for of_system in scores)
          changes = [difference(ours, others) for ours, others in zip(b, a)]
          for name, some, lowest in (("mean", a, 0), ("difference", changes, -1)):
            found[name].append((np.mean([s.value for s in some]), *interval(some, lowest)))
        between = np.std([s.value for s in a], ddof=1) if seeds > 1 else np.nan
        rows.append([f"{clips:,}", positives.replace("-", " to "), seeds, by_seed])
        for of_figure in found.values():
          x = coverage(of_figure)
          rows[-1] += [f"{x.width:.3f}", percent(x.inside)]
        print(*rows[-1], between, flush=True)
  head = ["clips", "positives", "seeds", "deviation of a training", "width, mean", "covered"]
  return table([*head, "width, difference", "covered"], rows)


def counts_table(sets: int) -> str:
  """Return the table of independent clips, whose counts vary between test sets."""
  rows = []
  for clips, positives in ((137, "1-6"), (400, "10"), (2000, "30"), (2000, "100")):
    r, of, found = np.random.default_rng(4), population(clips, positives), []
    for _ in range(sets):
      ((scores,),), labels = draw(r, of, gains=(0.0,), fixed=False)
      one = sampled(scores, labels)["mAP"]
      found.append((one.value, *interval([one])))
    rows.append([f"{clips:,}", positives.replace("-", " to "), percent(coverage(found).inside)])
    print(*rows[-1], flush=True)
  return table(["clips", "expected positives", "covered"], rows)


def percent(share: float) -> str:
  """Return a share in percent."""
  return f"{100 * share:.1f}"


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
  """Return a table as Markdown."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


PARTS = {
  "cells": cells,
  "few": few_table,
  "methods": methods,
  "seeds": seeds_table,
  "counts": counts_table,
}


def main() -> None:
  """Run the command."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--sets", type=int, default=1000, help="number of data sets per cell, fewer for large cells"
  )
  parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
  arguments = parser.parse_args()
  for part in arguments.parts:
    print(f"\n{PARTS[part](arguments.sets)}\n", flush=True)


if __name__ == "__main__":
  main()
