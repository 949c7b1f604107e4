"""`atgcn reproduce`: train the runs of a table or figure of the paper, then write it."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from atgcn_jax.audio.frontend import VGGISH_FEATURES
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import top_categories
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper import figure3, figure4, tables
from atgcn_jax.paper.experiment_configs import Settings, experiment_config, open_experiment_store
from atgcn_jax.paper.experiment_runs import ScoredRun
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
  with_graph,
)
from atgcn_jax.paper.few import few
from atgcn_jax.paper.forgotten import VARIANTS, forgotten
from atgcn_jax.paper.scored_runs import run_all
from atgcn_jax.paper.unseen import unseen
from atgcn_jax.runs.label_graph import ontology_at, ontology_path
from atgcn_jax.runs.load import load_run
from atgcn_jax.runtime.buckets import check_output_folder
from atgcn_jax.training import sharding

TABLES = {
  "table1": ("Table I: systems", TABLE1),
  "table2": ("Table II: graphs", TABLE2),
  "ablation": ("Does the graph help?", ABLATION),
}
CONFIGS, FEATURES_CONFIGS = "configs/table1", "configs/audioset_features"


def reproduce(
  what: str, settings: Settings, rows: Sequence[str], points: Sequence[float], draws: int = 10
) -> str:
  """Train the missing runs of a table or figure and write its files to `settings.out`.

  Args:
    what: `table1`, `table2`, `ablation`, `figure3`, `figure4`, `unseen`, `few` or `forgotten`.
    settings: Settings of the reproduction.
    rows: Names of the rows of a table; empty for all.
    points: Points of the curves of Figure 3; empty for `POINTS`.
    draws: Number of random sets of left-out labels of `unseen`.

  Returns:
    A text to print.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  check_output_folder("--out", settings.out)
  _check_settings(what, settings)
  features = open_experiment_store(settings).frontend == VGGISH_FEATURES
  if settings.configs is None:
    folder = pathlib.Path(FEATURES_CONFIGS if features else CONFIGS)
    settings = settings._replace(configs=folder)

  def adapt(experiment: Experiment) -> Experiment:
    return on_features(experiment) if features else experiment

  if what in TABLES:
    title, experiments = TABLES[what]
    if features and what == "table1":
      experiments = FEATURES_TABLE1
    wanted = chosen([adapt(experiment) for experiment in experiments], rows)
    found = tables.table_rows(run_all(wanted, settings), wanted)
    return tables.write_table(found, settings.out / what, title, note(settings))
  if what == "figure3":
    curves = [[(x, adapt(on_curve(curve, x))) for x in points or POINTS] for curve in FIGURE3]
    return _figure3(settings, adapt(CNN10), adapt(AT_GCN[2]), curves)
  if what == "forgotten":
    systems = [adapt(one) for one in (*VARIANTS, AT_GCN[2])]
    config = experiment_config(
      systems[0], settings, open_experiment_store(settings), "".join(settings.folds[:1]), 0
    )
    ontology = ontology_path(config.data.root, config.graph.ontology)
    return forgotten(settings, systems, ontology, note(settings))
  if what == "few":
    return few(settings, adapt(CNN10), adapt(AT_GCN[2]))
  if what == "unseen":
    plain = with_graph("identity", "graph head, no graph")
    return unseen(settings, draws, adapt(CNN10), adapt(plain), adapt(AT_GCN[2]))
  return _figure4(settings, [adapt(CNN10), adapt(AT_GCN[2])])


