"""Labels without a single training clip: estimates beside a head that was trained with them."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import (
  label_pairs,
  regression_weights,
  weighted_sums,
  word_weights,
)
from atgcn_jax.labels.ontology import label_edges, top_categories
from atgcn_jax.labels.sparse import dense
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiment_configs import (
  Settings,
  experiment_config,
  open_experiment_store,
  refuse_built_graph,
)
from atgcn_jax.paper.experiment_runs import ScoredRun, score_runs, wanted_runs
from atgcn_jax.paper.experiments import Experiment
from atgcn_jax.paper.unseen_nodes import (
  Added,
  gathering_nodes,
  labels_of,
  nodes_with_inputs,
  open_run,
)
from atgcn_jax.paper.unseen_table import (
  BEST,
  TRAINED,
  Draw,
  as_markdown,
  draw_picture,
  strong_neighbours,
  table_of,
  write_labels,
)
from atgcn_jax.runs.label_graph import counts_of, label_vectors_of, ontology_at, ontology_path
from atgcn_jax.runtime.whole_files import write_result

LEFT_OUT = 60  # labels per draw, of AudioSet's 527
CHANCE = "chance"


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
  refuse_built_graph((linear, plain, graph), settings, store)
  if len(store.vocabulary) <= LEFT_OUT:
    raise UserError(f"--store {store.path}: has {len(store.vocabulary)} labels, at most {LEFT_OUT}")
  drawn = [
    draw_labels(
      store.vocabulary, number, LEFT_OUT, settings.out / "vocabularies" / f"draw{number}.csv"
    )
    for number in range(draws)
  ]
  config = experiment_config(graph, settings, store, "".join(settings.folds), 0)
  ontology = ontology_at(ontology_path(config.data.root, config.graph.ontology), "unseen")
  counts = counts_of(config, store.vocabulary, store)
  vectors = label_vectors_of(config, store.vocabulary)
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
    heads = Heads(of_linear, of_plain, of_graph, complete)
    added = labels_of(counts, store.vocabulary, draw)
    precisions.append(precisions_of(heads, draw, weights, vectors[draw.new], added, settings))
  table = table_of(precisions)
  text = as_markdown(table, settings, draws, LEFT_OUT)
  write_result(settings.out / "unseen.md", text.encode())
  write_labels(settings.out / "unseen.csv", drawn, precisions, store.vocabulary)
  tops = top_categories(ontology, store.vocabulary.ids)
  names = np.array([ontology.names[top[0]] for top in tops])
  draw_picture(settings.out / "unseen.png", drawn, precisions, strong_neighbours(counts), names)
  return text


class Heads(NamedTuple):
  """The scored runs of each seed: three that were trained without the left-out labels of a draw.

  Attributes:
    linear: With a linear head.
    plain: With a graph head without a graph.
    graph: With a graph head and the paper's graph.
    complete: With a linear head, trained with all labels.
  """

  linear: Sequence[ScoredRun]
  plain: Sequence[ScoredRun]
  graph: Sequence[ScoredRun]
  complete: Sequence[ScoredRun]


def precisions_of(
  heads: Heads,
  draw: Draw,
  weights: Mapping[str, np.ndarray],
  vectors: np.ndarray,
  added: Added,
  settings: Settings,
) -> dict[str, np.ndarray]:
  """Return the average precision of the left-out labels of a draw, [seeds, A], by row.

  Args:
    heads: The scored runs.
    draw: The labels.
    weights: Weights float64[A, K] of the known labels, by row.
    vectors: float[A, E], word vectors of the left-out labels.
    added: The left-out labels, as labels to add.
    settings: Settings of the reproduction.
  """
  labels = heads.complete[0].labels[:, draw.new]
  rows = {CHANCE: [np.where(labels.any(axis=0), labels.mean(axis=0), np.nan)]}
  for title, matrix in weights.items():
    rows[title] = [_precision(weighted_sums(run.scores, matrix), labels) for run in heads.linear]
  plain, graph = ([open_run(run, settings) for run in runs] for runs in (heads.plain, heads.graph))
  for title, opened in (
    ("nodes with own word vectors, no graph", plain),
    ("nodes with own word vectors, the paper's graph", graph),
  ):
    own = [nodes_with_inputs(head, added, vectors) for head in opened]
    rows[title] = [_precision(scores, labels) for scores in own]
  gathering = [gathering_nodes(head, added) for head in graph]
  rows["nodes that only gather, the paper's graph"] = [
    _precision(scores, labels) for scores, _ in gathering
  ]
  rows["graph head: regression"] = [
    _precision(weighted_sums(run.scores, weights[BEST]), labels) for run in heads.graph
  ]
  rows["graph head: regression and nodes"] = [_precision(scores, labels) for _, scores in gathering]
  rows[TRAINED] = [_precision(run.scores[:, draw.new], labels) for run in heads.complete]
  return {title: np.array(values) for title, values in rows.items()}


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
    "along P(j given k)": part / np.maximum(occurrences[new], 1)[:, None],
    "along the cosine of counts": cosine[np.ix_(new, known)],
    "along P(k given j)": part / np.maximum(occurrences[known], 1),
    BEST: regression_weights(counts, known, new),
  }


def _precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Return the average precision of each label."""
  return np.asarray(tagging_metrics(scores, labels)["average_precision"])
