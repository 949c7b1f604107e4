"""Labels without a single training clip: estimates beside a head that was trained with them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.embeddings import load_embeddings
from atgcn_jax.labels.estimates import (
  label_pairs,
  regression_weights,
  weighted_sums,
  word_weights,
)
from atgcn_jax.labels.ontology import label_edges, top_categories
from atgcn_jax.labels.sparse import dense
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.metrics import mean_of_defined, tagging_metrics
from atgcn_jax.paper.experiment_configs import Settings, experiment_config, open_experiment_store
from atgcn_jax.paper.experiment_runs import ScoredRun, score_runs, wanted_runs
from atgcn_jax.paper.experiments import Experiment
from atgcn_jax.reports.figure_style import BLUE, ORANGE, drawing, picture
from atgcn_jax.runs.added_labels import DEFAULTS, added_to
from atgcn_jax.runs.config import data_path
from atgcn_jax.runs.label_graph import counts_of, ontology_at, ontology_path
from atgcn_jax.runs.scoring import open_split, score_labels
from atgcn_jax.runtime.whole_files import csv_bytes, write_result
from atgcn_jax.training import sharding

LEFT_OUT = 60  # labels per draw, of AudioSet's 527
TRAINED, BEST = "linear head, trained with these labels", "regression on the known labels"
CHANCE = "chance"
STRONG = 0.1  # P(k | j) of a neighbour that counts in the picture


class Draw(NamedTuple):
  """Labels that are left out of a training: positions in the store's vocabulary."""

  known: np.ndarray
  new: np.ndarray
  path: pathlib.Path  # the vocabulary file of the known labels