def _check_settings(what: str, settings: Settings) -> None:
  """Refuse settings that a study would ignore.

  Raises:
    UserError: There are several folds or seeds, or head rates, and the study has one of them; or
      an override is of a key that the study sets.
  """
  if what in ("unseen", "few", "figure4") and len(settings.folds) > 1:
    raise UserError(f"--folds {','.join(settings.folds)}: {what} tests on one fold; name one")
  keys = {text.removeprefix("--config.").partition("=")[0] for text in settings.overrides}
  for key, studies in (
    ("data.vocabulary", ("unseen", "few", "forgotten", "figure4")),
    ("graph.threshold", ("figure3",)),
    ("graph.neighbour_weight", ("figure3",)),
  ):
    if key in keys and what in studies:
      raise UserError(f"--config.{key}: {what} sets it itself; leave it out")
  if what == "figure4" and settings.seeds > 1:
    raise UserError(f"--seeds {settings.seeds}: figure4 shows the run with seed 0; leave it out")
  if what in ("unseen", "few") and settings.head_rates:
    raise UserError(
      f"--head-rates: {what} does not choose rates; set --config.optim.head_factor instead"
    )


def note(settings: Settings) -> str:
  """Return the text below a table: the store and the settings."""
  text = f"Store: {named(settings)}."
  if settings.step == "best":
    text += " Each run is tested at its best step on the validation clips."
  if settings.head_rates:
    rates = ", ".join(f"{rate:g}" for rate in settings.head_rates)
    text += f" Each head's rate was chosen from {rates} on the validation clips (head_rates.csv)."
    if len(settings.folds) > 1:
      text += f" These are of fold {settings.folds[0]}, and are test clips of the other folds."
  return text


def named(settings: Settings) -> str:
  """Return the name of the store and the user's overrides, for the note under a table."""
  changed = " ".join(change.removeprefix("--config.") for change in settings.overrides)
  return pathlib.Path(settings.store).name + (f"; {changed}" if changed else "")


def _figure3(
  settings: Settings,
  baseline: Experiment,
  system: Experiment,
  curves: Sequence[Sequence[tuple[float, Experiment]]],
) -> str:
  """Train the points of Figure 3, and write the figure and its CSV file."""
  scored = run_all([baseline, *(point for curve in curves for _, point in curve)], settings)
  drawn = [[(x, seed_means(scored[point.name])) for x, point in curve] for curve in curves]
  means, titles = seed_means(scored[baseline.name]), (baseline.title, system.title)
  figure3.draw_figure3(drawn, means, titles, settings.out / "figure3.png")
  figure3.write_figure3_csv(drawn, means, settings.out / "figure3.csv")
  return f"{settings.out}/figure3.png, figure3.csv"


def seed_means(runs: list[ScoredRun]) -> list[float]:
  """Return mAP of each seed, averaged over folds."""
  return [
    float(np.mean([tagging_metrics(r.scores, r.labels)["mAP"] for r in runs if r.seed == seed]))
    for seed in sorted({run.seed for run in runs})
  ]


def _figure4(settings: Settings, shown: Sequence[Experiment]) -> str:
  """Train the systems with one seed on one fold, and write Figure 4 and its table.

  Args:
    settings: Settings of the reproduction.
    shown: The baseline and the system with a label graph.
  """
  store, fold = open_experiment_store(settings), "".join(settings.folds)
  # An ontology that cannot be used must be reported before the training.
  config = experiment_config(shown[0], settings, store, fold, 0)
  ontology = ontology_at(ontology_path(config.data.root, config.graph.ontology), "figure4")
  tops = top_categories(ontology, store.vocabulary.ids)
  categories = [[ontology.names[top] for top in of_label] for of_label in tops]
  scored = run_all(shown, settings)
  mesh = sharding.data_mesh()
  loaded = [load_run(scored[one.name][0].workdir, settings.step, mesh) for one in shown]
  panels = {one.title: of.run.label_vectors(of.state) for one, of in zip(shown, loaded)}
  path = settings.out / "figure4.png"
  figure4.draw_figure4(panels, categories, store.vocabulary.names, path)
  # The table also shows how well the word vectors, the input of the graph, separate categories.
  inputs = {"word vectors": np.asarray(loaded[-1].run.label_embeddings)}
  spaces = {
    title: figure4.label_space(vectors, categories)
    for title, vectors in {**panels, **inputs}.items()
  }
  return figure4.write_figure4(spaces, path.with_suffix(".csv"))
