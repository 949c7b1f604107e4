"""Labels that are added to a trained run: their estimates, and their nodes in its label graph."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import LEAST, scaled_to_one, weighted_sums
from atgcn_jax.labels.sparse import Matrix
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models.layers import Array
from atgcn_jax.runs.added_weights import weights_of
from atgcn_jax.runs.calibrations import Calibrations
from atgcn_jax.runs.run import Run

ESTIMATED = " (estimated)"  # ends the name of an added label in every output
# Share of a node vector's log-odds in the estimate of a graph head. It hardly matters: 0, .1, .3
# and .5 give mAP .194, .194, .194 and .192 on held-out training clips of AudioSet.
NODE_SHARE = 0.1


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
    labels = [self.vocabulary.ids, self.vocabulary.names]
    values = [*labels, self.weights.tolist(), self.kinds, self.calibrations.by_kind]
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
    weights, kind = weights_of(run, label, counts)
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
  if run.propagation is not None and neighbour_weight(run):
    # A word vector that the head was not trained with is a worse start than none: on AudioSet,
    # nodes with it have half of the mAP of nodes that only gather from their neighbours.
    assert run.label_embeddings is not None
    none = np.zeros((len(labels), run.label_embeddings.shape[1]))
    extended = extended_run(run, added, weights, none)
  return AddedLabels(added, weights, tuple(kinds), calibrations, extended)


def extended_run(run: Run, vocabulary: Vocabulary, weights: np.ndarray, vectors: np.ndarray) -> Run:
  """Return a run with added labels as nodes that gather from known labels. No known label changes.

  The rows of the new nodes have the form of Eq. 7 and Eq. 1: `neighbour_weight` for the known
  labels in proportion to their weights, the rest and 1 for the label itself, divided by 2.

  Args:
    run: A run with a label graph.
    vocabulary: The K labels of the run and the A added ones.
    weights: float[A, K]. Negative weights count as 0.
    vectors: float[A, E], the inputs H^(0) of the new nodes.
  """
  rows = (neighbour_weight(run) / 2 * scaled_to_one(np.maximum(weights, 0))).astype(np.float32)
  own = (1 - rows.sum(axis=1)).astype(np.float32)
  known: Matrix = run.propagation
  if scipy.sparse.issparse(known):
    graph = scipy.sparse.block_array([[known, None], [rows, np.diag(own)]], format="csr")
  else:
    graph = np.block([[known, np.zeros((len(known), len(own)), np.float32)], [rows, np.diag(own)]])
  assert run.label_embeddings is not None
  nodes = np.concatenate([run.label_embeddings, vectors.astype(run.label_embeddings.dtype)])
  return dataclasses.replace(run, vocabulary=vocabulary, propagation=graph, label_embeddings=nodes)


def neighbour_weight(run: Run) -> float:
  """Return p of Eq. 7 of a run's label graph, with which added labels gather; 0 without edges.

  It comes from the graph where Eq. 7 made it, because the file that `graph.source` names may have
  been made with another p than that of the config. By Eq. 7 and Eq. 1, each label with neighbours
  then has the weight 1 - p / 2 for itself.
  """
  assert run.propagation is not None
  own = run.propagation.diagonal().astype(np.float64)
  own = own[own < 1 - 1e-6]
  if not own.size:
    return 0.0
  is_of_eq_7 = np.ptp(own) < 1e-5
  return round(2 * (1 - own.mean()), 6) if is_of_eq_7 else run.config.graph.neighbour_weight
