"""Labels with few training clips: classifiers with and without a label graph.

An encoder and the classifiers of half of the labels are trained with all clips, once with a linear
head and once with a graph head. The labels of the other half then get classifiers from a few of
their positives. A clip with a positive that is not used does not count for that label, but counts
of labels that occur together have all clips.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiment_configs import Settings, experiment_config, open_experiment_store
from atgcn_jax.paper.experiment_runs import score_runs, wanted_runs
from atgcn_jax.paper.experiments import Experiment
from atgcn_jax.paper.few_heads import (
  GRAPH,
  NEIGHBOURS,
  PARTS,
  PLAIN,
  PRIOR,
  Fit,
  graph_fit,
  half_of,
  linear_fits,
)
from atgcn_jax.paper.unseen import draw_labels, without
from atgcn_jax.paper.unseen_table import Draw, mean_interval
from atgcn_jax.reports.figure_style import BLUE, DARK, GREEN, ORANGE, drawing, picture
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.label_graph import counts_of, label_vectors_of
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

POSITIVES = (0, 1, 2, 5, 10, 20, None)  # None for all
STRENGTHS = (20.0, 80.0)  # candidates for the weight of the distance from the centre
COLOURS = {PLAIN: DARK, NEIGHBOURS: BLUE, PRIOR: GREEN, GRAPH: ORANGE}


def few(settings: Settings, linear: Experiment, graph: Experiment) -> str:
  """Train heads on half of the labels, fit the others, and write `few.md`, `.csv` and `.png`.

  Each seed draws another half.

  Args:
    settings: Settings of the reproduction.
    linear: The system with a linear head.
    graph: The system with a label graph.

  Returns:
    The table in Markdown.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  store = open_experiment_store(settings)
  config = experiment_config(graph, settings, store, "".join(settings.folds), 0)
  clips = {part: split_clips(store, splits_of(config), part) for part in PARTS}
  if not all(map(len, clips.values())):
    raise UserError(
      f"--store {store.path}: training, validation and test clips are needed; set "
      "--config.data.validation_share"
    )
  counts = counts_of(config, store.vocabulary, store)
  words = label_vectors_of(config, store.vocabulary)
  strengths: dict[tuple[str, int | None], float] = {}
  precisions: dict[str, list[list[float]]] = {}  # by row, mAP [positives] of each seed
  for seed in range(settings.seeds):
    path = settings.out / "vocabularies" / f"half{seed}.csv"
    draw = draw_labels(store.vocabulary, seed, len(store.vocabulary) // 2, path)
    runs = half_runs([linear, graph], draw, seed, settings, store)
    of_linear, of_graph = score_runs(runs, settings, store)
    half = half_of(of_linear, draw, counts, store, clips, settings)
    fits = {
      **linear_fits(half, seed),
      GRAPH: graph_fit(of_graph, draw, half.weights, words, store, clips, settings, seed=seed),
    }
    for title, fit in fits.items():
      found, fit = [], functools.cache(fit)
      for positives in POSITIVES:
        key = title, positives
        if key not in strengths:
          strengths[key] = best_strength(fit, positives, half.labels["validation"])
        scores = fit(positives, strengths[key])("test")
        found.append(map_of(scores, half.labels["test"]))
        line = f"seed {seed}, {positives} positives, {title}: mAP {found[-1]:.4f}"
        print(line, file=sys.stderr, flush=True)
      precisions.setdefault(title, []).append(found)
  text = as_markdown(precisions, strengths, settings)
  write_result(settings.out / "few.md", text.encode())
  write_csv(settings.out / "few.csv", precisions)
  draw_curves(settings.out / "few.png", precisions)
  return text


def half_runs(
  systems: Sequence[Experiment], draw: Draw, seed: int, settings: Settings, store: ClipStore
) -> list[Any]:
  """Return the runs of systems with a seed, which train without the left-out labels of a draw."""
  named = [without(system, draw, "half") for system in systems]
  every = wanted_runs(named, settings._replace(seeds=seed + 1), store)
  return [run for run in every if run.seed == seed]


def map_of(scores: np.ndarray, labels: np.ndarray) -> float:
  """Return the mean average precision."""
  return float(np.asarray(tagging_metrics(scores, labels)["mAP"]))


def best_strength(fit: Fit, positives: int | None, labels: np.ndarray) -> float:
  """Return the strength with the best mAP on the validation clips."""
  if positives == 0:
    return STRENGTHS[0]  # nothing is fitted
  found = [map_of(fit(positives, s)("validation"), labels) for s in STRENGTHS]
  return STRENGTHS[int(np.argmax(found))]


def as_markdown(
  precisions: Mapping[str, Sequence[Sequence[float]]],
  strengths: Mapping[tuple[str, int | None], float],
  settings: Settings,
) -> str:
  """Return the table in Markdown."""
  lines = [
    "# Labels with few training clips",
    "",
    f"| classifier | {' | '.join(map(_named, POSITIVES))} |",
    "|---|" + "---|" * len(POSITIVES),
  ]
  for title, of_seeds in precisions.items():
    cells = []
    for column in np.transpose(of_seeds):
      mean, low, high = mean_interval(column)
      cells.append(f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(column) > 1 else ""))
    lines.append(f"| {title} | {' | '.join(cells)} |")
  chosen = "; ".join(
    f"{title}: " + ", ".join(f"{strengths[title, n]:g}" for n in POSITIVES[1:])
    for title in precisions
  )
  lines += [
    "",
    f"mAP of the labels with few positives, by their number. {settings.seeds} seeds, each with its "
    "own half of the labels; 95 % intervals over seeds, of Student's t. Weights of neighbours come "
    "from counts that also have the clips which are not used. "
    f"Store: {pathlib.Path(settings.store).name}. Strengths, chosen on the validation clips of the "
    f"first seed: {chosen}.",
  ]
  return "\n".join(lines) + "\n"


def _named(positives: int | None) -> str:
  return "all" if positives is None else str(positives)


def write_csv(path: pathlib.Path, precisions: Mapping[str, Sequence[Sequence[float]]]) -> None:
  """Write the table as CSV, one row per classifier, seed and number of positives."""
  table = [
    [title, seed, _named(n), f"{value:.6f}"]
    for title, of_seeds in precisions.items()
    for seed, values in enumerate(of_seeds)
    for n, value in zip(POSITIVES, values)
  ]
  write_result(path, csv_bytes([["classifier", "seed", "positives", "mAP"], *table]))


def draw_curves(path: pathlib.Path, precisions: Mapping[str, Sequence[Sequence[float]]]) -> None:
  """Draw mAP over the number of positives."""
  with drawing():
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    for title, of_seeds in precisions.items():
      axes.plot(np.mean(of_seeds, axis=0), color=COLOURS[title], marker="o", label=title)
    axes.set_xticks(range(len(POSITIVES)), [_named(n) for n in POSITIVES])
    axes.set(xlabel="training clips with the label", ylabel="mAP", ylim=(0, None))
    axes.legend(frameon=False)
    write_result(path, picture(figure, path.name, 130))
