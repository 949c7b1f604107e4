"""The label graph of a config: propagation matrix, label vectors, and what the losses ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.adjacency import (
  adjacency_from_counts,
  propagation_matrix,
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
from atgcn_jax.labels.sparse import Matrix, selected, sized
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id
from atgcn_jax.runs.config import SOUNDSCAPES, data_path

RELATIONS = ("similarity", "members")


def label_graph(
  config, vocabulary: Vocabulary, store: ClipStore | None
) -> tuple[Matrix | None, np.ndarray | None]:
  """Propagation matrix and label embeddings as a config names them; None for a linear head.

  Args:
    store: Its training clips are counted for `graph.source="store"`.

  Raises:
    UserError: For a file that cannot be used, or without a store where one is needed.
  """
  if config.model.head != "graph":
    return None, None
  graph = config.graph
  source = graph.embeddings
  embeddings = load_embeddings(
    source if source in WITHOUT_FILE else data_path(config, source),
    vocabulary,
    dimension=graph.embedding_size,
  )
  if graph.source != "store":
    path = data_path(config, graph.source)
    arrays = read_arrays(path)
    if "propagation" in arrays:
      return stored_propagation(path, arrays, vocabulary), embeddings
  return propagation_of(
    counts_of(config, vocabulary, store),
    vocabulary,
    method=graph.method,
    threshold=graph.threshold,
    neighbour_weight=graph.neighbour_weight,
    ontology=ontology_path(config),
  ), embeddings


def label_relations(
  config, vocabulary: Vocabulary, store: ClipStore | None
) -> dict[str, Matrix | np.ndarray]:
  """What the terms of the loss know of the labels, as far as the config asks for them.

  `similarity` [K, K]: the mean of P[i, j] and P[j, i] of Eq. 5 above the threshold of Eq. 6.
  `members` int32[2, M]: pairs of a category of the ontology and a label at or below it.

  Raises:
    UserError: For a file that cannot be used, or without a store where one is needed.
  """
  relations: dict[str, Matrix | np.ndarray] = {}
  if config.loss.laplacian:
    counts = counts_of(config, vocabulary, store)
    probabilities = adjacency_from_counts(counts.occurrences, counts.cooccurrences)
    kept = threshold_edges(probabilities, config.graph.threshold)
    relations["similarity"] = ((kept + kept.T) / 2).astype(np.float32)
  if config.loss.hierarchy:
    found = members(ontology_at(ontology_path(config), "loss.hierarchy"), vocabulary.ids)
    if not found.size:
      raise UserError("loss.hierarchy: no category of graph.ontology has two labels below it")
    relations["members"] = found
  return relations


def counts_of(config, vocabulary: Vocabulary, store: ClipStore | None) -> Counts:
  """The counts that `graph.source` names, those of the training clips for `store`.

  Raises:
    UserError: For a file that cannot be used, or without a store where one is needed.
  """
  if config.graph.source != "store":
    path = data_path(config, config.graph.source)
    return load_counts(path, vocabulary, config.graph.counts_set or None)
  if store is None:
    raise UserError("graph.source: 'store' needs a clip store; name an .npz of counts or a graph")
  labels = store.labels_of(split_clips(store, config.data, "train"))
  return count_labels(*labels, len(vocabulary))


def ontology_path(config) -> str:
  """Where the ontology lies, SOUNDSCAPES for that of the built-in sounds, empty for none."""
  named = config.graph.ontology
  return named if named in ("", SOUNDSCAPES) else data_path(config, named)


def ontology_at(path: str, wanted_by: str) -> Ontology:
  """The ontology of an `ontology_path`.

  Raises:
    UserError: If there is none, saying what it is wanted by, or it cannot be used.
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
  """`propagation_matrix` of counts; the method `ontology` takes its edges from that file.

  Raises:
    UserError: For an unknown method, a number out of range, or a missing ontology file.
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


def stored_propagation(path: str, arrays: dict[str, Any], vocabulary: Vocabulary) -> Matrix:
  """The matrix of an `atgcn graph` file in the vocabulary's order.

  Raises:
    UserError: If the file is for other labels, or a weight is not finite.
  """
  rows = rows_by_id(path, arrays.get("mids", np.zeros(0, "U1")), vocabulary)
  propagation = arrays["propagation"]
  if propagation.shape != (len(rows), len(rows)):
    raise UserError(
      f"{path}: a graph of shape {propagation.shape}, not of these {len(rows)} labels; "
      "make it with `atgcn graph` for this vocabulary"
    )
  if propagation.dtype.kind not in "fiu":
    raise UserError(f"{path}: `propagation` holds {propagation.dtype}, not numbers; make it again")
  with np.errstate(over="ignore"):  # what exceeds float32 is refused
    chosen = sized(selected(propagation, rows).astype(np.float32))
  if not np.isfinite(chosen.data if scipy.sparse.issparse(chosen) else chosen).all():
    raise UserError(
      f"{path}: a weight of the graph is NaN or infinite; make it again with `atgcn graph`"
    )
  return chosen