def unseen(
  settings: Settings, draws: int, linear: Experiment, plain: Experiment, graph: Experiment
) -> str:
  """Train heads without some labels, estimate these, and write `unseen.md`, `.csv` and `.png`.

  Args:
    settings: Settings of the reproduction.
    draws: Number of random sets of left-out labels.
    linear: The system with a linear head.
    plain: The system with a graph head without a graph.
    graph: The system with a label graph.

  Returns:
    The table in Markdown.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  store = open_experiment_store(settings)
  if len(store.vocabulary) <= LEFT_OUT:
    raise UserError(f"--store {store.path}: has {len(store.vocabulary)} labels, at most {LEFT_OUT}")
  drawn = [
    draw_labels(
      store.vocabulary, number, LEFT_OUT, settings.out / "vocabularies" / f"draw{number}.csv"
    )
    for number in range(draws)
  ]
  config = experiment_config(graph, settings, store, "", 0)
  ontology = ontology_at(ontology_path(config.data.root, config.graph.ontology), "unseen")
  counts = counts_of(config, store.vocabulary, store)
  vectors = load_embeddings(
    data_path(config.data.root, config.graph.embeddings),
    store.vocabulary,
    dimension=config.graph.embedding_size,
  )
  edges = dense(label_edges(ontology, store.vocabulary.ids))
  complete = score_runs(wanted_runs([linear], settings, store), settings, store)
  precisions: list[dict[str, np.ndarray]] = []  # by row, [seeds, new labels], of each draw
  for number, draw in enumerate(drawn):
    systems = [without(experiment, draw, f"draw{number}") for experiment in (linear, plain, graph)]
    scored = score_runs(wanted_runs(systems, settings, store), settings, store)
    of_linear, of_plain, of_graph = (
      scored[i * settings.seeds : (i + 1) * settings.seeds] for i in range(len(systems))
    )
    weights = estimate_weights(counts, vectors, edges, draw)
    labels = complete[0].labels[:, draw.new]
    rows = {CHANCE: [np.where(labels.any(axis=0), labels.mean(axis=0), np.nan)]}
    for title, matrix in weights.items():
      rows[title] = [_precision(weighted_sums(run.scores, matrix), labels) for run in of_linear]
    rows["node vectors, no graph"] = [
      _precision(nodes(run, draw, store, settings)[0], labels) for run in of_plain
    ]
    rows["graph head: regression"] = [
      _precision(weighted_sums(run.scores, weights[BEST]), labels) for run in of_graph
    ]
    both = [nodes(run, draw, store, settings) for run in of_graph]
    rows["node vectors, the paper's graph"] = [_precision(scores, labels) for scores, _ in both]
    rows["graph head: regression and node vectors"] = [_precision(s, labels) for _, s in both]
    rows[TRAINED] = [_precision(run.scores[:, draw.new], labels) for run in complete]
    precisions.append({title: np.array(values) for title, values in rows.items()})
  table = table_of(precisions)
  text = as_markdown(table, settings, draws)
  write_result(settings.out / "unseen.md", text.encode())
  write_labels(settings.out / "unseen.csv", drawn, precisions, store.vocabulary)
  tops = top_categories(ontology, store.vocabulary.ids)
  names = np.array([ontology.names[top[0]] for top in tops])
  draw_picture(settings.out / "unseen.png", drawn, precisions, strong_neighbours(counts), names)
  return text


def draw_labels(vocabulary: Vocabulary, number: int, left_out: int, path: pathlib.Path) -> Draw:
  """Return a random set of left-out labels, the same for the same number, and write its file."""
  order = np.random.default_rng([20, number]).permutation(len(vocabulary))
  new, known = np.sort(order[:left_out]), np.sort(order[left_out:])
  path.parent.mkdir(parents=True, exist_ok=True)
  write_vocabulary(path, vocabulary.part(known))
  return Draw(known, new, path.absolute())


def without(experiment: Experiment, draw: Draw, name: str) -> Experiment:
  """Return an experiment that trains without the left-out labels of a draw."""
  return experiment._replace(
    name=f"{experiment.name}_{name}",
    changes=(*experiment.changes, f"data.vocabulary={draw.path}"),
  )


def estimate_weights(
  counts: Counts, vectors: np.ndarray, edges: np.ndarray, draw: Draw
) -> dict[str, np.ndarray]:
  """Return the weights float64[A, K] of each form of estimate from a linear head's scores.

  Args:
    counts: Counts of all labels.
    vectors: float[M, E], word vectors of all labels.
    edges: bool[M, M], True between a label and its parents or children in the ontology.
    draw: The labels.
  """
  together, (known, new) = label_pairs(counts), draw[:2]
  part, occurrences = together[np.ix_(new, known)], np.diag(together)
  norms = np.linalg.norm(together, axis=1)
  cosine = together @ together / np.maximum(np.outer(norms, norms), 1)
  return {
    "word similarity": word_weights(vectors[new], vectors[known]),
    "parents and children in the ontology": edges[np.ix_(new, known)].astype(float),
    "along P(j | k)": part / np.maximum(occurrences[new], 1)[:, None],
    "along the cosine of counts": cosine[np.ix_(new, known)],
    "along P(k | j)": part / np.maximum(occurrences[known], 1),
    BEST: regression_weights(counts, known, new),
  }


def nodes(
  run: ScoredRun, draw: Draw, store: ClipStore, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
  """Return the scores of left-out labels by their node vectors, and with the regression.

  Both are float32[N, A].
  """
  mesh = sharding.data_mesh()
  step = "latest" if settings.step == "latest" else "best"
  opened = open_split(run.workdir, step, None, "test", mesh, all_labels=True)
  vocabulary = store.vocabulary.part(draw.new)
  labels = [AddedLabel(*pair) for pair in zip(vocabulary.ids, vocabulary.names)]
  added = added_to(opened.loaded.run, labels, None, DEFAULTS)
  assert added.run is not None
  extended = opened._replace(loaded=opened.loaded._replace(run=added.run))
  scores = score_labels(extended, added.vocabulary.ids, mesh, "").scores
  known = len(draw.known)
  return scores[:, known:], np.asarray(added.extended(scores))[:, known:]


def _precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Return the average precision of each label."""
  return np.asarray(tagging_metrics(scores, labels)["average_precision"])


class UnseenRow(NamedTuple):
  """mAP over the left-out labels: the mean over draws and seeds, with 95 % intervals over draws.

  `share` is the mean over draws of the ratio to the trained head's mAP.
  """

  title: str
  mean: float
  low: float
  high: float
  share: float
  share_low: float
  share_high: float


