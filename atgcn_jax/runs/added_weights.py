"""Weights of known labels from which added labels are estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts, load_counts
from atgcn_jax.labels.estimates import regression_weights, word_weights
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.sparse import dense
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.calibrations import COUNTS, PARENTS, RELATIONS, WORDS
from atgcn_jax.runs.config import data_path
from atgcn_jax.runs.label_graph import counts_of, label_vectors_of
from atgcn_jax.runs.run import Run
from atgcn_jax.runtime.buckets import path_of


def counts_at_hand(run: Run, store: ClipStore | None) -> Counts | None:
  """Return the counts that `graph.source` names, or None without its file, counts or store.

  Args:
    run: The run.
    store: The training store, or None.

  Raises:
    UserError: The file cannot be used.
  """
  source = run.config.graph.source
  if source == "store":
    return None if store is None else counts_of(run.config, run.vocabulary, store)
  path = data_path(run.config.data.root, source)
  if not path_of(path).exists() or _lacks_counts(run, read_arrays(path)):
    return None
  return counts_of(run.config, run.vocabulary, store)


def _lacks_counts(run: Run, arrays: Mapping[str, Any]) -> bool:
  """Return whether the file of `graph.source` is a graph without the counts that it names."""
  counts_set = run.config.graph.counts_set
  name = f"occurrences_{counts_set}" if counts_set else "occurrences"
  return "propagation" in arrays and name not in arrays


def weights_of(run: Run, label: AddedLabel, counts: Counts | None) -> tuple[np.ndarray, str]:
  """Return the weights float64[K] of a label and what they come from."""
  known = len(run.vocabulary)
  if label.counts:
    if counts is None:
      most = run.vocabulary.names[max(label.counts, key=label.counts.__getitem__)]
      raise UserError(
        f"{label.where}: `counts` need counts of the run's labels, and graph.source "
        f"{run.config.graph.source!r} has none at hand; give relations, such as "
        f"`{label.name}: 0.5 {most}`"
      )
    return regression_weights(_with_label(counts, label), np.arange(known), np.array([known]))[0], (
      COUNTS
    )
  if label.relations:
    return _row(known, label.relations), RELATIONS
  if label.parents:
    return _row(known, {k: 1 / len(label.parents) for k in label.parents}), PARENTS
  if (stored := _stored_counts(run, label)) is not None:
    return regression_weights(stored, np.arange(known), np.array([known]))[0], COUNTS
  both = Vocabulary((*run.vocabulary.ids, label.id), (*run.vocabulary.names, label.name))
  vectors = embeddings_of(run, both, f"{label.where}: ")
  return word_weights(vectors[known:], vectors[:known])[0], WORDS


def _row(size: int, values: Mapping[int, float]) -> np.ndarray:
  """Return float64[size] with some values, and 0 elsewhere."""
  row = np.zeros(size)
  row[list(values)] = list(values.values())
  return row


def _with_label(counts: Counts, label: AddedLabel) -> Counts:
  """Return the counts with those of a label as last row and column."""
  pairs = dense(counts.cooccurrences)
  row = _row(len(pairs), label.counts)
  row = np.minimum(row, counts.occurrences)
  together = np.block([[pairs, row[:, None]], [row[None], np.zeros((1, 1))]])
  return Counts(np.append(counts.occurrences, label.clips), together)


def _stored_counts(run: Run, label: AddedLabel) -> Counts | None:
  """Return the counts of the run's labels and an added one, if the file of the run has them."""
  graph = run.config.graph
  path = data_path(run.config.data.root, graph.source)
  if graph.source == "store" or not path_of(path).exists():
    return None
  arrays = read_arrays(path)
  if _lacks_counts(run, arrays) or label.id not in arrays.get("mids", ()):
    return None
  both = Vocabulary((*run.vocabulary.ids, label.id), (*run.vocabulary.names, label.name))
  return load_counts(path, both, graph.counts_set or None)


def embeddings_of(run: Run, vocabulary: Vocabulary, where: str = "") -> np.ndarray:
  """Return the label vectors of the run's source for a vocabulary.

  Args:
    run: The run.
    vocabulary: The vocabulary.
    where: The start of a message on labels without vectors.
  """
  source = run.config.graph.embeddings
  if source in ("random", "one_hot"):
    raise UserError(
      f"{where}graph.embeddings {source!r} has no vectors of added labels; give relations and use "
      "a run with word vectors"
    )
  return label_vectors_of(run.config, vocabulary)
