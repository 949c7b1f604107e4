"""Tables of systems: published and own results, deviations over seeds, paired differences."""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.intervals import Sampled, difference, interval, mean_over_folds, sampled
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiment_runs import ScoredRun
from atgcn_jax.paper.experiments import BASELINE, Experiment
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

METRICS = ("mAP", "mAUC", "d_prime")
INTERVALS = ("mAP_low", "mAP_high", "difference", "low", "high")


class TableRow(NamedTuple):
  """The results of one system.

  Intervals are over clips and seeds; with one seed they are over clips only.

  Attributes:
    experiment: The system.
    seeds: Number of seeds.
    folds: Number of folds.
    clips: Number of test clips, of all folds together.
    means: Mean of each of METRICS over seeds, after averaging over folds.
    deviations: Standard deviation of each of METRICS over seeds; NaN for one seed.
    map_low: Lower limit of the 95 % interval of mAP.
    map_high: Upper limit of that interval.
    difference: mAP minus the baseline's; NaN for the baseline itself.
    low: Lower limit of the 95 % interval of the difference.
    high: Upper limit of that interval.
  """

  experiment: Experiment
  seeds: int
  folds: int
  clips: int
  means: tuple[float, ...]
  deviations: tuple[float, ...]
  map_low: float
  map_high: float
  difference: float
  low: float
  high: float


def table_rows(scored: dict[str, list[ScoredRun]], wanted: Sequence[Experiment]) -> list[TableRow]:
  """Return one row per experiment, in the order of `wanted`."""
  return [table_row(scored[experiment.name], scored[BASELINE], experiment) for experiment in wanted]


def table_row(runs: list[ScoredRun], baseline: list[ScoredRun], experiment: Experiment) -> TableRow:
  """Return the row of one experiment."""
  seeds, folds = sorted({run.seed for run in runs}), sorted({run.fold for run in runs})
  figures = {(run.seed, run.fold): tagging_metrics(run.scores, run.labels) for run in runs}
  by_seed = np.array(
    [[np.mean([figures[seed, fold][name] for fold in folds]) for name in METRICS] for seed in seeds]
  )
  deviations = by_seed.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(METRICS), np.nan)
  return TableRow(
    experiment,
    len(seeds),
    len(folds),
    sum(len(run.labels) for run in runs if run.seed == seeds[0]),
    tuple(by_seed.mean(axis=0).tolist()),
    tuple(deviations.tolist()),
    *interval(by_seeds(runs)),
    *(paired_difference(runs, baseline) if experiment.name != BASELINE else (math.nan,) * 3),
  )


def paired_difference(
  runs: list[ScoredRun], baseline: list[ScoredRun]
) -> tuple[float, float, float]:
  """Return the difference of mAP from the baseline of the same seeds and clips, with its interval.

  Args:
    runs: The runs of one experiment.
    baseline: The runs of the baseline, of the same seeds and folds.

  Returns:
    The mean difference over folds and seeds, and the lower and upper limit of its 95 % interval.
    The interval is over clips and, with two or more seeds, over seeds.
  """
  pairs = zip(by_seeds(runs), by_seeds(baseline), strict=True)
  of_seeds = [difference(own, other) for own, other in pairs]
  mean = float(np.mean([of_seed.value for of_seed in of_seeds]))
  return mean, *interval(of_seeds, lowest=-1)


def by_seeds(runs: list[ScoredRun]) -> list[Sampled]:
  """Return mAP and its deviations for each seed, averaged over folds."""
  ordered = sorted(runs, key=lambda run: (run.seed, run.fold))
  return [
    mean_over_folds([sampled(run.scores, run.labels)["mAP"] for run in of_seed])
    for _, of_seed in itertools.groupby(ordered, lambda run: run.seed)
  ]


def write_table(rows: list[TableRow], stem: pathlib.Path, title: str, note: str) -> str:
  """Write STEM.md and STEM.csv, and return the Markdown.

  Args:
    rows: Rows of the table.
    stem: Path of the files, without suffix.
    title: Title of the table.
    note: Text below the table, such as the store and the settings.
  """
  columns = [f"{name}{part}" for name in METRICS for part in ("", "_deviation", "_paper")]
  table = [["name", "system", "seeds", "folds", "clips", *columns, *INTERVALS]]
  for row in rows:
    published = row.experiment.published or (math.nan,) * len(METRICS)
    figures = [x for three in zip(row.means, row.deviations, published) for x in three]
    counts = [row.seeds, row.folds, row.clips]
    numbers = [*figures, row.map_low, row.map_high, row.difference, row.low, row.high]
    table.append(
      [row.experiment.name, row.experiment.title, *map(str, counts)]
      + ["" if math.isnan(x) else f"{x:.6f}" for x in numbers]
    )
  text = table_markdown(rows, title, note)
  write_result(stem.with_suffix(".md"), text.encode())
  write_result(stem.with_suffix(".csv"), csv_bytes(table))
  return text


def table_markdown(rows: list[TableRow], title: str, note: str) -> str:
  """Return the table as Markdown."""
  baseline = next(
    (row.experiment.title for row in rows if row.experiment.name == BASELINE), "CNN10"
  )
  lines = [
    f"# {title}",
    "",
    "| system | paper: mAP, mAUC, d' | mAP [95 % interval] | mAUC | d' | "
    f"mAP minus {baseline}'s [95 % interval] |",
    "|---|---|---|---|---|---|",
  ]
  for row in rows:
    paper = "–"
    if row.experiment.published:
      paper = "{:.3f}, {:.3f}, {:.3f}".format(*row.experiment.published)
    own = [
      f"{mean:.3f}" + ("" if math.isnan(deviation) else f" ± {deviation:.3f}")
      for mean, deviation in zip(row.means, row.deviations)
    ]
    if not math.isnan(row.map_low):
      own[0] += f" [{row.map_low:.3f}, {row.map_high:.3f}]"
    change = "–"
    if not math.isnan(row.difference):
      change = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    lines.append(f"| {' | '.join([row.experiment.title, paper, *own, change])} |")
  first = rows[0]
  lines += [
    "",
    f"{first.clips} test clips, {first.seeds} seed{'s' * (first.seeds > 1)}, "
    f"{first.folds} fold{'s' * (first.folds > 1)}; {about_intervals(first.seeds)} {note}",
    "",
  ]
  return "\n".join(lines)


def about_intervals(seeds: int) -> str:
  """Return a sentence on what ± and the intervals of a table are computed over."""
  if seeds == 1:
    return "intervals are over clips only: one seed does not show how trainings differ."
  return "± is the standard deviation over seeds, intervals are over clips and seeds."
