"""`atgcn reproduce`: train the runs of a table or figure of the paper, then write it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atgcn_jax.labels.ontology import top_categories
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper import figure3, figure4, tables
from atgcn_jax.paper.experiment_runs import (
  ScoredRun,
  Settings,
  experiment_config,
  open_experiment_store,
)
from atgcn_jax.paper.experiments import (
  ABLATION,
  AT_GCN,
  CNN10,
  FEATURES_TABLE1,
  FIGURE3,
  POINTS,
  TABLE1,
  TABLE2,
  Experiment,
  chosen,
  on_curve,
  on_features,
)
from atgcn_jax.paper.scored_runs import run_all
from atgcn_jax.runs.label_graph import ontology_at, ontology_path
from atgcn_jax.runs.load import Loaded, load_run
from atgcn_jax.training import sharding

TABLES = {
  "table1": ("Table I: systems", TABLE1),
  "table2": ("Table II: graphs", TABLE2),
  "ablation": ("Does the graph help?", ABLATION),
}
FEATURES = "vggish-features"  # front end of stores of AudioSet's features
CONFIGS, FEATURES_CONFIGS = "configs/table1", "configs/audioset_features"


def reproduce(what: str, settings: Settings, rows: Sequence[str], points: Sequence[float]) -> str:
  """Train the missing runs of a table or figure and write its files to `settings.out`.

  Args:
    what: `table1`, `table2`, `ablation`, `figure3` or `figure4`.
    settings: Settings of the reproduction.
    rows: Names of the rows of a table; empty for all.
    points: Points of the curves of Figure 3; empty for `POINTS`.

  Returns:
    A text to print.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  features = open_experiment_store(settings).frontend.name == FEATURES
  if settings.configs is None:
    folder = pathlib.Path(FEATURES_CONFIGS if features else CONFIGS)
    settings = settings._replace(configs=folder)
  if what in TABLES:
    title, experiments = TABLES[what]
    if features:
      experiments = tuple(map(on_features, FEATURES_TABLE1 if what == "table1" else experiments))
    wanted = chosen(experiments, rows)
    found = tables.table_rows(run_all(wanted, settings), wanted)
    return tables.write_table(found, settings.out / what, title, note(settings))
  shown = [on_features(e) if features else e for e in (CNN10, AT_GCN[2])]
  titles = [experiment.title for experiment in shown]
  if what == "figure3":
    return _figure3(settings, points or POINTS, titles)
  return _figure4(settings, dict(zip(titles, shown)))


def note(settings: Settings) -> str:
  """Return the text below a table: the store and the settings."""
  text = f"Store: {named(settings)}."
  if settings.step == "best":
    text += " Each run is tested at its best step on the validation clips."
  if settings.head_rates:
    rates = ", ".join(f"{rate:g}" for rate in settings.head_rates)
    text += f" Each head's rate was chosen from {rates} on the validation clips (head_rates.csv)."
  return text


def named(settings: Settings) -> str:
  """Return the name of the store and the user's overrides, for the note under a table."""
  changed = " ".join(change.removeprefix("--config.") for change in settings.overrides)
  return pathlib.Path(settings.store).name + (f"; {changed}" if changed else "")


def _figure3(settings: Settings, points: Sequence[float], titles: Sequence[str]) -> str:
  """Train the points of Figure 3, and write the figure and its CSV file."""
  curves = [[(value, on_curve(curve, value)) for value in points] for curve in FIGURE3]
  scored = run_all([experiment for curve in curves for _, experiment in curve], settings)
  drawn = [
    [(value, seed_means(scored[experiment.name])) for value, experiment in curve]
    for curve in curves
  ]
  baseline = seed_means(scored[CNN10.name])
  figure3.draw_figure3(drawn, baseline, titles, settings.out / "figure3.png")
  figure3.write_figure3_csv(drawn, baseline, settings.out / "figure3.csv")
  return f"{settings.out}/figure3.png, figure3.csv"


def seed_means(runs: list[ScoredRun]) -> list[float]:
  """Return mAP of each seed, averaged over folds."""
  return [
    float(np.mean([tagging_metrics(r.scores, r.labels)["mAP"] for r in runs if r.seed == seed]))
    for seed in sorted({run.seed for run in runs})
  ]


def _figure4(settings: Settings, shown: Mapping[str, Experiment]) -> str:
  """Train the systems with seed 0 on the first fold, and write Figure 4 and its table.

  Args:
    settings: Settings of the reproduction.
    shown: The experiment of each panel by its title; the last one has a label graph.
  """
  settings = settings._replace(seeds=1, folds=settings.folds[:1])
  store = open_experiment_store(settings)
  fold = "".join(settings.folds)
  # An ontology that cannot be used must be reported before the training.
  config = experiment_config(CNN10, settings, store, fold, 0)
  ontology = ontology_at(ontology_path(config.data.root, config.graph.ontology), "figure4")
  tops = top_categories(ontology, store.vocabulary.ids)
  categories = [[ontology.names[top] for top in of_label] for of_label in tops]
  scored = run_all(list(shown.values()), settings)
  loaded = {title: _loaded(scored[experiment.name]) for title, experiment in shown.items()}
  panels = {title: label_vectors(one) for title, one in loaded.items()}
  path = settings.out / "figure4.png"
  figure4.draw_figure4(panels, categories, store.vocabulary.names, path)
  # The table also shows how well the word vectors, the input of the graph, separate categories.
  inputs = {"word vectors": np.asarray(loaded[list(shown)[-1]].run.label_embeddings)}
  spaces = {
    title: figure4.label_space(vectors, categories)
    for title, vectors in {**panels, **inputs}.items()
  }
  return figure4.write_figure4(spaces, path.with_suffix(".csv"))


def _loaded(runs: list[ScoredRun]) -> Loaded:
  """Load the latest checkpoint of the first run."""
  return load_run(runs[0].workdir, "latest", sharding.data_mesh())


def label_vectors(loaded: Loaded) -> np.ndarray:
  """Return the label vectors float[K, C] of a checkpoint, which score the labels."""
  frontend = loaded.run.frontend
  silence = np.zeros((1, frontend.frames, frontend.n_mels), np.float32)
  features: Any = loaded.run.model().apply(loaded.state, silence, return_features=True)
  return np.asarray(features["label_vectors"])
