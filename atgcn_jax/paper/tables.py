"""Tables of systems: the paper's figures and ours, deviations over seeds, paired differences."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.metrics import interval, resampled_differences, tagging_metrics
from atgcn_jax.paper.experiments import BASELINE, Experiment
from atgcn_jax.paper.runs import Scored

METRICS = ("mAP", "mAUC", "d_prime")


class Row(NamedTuple):
  """A system's figures.

  `means` and `deviations` are of METRICS over seeds (after the mean over folds), the deviation NaN
  for one seed. `difference` is mAP minus the baseline's, `low` to `high` its interval over clips;
  NaN for the baseline itself.
  """

  experiment: Experiment
  seeds: int
  folds: int
  clips: int
  means: tuple[float, ...]
  deviations: tuple[float, ...]
  difference: float
  low: float
  high: float


def rows_of(scored: dict[str, list[Scored]], wanted: Sequence[Experiment]) -> list[Row]:
  """A row an experiment, in the order they are wanted."""
  return [row_of(scored[experiment.name], scored[BASELINE], experiment) for experiment in wanted]


def row_of(runs: list[Scored], baseline: list[Scored], experiment: Experiment) -> Row:
  """The row of one experiment."""
  seeds, folds = sorted({run.seed for run in runs}), sorted({run.fold for run in runs})
  figures = {(run.seed, run.fold): tagging_metrics(run.scores, run.labels) for run in runs}
  by_seed = np.array(
    [[np.mean([figures[seed, fold][name] for fold in folds]) for name in METRICS] for seed in seeds]
  )
  deviations = by_seed.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(METRICS), np.nan)
  return Row(
    experiment,
    len(seeds),
    len(folds),
    sum(len(run.labels) for run in runs if run.seed == seeds[0]),
    tuple(by_seed.mean(axis=0).tolist()),
    tuple(deviations.tolist()),
    *(paired_difference(runs, baseline) if experiment.name != BASELINE else (math.nan,) * 3),
  )


def paired_difference(runs: list[Scored], baseline: list[Scored]) -> tuple[float, float, float]:
  """mAP of these runs minus the baseline's on the same clips, and its 95 % interval over clips.

  Each is the mean over folds and seeds. Clips are drawn anew within each fold, the same for all
  runs; what differs between seeds is in the mean, not in the interval.

  Source: the percentile bootstrap.
  """
  rng = np.random.default_rng(0)
  found, resampled = [], []
  for fold in sorted({run.fold for run in runs}):
    ours, others = ([run for run in some if run.fold == fold] for some in (runs, baseline))
    difference, drawn = resampled_differences(
      [run.scores for run in ours], [run.scores for run in others], ours[0].labels, rng
    )
    found.append(difference)
    resampled.append(drawn)
  return float(np.mean(found)), *interval(np.mean(resampled, axis=0))


def write_table(rows: list[Row], stem: pathlib.Path, title: str, note: str) -> str:
  """Write STEM.md and STEM.csv; returns the Markdown.

  Args:
    note: what is said below the table: the store, the settings.
  """
  stem.parent.mkdir(parents=True, exist_ok=True)
  text = markdown(rows, title, note)
  stem.with_suffix(".md").write_text(text, encoding="utf-8")
  with open(stem.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{part}" for name in METRICS for part in ("", "_deviation", "_paper")]
    writer.writerow(
      ["name", "system", "seeds", "folds", "clips", *columns, "difference", "low", "high"]
    )
    for row in rows:
      published = row.experiment.published or (math.nan,) * len(METRICS)
      figures = [x for three in zip(row.means, row.deviations, published) for x in three]
      counts = [row.seeds, row.folds, row.clips]
      numbers = [*figures, row.difference, row.low, row.high]
      writer.writerow(
        [row.experiment.name, row.experiment.title, *counts]
        + ["" if math.isnan(x) else f"{x:.6f}" for x in numbers]
      )
  return text


def markdown(rows: list[Row], title: str, note: str) -> str:
  """The table as Markdown."""
  lines = [
    f"# {title}",
    "",
    "| system | paper: mAP, mAUC, d' | mAP | mAUC | d' | mAP to CNN10 [95 % interval] |",
    "|---|---|---|---|---|---|",
  ]
  for row in rows:
    paper = "–"
    if row.experiment.published:
      paper = "{:.3f}, {:.3f}, {:.3f}".format(*row.experiment.published)
    ours = [
      f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")
      for mean, deviation in zip(row.means, row.deviations)
    ]
    difference = "–"
    if not math.isnan(row.difference):
      difference = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    lines.append(f"| {' | '.join([row.experiment.title, paper, *ours, difference])} |")
  first = rows[0]
  lines += [
    "",
    f"{first.clips} test clips, {first.seeds} seed{'s' * (first.seeds > 1)}, "
    f"{first.folds} fold{'s' * (first.folds > 1)}; ± is the standard deviation over seeds. {note}",
    "",
  ]
  return "\n".join(lines)
