"""Labels that are added to a trained run: their estimates, and their nodes in its label graph."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts, load_counts
from atgcn_jax.labels.embeddings import WITHOUT_FILE, load_embeddings
from atgcn_jax.labels.estimates import (
  LEAST,
  Calibration,
  conditional_weights,
  fit_calibration,
  left_out_weights,
  regression_weights,
  scaled_to_one,
  weighted_sums,
  word_weights,
)
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.sparse import Matrix, dense
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models.layers import Array
from atgcn_jax.runs.config import data_path
from atgcn_jax.runs.label_graph import counts_of
from atgcn_jax.runs.run import Run
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.schema import checked
from atgcn_jax.runtime.whole_files import write_whole

ESTIMATED = " (estimated)"  # ends the name of an added label in every output
NAME = "added-labels.json"
# Share of a node vector's log-odds in the estimate of a graph head. It hardly matters: 0, .1, .3
# and .5 give mAP .194, .194, .194 and .192 on held-out training clips of AudioSet.
NODE_SHARE = 0.1
# What an estimate comes from, the most reliable first.
COUNTS, RELATIONS, PARENTS, WORDS = "counts", "relations", "parents", "words"


class Calibrations(NamedTuple):
  """The calibration of each kind of estimate, and the step of the scores that they were fitted on.

  `step` is None for `DEFAULTS`.
  """

  step: int | None
  by_kind: Mapping[str, Calibration]


@dataclasses.dataclass(frozen=True)
class AddedLabels:
  """The labels that are added to a run.

  Attributes:
    vocabulary: The K labels of the run, then the A added labels.
    weights: float64[A, K], weights of the known labels' scores.
    kinds: What the weights of each added label come from.
    calibrations: The calibrations.
    run: The run with the added labels as nodes of its graph, or None without a graph.
  """

  vocabulary: Vocabulary
  weights: np.ndarray
  kinds: tuple[str, ...]
  calibrations: Calibrations
  run: Run | None

  def identity(self) -> str:
    """Return a hash of everything that determines the estimates, except for the run."""
    values = [self.vocabulary.ids, self.weights.tolist(), self.kinds, self.calibrations.by_kind]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

  def extended(self, scores: Any) -> Array:
    """Return scores float[..., K + A]; those of the K known labels do not change.

    Args:
      scores: float[..., K] of a linear head, or float[..., K + A] of `run`.
    """
    lines = [self.calibrations.by_kind[kind] for kind in self.kinds]
    intercept, slope = (np.array(v, np.float32) for v in zip(*lines))
    known = scores[..., : self.weights.shape[1]]
    sums = weighted_sums(known, self.weights.astype(np.float32))
    logits = intercept + slope * jnp.log(jnp.maximum(sums, LEAST))
    if self.run is not None:
      nodes = jax.scipy.special.logit(jnp.clip(scores[..., known.shape[-1] :], 1e-7, 1 - 1e-7))
      logits = (1 - NODE_SHARE) * logits + NODE_SHARE * nodes
    return jnp.concatenate([known, jax.nn.sigmoid(logits)], axis=-1)

  def outputs(self, of_run: Callable[[Run], Callable], run: Run) -> Callable:
    """Return `window_outputs` whose scores are extended.

    Args:
      of_run: `window_outputs`.
      run: The run without the added labels.
    """
    inner = of_run(self.run or run)

    def outputs(variables: dict[str, Any], waveforms: Array) -> dict[str, Array]:
      found = inner(variables, waveforms)
      scores = {name: self.extended(found[name]) for name in ("clip", "frames") if name in found}
      return found | scores

    return outputs


def added_to(
  run: Run, labels: Sequence[AddedLabel], counts: Counts | None, calibrations: Calibrations
) -> AddedLabels:
  """Return labels added to a run.

  The estimate of a label comes from its counts, else from its relations, else from its parents,
  else from counts in the file that `graph.source` names, else from its word vector.

  Args:
    run: The run.
    labels: The labels.
    counts: The counts of the run's labels; None if they are not at hand.
    calibrations: The calibrations.

  Raises:
    UserError: A label has no relation to a known label, or a file of the graph cannot be used.
  """
  rows, kinds = [], []
  for label in labels:
    weights, kind = _weights(run, label, counts)
    if not weights.any():
      raise UserError(
        f"{label.where}: {kind} relate it to no known label; give relations, such as "
        f"`{label.name}: 0.5 {run.vocabulary.names[0]}`"
      )
    rows.append(weights)
    kinds.append(kind)
  added = Vocabulary(
    (*run.vocabulary.ids, *(label.id for label in labels)),
    (*run.vocabulary.names, *(label.name + ESTIMATED for label in labels)),
  )
  weights = np.array(rows)
  extended = None
  if run.propagation is not None and run.config.graph.method != "identity":
    # A word vector that the head was not trained with is a worse start than none: on AudioSet,
    # nodes with it have half of the mAP of nodes that only gather from their neighbours.
    assert run.label_embeddings is not None
    none = np.zeros((len(labels), run.label_embeddings.shape[1]))
    extended = extended_run(run, added, weights, none)
  return AddedLabels(added, weights, tuple(kinds), calibrations, extended)


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
  if not os.path.exists(path) or "propagation" in read_arrays(path):
    return None
  return counts_of(run.config, run.vocabulary, store)


def _weights(run: Run, label: AddedLabel, counts: Counts | None) -> tuple[np.ndarray, str]:
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
  vectors = _embeddings(run, both, f"{label.where}: ")
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
  if graph.source == "store" or not os.path.exists(path):
    return None
  arrays = read_arrays(path)
  if "propagation" in arrays or label.id not in arrays.get("mids", ()):
    return None
  both = Vocabulary((*run.vocabulary.ids, label.id), (*run.vocabulary.names, label.name))
  return load_counts(path, both, graph.counts_set or None)


def _embeddings(run: Run, vocabulary: Vocabulary, where: str = "") -> np.ndarray:
  """Return the label vectors of the run's source for a vocabulary.

  Args:
    run: The run.
    vocabulary: The vocabulary.
    where: The start of a message on labels without vectors.
  """
  graph = run.config.graph
  source = graph.embeddings
  if source in ("random", "one_hot"):
    raise UserError(
      f"{where}graph.embeddings {source!r} has no vectors of added labels; give relations and use "
      "a run with word vectors"
    )
  path = source if source in WITHOUT_FILE else data_path(run.config.data.root, source)
  return load_embeddings(path, vocabulary, dimension=graph.embedding_size)


def extended_run(run: Run, vocabulary: Vocabulary, weights: np.ndarray, vectors: np.ndarray) -> Run:
  """Return a run with added labels as nodes that gather from known labels. No known label changes.

  The rows of the new nodes have the form of Eq. 7 and Eq. 1: `graph.neighbour_weight` for the known
  labels in proportion to their weights, the rest and 1 for the label itself, divided by 2.

  Args:
    run: A run with a label graph.
    vocabulary: The K labels of the run and the A added ones.
    weights: float[A, K]. Negative weights count as 0.
    vectors: float[A, E], the inputs H^(0) of the new nodes.
  """
  shared = 0.0 if run.config.graph.method == "identity" else run.config.graph.neighbour_weight
  rows = (shared / 2 * scaled_to_one(np.maximum(weights, 0))).astype(np.float32)
  own = (1 - rows.sum(axis=1)).astype(np.float32)
  known: Matrix = run.propagation
  if scipy.sparse.issparse(known):
    graph = scipy.sparse.block_array([[known, None], [rows, np.diag(own)]], format="csr")
  else:
    graph = np.block([[known, np.zeros((len(known), len(own)), np.float32)], [rows, np.diag(own)]])
  assert run.label_embeddings is not None
  nodes = np.concatenate([run.label_embeddings, vectors.astype(run.label_embeddings.dtype)])
  return dataclasses.replace(run, vocabulary=vocabulary, propagation=graph, label_embeddings=nodes)


def fit_calibrations(
  run: Run, counts: Counts | None, step: int, scores: np.ndarray, labels: np.ndarray
) -> Calibrations:
  """Fit the calibrations on clips whose labels are known, each label left out in turn.

  Args:
    run: The run.
    counts: The counts of the run's labels; None if they are not at hand.
    step: The step of the scores.
    scores: float[N, K], scores of clips that were not trained on.
    labels: [N, K], their labels.

  Returns:
    The calibrations. A kind of estimate that the run's files do not allow keeps its default.
  """
  weights = {}
  if counts is not None:
    weights = {COUNTS: left_out_weights(counts), RELATIONS: conditional_weights(counts)}
  if run.config.graph.embeddings not in ("random", "one_hot"):
    vectors = _embeddings(run, run.vocabulary)
    similar = word_weights(vectors, vectors) * (1 - np.eye(len(vectors)))
    weights[WORDS] = scaled_to_one(similar)
  fitted = {
    kind: fit_calibration(weighted_sums(scores, given), labels) for kind, given in weights.items()
  }
  return Calibrations(step, {**DEFAULTS.by_kind, **fitted})


def write_calibrations(workdir: str | os.PathLike, calibrations: Calibrations) -> None:
  """Write the calibrations to `added-labels.json` in a run directory."""
  by_kind = {kind: list(line) for kind, line in calibrations.by_kind.items()}
  text = json.dumps({"step": calibrations.step, "calibrations": by_kind}, indent=2)
  write_whole(path_of(workdir) / NAME, f"{text}\n".encode())


class _Stored(TypedDict):
  step: int
  calibrations: dict[str, list[float]]


def read_calibrations(workdir: str | os.PathLike) -> Calibrations:
  """Return the calibrations stored with a run, or `DEFAULTS`.

  Raises:
    UserError: If the file has other content.
  """
  path = path_of(workdir) / NAME
  if not path.exists():
    return DEFAULTS
  try:
    stored = checked(json.loads(path.read_bytes()), _Stored, "calibrations")
    lines = stored["calibrations"]
    if lines.keys() != DEFAULTS.by_kind.keys() or {len(line) for line in lines.values()} != {2}:
      raise ValueError("it has other kinds of estimates")
    return Calibrations(stored["step"], {k: Calibration(*line) for k, line in lines.items()})
  except (OSError, ValueError, RecursionError) as error:
    text = f"{path}: cannot be read as calibrations ({reason(error)})"
    raise UserError(f"{text}; move it away, and they are fitted again") from error


# Fitted on held-out training clips of AudioSet's features with the linear head of docs/results.md.
DEFAULTS = Calibrations(
  None,
  {
    COUNTS: Calibration(-1.417, 0.869),
    RELATIONS: Calibration(-1.008, 1.027),
    PARENTS: Calibration(-2.270, 1.215),
    WORDS: Calibration(0.891, 1.971),
  },
)
