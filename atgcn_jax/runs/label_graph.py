"""The label graph of a config: propagation matrix, label vectors, and inputs of the loss terms."""

from __future__ import annotations

import numpy as np

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.adjacency import (
  adjacency_from_counts,
  propagation_matrix,
  reweight,
  threshold_edges,
)
from atgcn_jax.labels.counts import Counts, count_labels, load_counts
from atgcn_jax.labels.embeddings import WITHOUT_FILE, load_embeddings
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.ontology import (
  Ontology,
  label_edges,
  members,
  ontology_of,
  read_ontology,
)
from atgcn_jax.labels.sparse import Matrix
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.built_graph import stored_propagation, warn_of_other_settings
from atgcn_jax.runs.config import data_path
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.folds import splits_of

RELATIONS = ("similarity", "neighbours", "members")


def label_graph(
  config, vocabulary: Vocabulary, store: ClipStore | None
) -> tuple[Matrix | None, np.ndarray | None]:
  """Return the propagation matrix and the label embeddings of a config; None for a linear head.

  If `graph.source` names a file of `atgcn graph`, the settings of that file count. A warning says
  so if those of the config differ.

  Args:
    config: The config.
    vocabulary: The K labels.
    store: The store whose training clips are counted if `graph.source` is `store`.

  Raises:
    UserError: If a file cannot be used, or a required store is missing.
  """
  if config.model.head != "graph":
    return None, None
  graph = config.graph
  embeddings = label_vectors_of(config, vocabulary)
  if graph.source != "store":
    path = data_path(config.data.root, graph.source)
    arrays = read_arrays(path)
    if "propagation" in arrays:
      warn_of_other_settings(config, path, arrays)
      return stored_propagation(path, arrays, vocabulary), embeddings
  return propagation_of(
    counts_of(config, vocabulary, store),
    vocabulary,
    method=graph.method,
    threshold=graph.threshold,
    neighbour_weight=graph.neighbour_weight,
    ontology=ontology_path(config.data.root, config.graph.ontology),
  ), embeddings


def label_vectors_of(config, vocabulary: Vocabulary) -> np.ndarray:
  """Return the label vectors float32[K, E] that `graph.embeddings` names, for any vocabulary.

  Raises:
    UserError: If the file cannot be used, or lacks a label.
  """
  path = embeddings_path(config.data.root, config.graph.embeddings)
  return load_embeddings(path, vocabulary, dimension=config.graph.embedding_size)


def embeddings_path(root: str, named: str) -> str:
  """Return the path of the label vectors, or the name of those that need no file.

  Args:
    root: `data.root` of a config.
    named: `graph.embeddings` of a config.
  """
  return named if named in WITHOUT_FILE else data_path(root, named)


def label_relations(
  config, vocabulary: Vocabulary, store: ClipStore | None
) -> dict[str, Matrix | np.ndarray]:
  """Return the inputs of the loss terms that the config enables.

  Returns:
    `similarity` [K, K], the mean of P[i, j] and P[j, i] of Eq. 5 above the threshold of Eq. 6;
    `neighbours` [K, K], P[j, i] of Eq. 5 in row i, scaled so that rows sum to 1; and
    `members` int32[2, M], pairs of a category of the ontology and a label at or below it.

  Raises:
    UserError: If a file cannot be used, or a required store is missing.
  """
  relations: dict[str, Matrix | np.ndarray] = {}
  if config.loss.laplacian or config.loss.neighbours:
    counts = counts_of(config, vocabulary, store)
    probabilities = adjacency_from_counts(counts.occurrences, counts.cooccurrences)
  if config.loss.laplacian:
    kept = threshold_edges(probabilities, config.graph.threshold)
    relations["similarity"] = ((kept + kept.T) / 2).astype(np.float32)
  if config.loss.neighbours:
    relations["neighbours"] = reweight(probabilities.T, 1.0).astype(np.float32)
  if config.loss.hierarchy:
    path = ontology_path(config.data.root, config.graph.ontology)
    found = members(ontology_at(path, "loss.hierarchy"), vocabulary.ids)
    if not found.size:
      raise UserError(
        "loss.hierarchy: no category of graph.ontology has two labels below it; name another "
        "ontology"
      )
    relations["members"] = found
  return relations


def counts_of(config, vocabulary: Vocabulary, store: ClipStore | None) -> Counts:
  """Return the counts that `graph.source` names; for `store`, those of the training clips.

  Raises:
    UserError: If a file cannot be used, or a required store is missing.
  """
  if config.graph.source != "store":
    path = data_path(config.data.root, config.graph.source)
    return load_counts(path, vocabulary, config.graph.counts_set or None)
  if store is None:
    raise UserError(
      "graph.source: 'store' needs a clip store; name an .npz file of counts or of `atgcn graph`"
    )
  labels = store.labels_of(split_clips(store, splits_of(config), "train"))
  return count_labels(*labels, len(vocabulary))


def ontology_path(root: str, named: str) -> str:
  """Return the path of the ontology, SOUNDSCAPES for the built-in ontology, or empty for none.

  Args:
    root: `data.root` of a config.
    named: `graph.ontology` of a config.
  """
  return named if named in ("", SOUNDSCAPES) else data_path(root, named)


def ontology_at(path: str, wanted_by: str) -> Ontology:
  """Return the ontology at an `ontology_path`.

  Args:
    path: The path, SOUNDSCAPES or empty.
    wanted_by: What needs the ontology, for the message.

  Raises:
    UserError: If the path is empty or the ontology cannot be used.
  """
  if not path:
    raise UserError(f"graph.ontology: {wanted_by} needs the path of an ontology.json")
  if path != SOUNDSCAPES:
    return read_ontology(path)
  from atgcn_jax.data.synthetic.soundscapes import soundscape_ontology

  return ontology_of(soundscape_ontology())


def propagation_of(
  counts: Counts,
  vocabulary: Vocabulary,
  *,
  method: str,
  threshold: float,
  neighbour_weight: float,
  ontology: str = "",
) -> Matrix:
  """Return `propagation_matrix` of counts. The method `ontology` reads its edges from `ontology`.

  Raises:
    UserError: If the method is unknown, a number is out of range, or the ontology is missing.
  """
  edges = None
  if method == "ontology":
    edges = label_edges(ontology_at(ontology, "the method 'ontology'"), vocabulary.ids)
  try:
    return propagation_matrix(
      counts.occurrences,
      counts.cooccurrences,
      method=method,
      threshold=threshold,
      neighbour_weight=neighbour_weight,
      edges=edges,
    )
  except ValueError as error:
    raise UserError(f"graph: {error}") from error
