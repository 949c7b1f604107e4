"""The scored runs of a table or figure, with the learning rate of each head chosen if asked."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.paper.experiment_configs import Settings, open_experiment_store, refuse_built_graph
from atgcn_jax.paper.experiment_runs import ScoredRun, score_runs, validate_runs, wanted_runs
from atgcn_jax.paper.experiments import BASELINE, HEAD_RATE, Experiment, with_head_rate
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

Tried = dict[float, float]  # validation mAP by the rate of the head


def run_all(wanted: Sequence[Experiment], settings: Settings) -> dict[str, list[ScoredRun]]:
  """Train the missing runs of the experiments and return all scored runs.

  Args:
    wanted: The experiments, with the baseline.
    settings: Settings of the reproduction.

  Returns:
    The runs of each experiment by its name, for all folds and seeds.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  # The baseline comes first, because other experiments may start from its parameters.
  ordered = sorted(wanted, key=lambda experiment: experiment.name != BASELINE)
  rated = {experiment.name: experiment for experiment in ordered}
  store = open_experiment_store(settings)
  refuse_built_graph(ordered, settings, store)
  if settings.head_rates:
    tried: dict[str, Tried] = {}
    for name, experiment in rated.items():
      rated[name], tried[name] = with_best_head_rate(experiment, settings, store)
      if name == BASELINE:
        settings = settings._replace(baseline=rated[name].name)
    write_head_rates(tried, settings.out / "head_rates.csv")
  scored = score_runs(wanted_runs(rated.values(), settings, store), settings, store)
  runs = len(scored) // len(rated)
  return {name: scored[i * runs : (i + 1) * runs] for i, name in enumerate(rated)}


def with_best_head_rate(
  experiment: Experiment, settings: Settings, store: ClipStore
) -> tuple[Experiment, Tried]:
  """Return an experiment with the head's rate that is best on the validation clips.

  Each rate of the settings is tried with seed 0 on the first fold. An experiment that sets the rate
  itself is not changed.

  Returns:
    The experiment under the name of the runs with that rate, and the validation mAP of each rate.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  if any(change.startswith(f"{HEAD_RATE}=") for change in experiment.changes):
    return experiment, {}
  candidates = [with_head_rate(experiment, rate) for rate in settings.head_rates]
  first = settings._replace(seeds=1, folds=settings.folds[:1])
  found = validate_runs(wanted_runs(candidates, first, store), first, store)
  best = candidates[int(np.argmax(found))]
  return (
    best._replace(title=experiment.title, published=experiment.published),
    dict(zip(settings.head_rates, found)),
  )


def write_head_rates(tried: Mapping[str, Tried], path: pathlib.Path) -> None:
  """Write a CSV file with the validation mAP of each experiment at each rate of its head.

  Rows of other experiments, such as those of another table, stay in the file.
  """
  others: list[list[str]] = []
  if path.is_file():
    with open(path, newline="", encoding="utf-8") as file:
      others = [row for row in list(csv.reader(file))[1:] if row and row[0] not in tried]
  rows = [
    [name, f"{rate:g}", f"{value:.6f}", int(value == max(found.values()))]
    for name, found in tried.items()
    for rate, value in found.items()
  ]
  head = ["name", "head_rate", "validation_mAP", "chosen"]
  write_result(path, csv_bytes([head, *others, *rows]))