def table_of(precisions: Sequence[Mapping[str, np.ndarray]]) -> list[UnseenRow]:
  """Return the rows of the table, in the order of their titles in the draws."""
  means = {
    title: np.array(
      [np.mean([mean_of_defined(seed) for seed in draw[title]]) for draw in precisions]
    )
    for title in precisions[0]
  }
  return [
    UnseenRow(title, *mean_interval(values), *mean_interval(values / means[TRAINED]))
    for title, values in means.items()
  ]


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
  """Return the mean and its 95 % interval of Student's t; NaN limits for one value."""
  mean = float(values.mean())
  if len(values) < 2:
    return mean, float("nan"), float("nan")
  half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
  return mean, mean - float(half), mean + float(half)


def as_markdown(table: Sequence[UnseenRow], settings: Settings, draws: int) -> str:
  """Return the table in Markdown."""
  lines = [
    "# Labels without a training clip",
    "",
    "| estimate | mAP of the left-out labels [95 % interval] | share of the trained head's |",
    "|---|---|---|",
  ]
  for row in table:
    lines.append(
      f"| {row.title} | {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}] | "
      f"{row.share:.2f} [{row.share_low:.2f}, {row.share_high:.2f}] |"
    )
  lines += [
    "",
    f"{draws} draws of {LEFT_OUT} labels, {settings.seeds} seed{'s' * (settings.seeds > 1)}; "
    "intervals are over draws. "
    f"Store: {pathlib.Path(settings.store).name}.",
  ]
  return "\n".join(lines) + "\n"


def write_labels(
  path: pathlib.Path,
  drawn: Sequence[Draw],
  precisions: Sequence[Mapping[str, np.ndarray]],
  vocabulary: Vocabulary,
) -> None:
  """Write the average precision of each left-out label under each estimate, as CSV."""
  titles = list(precisions[0])
  table: list[list[object]] = [["draw", "mid", "display_name", *titles]]
  for number, (draw, rows) in enumerate(zip(drawn, precisions)):
    for i, k in enumerate(draw.new):
      values = [f"{rows[title][:, i].mean():.6f}" for title in titles]
      table.append([number, vocabulary.ids[k], vocabulary.names[k], *values])
  write_result(path, csv_bytes(table))


def strong_neighbours(counts: Counts) -> np.ndarray:
  """Return the number of labels j with P(k | j) ≥ `STRONG` for each label k, int[K]."""
  together = label_pairs(counts)
  given = together / np.maximum(np.diag(together), 1)
  np.fill_diagonal(given, 0)
  return (given >= STRONG).sum(axis=1)


def draw_picture(
  path: pathlib.Path,
  drawn: Sequence[Draw],
  precisions: Sequence[Mapping[str, np.ndarray]],
  neighbours: np.ndarray,
  categories: np.ndarray,
) -> None:
  """Draw mean average precision by number of neighbours and by top category."""
  labels = np.concatenate([draw.new for draw in drawn])
  estimated, trained = (
    np.concatenate([rows[title].mean(axis=0) for rows in precisions]) for title in (BEST, TRAINED)
  )
  bounds = ((0, 0), (1, 2), (3, 5), (6, 10), (11, len(neighbours)))
  by_number = {
    str(low) if low == high else (f"{low}–{high}" if high < len(neighbours) else f"{low}+"): (
      (neighbours[labels] >= low) & (neighbours[labels] <= high)
    )
    for low, high in bounds
  }
  by_category = {name: categories[labels] == name for name in sorted(set(categories))}
  with drawing():
    figure = Figure((11, 4.4), layout="constrained")
    for axes, groups, title in zip(
      figure.subplots(1, 2, width_ratios=(2, 3)),
      (by_number, by_category),
      (f"neighbours j with P(k | j) ≥ {STRONG:g}", "top category"),
    ):
      groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
      places = np.arange(len(groups))
      for shift, values, colour, name in (
        (-0.2, trained, ORANGE, "trained with the label"),
        (0.2, estimated, BLUE, "estimated without a clip"),
      ):
        means = [np.nanmean(values[chosen]) for chosen in groups.values()]
        axes.barh(places + shift, means, 0.38, color=colour, label=name)
      sizes = [f"{name} ({chosen.sum()})" for name, chosen in groups.items()]
      axes.set_yticks(places, sizes)
      axes.invert_yaxis()
      axes.set(title=title, xlabel="mAP")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    write_result(path, picture(figure, path.name, 130))
