"""From counts to the matrix along which a graph network propagates: Eq. 5, 6, 7 and 1."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from atgcn_jax.labels.counts import check_counts
from atgcn_jax.labels.sparse import Matrix, csr, eye, without_diagonal

METHODS = (
  "identity",
  "none",
  "threshold",
  "reweight",
  "paper",
  "binary",
  "ontology",
  "author",
)


def propagation_matrix(
  occurrences: np.ndarray,
  cooccurrences: Matrix,
  *,
  method: str,
  threshold: float = 0.3,
  neighbour_weight: float = 0.2,
  edges: Matrix | None = None,
) -> Matrix:
  """The propagation matrix float32[K, K]: row i holds the weights with which label i gathers.

  It is an array for an array of counts, and scipy's csr_array for a sparse matrix of counts, then
  in memory that grows with the entries alone.

  Args:
    occurrences: int[K], clips with each label.
    cooccurrences: int[K, K], clips with both labels of a pair; the diagonal is not looked at. An
      array or a sparse matrix of SciPy; so are `edges` and the matrices of the functions below.
    method: What comes between Eq. 5 and Eq. 1: `none` nothing, `threshold` Eq. 6, `reweight` Eq. 7,
      `paper` both, `binary` both with the kept edges set to 1 in between, `ontology` Eq. 7 on
      `edges` in place of counts. `author` is the form of the authors' code, `identity` no graph.
    threshold: τ of Eq. 6, 0 to 1.
    neighbour_weight: p of Eq. 7, 0 to 1.
    edges: bool[K, K], true from a label to each of its neighbours; for `ontology` alone.

  Raises:
    ValueError: Unknown method, a setting out of range, counts that cannot be, edges that are
      missing or of another shape.

  Source: Eq. 1, 5, 6, 7 and Table II; the authors' code for `author`.
  """
  if method not in METHODS:
    raise ValueError(f"graph method {method!r} is not one of {', '.join(METHODS)}")
  for name, value in (("threshold", threshold), ("neighbour_weight", neighbour_weight)):
    if not 0 <= value <= 1:
      raise ValueError(f"{name} is {value}, not 0 to 1")
  probabilities = adjacency_from_counts(occurrences, cooccurrences)
  kept = threshold_edges(probabilities, threshold)
  if method == "identity":
    matrix = eye(probabilities)
  elif method == "none":
    matrix = normalise(probabilities)
  elif method == "threshold":
    matrix = normalise(kept)
  elif method == "reweight":
    matrix = normalise(reweight(probabilities, neighbour_weight))
  elif method == "paper":
    matrix = normalise(reweight(kept, neighbour_weight))
  elif method == "binary":
    # Labels never seen together stay apart even where the threshold is 0.
    matrix = normalise(reweight(kept > 0, neighbour_weight))
  elif method == "ontology":
    if edges is None or np.shape(edges) != probabilities.shape:
      found = "none" if edges is None else f"edges {np.shape(edges)}"
      raise ValueError(f"the ontology method needs edges {probabilities.shape}, got {found}")
    if scipy.sparse.issparse(probabilities):
      linked = csr(edges).astype(bool)
    else:
      linked = np.asarray(edges.toarray() if scipy.sparse.issparse(edges) else edges, bool)
    matrix = normalise(reweight(linked, neighbour_weight))
  else:
    matrix = author_matrix(kept, neighbour_weight)
  return (csr(matrix) if scipy.sparse.issparse(matrix) else matrix).astype(np.float32)


def adjacency_from_counts(occurrences: np.ndarray, cooccurrences: Matrix) -> Matrix:
  """Eq. 5: P[i, j], the probability of label j where label i occurs, float64[K, K].

  The diagonal is zero, and so is the row of a label that never occurs.

  Args:
    occurrences: int[K], clips with each label.
    cooccurrences: int[K, K], clips with both labels of a pair; the diagonal is not looked at.

  Raises:
    ValueError: The shapes disagree, a count is negative or not finite, or a pair occurs more often
      than one of its labels.
  """
  occurrences = np.asarray(occurrences)
  if scipy.sparse.issparse(cooccurrences):
    check_counts(occurrences, cooccurrences)
    pairs = without_diagonal(cooccurrences)
    totals = np.repeat(occurrences, np.diff(pairs.indptr))
    return scipy.sparse.csr_array((pairs.data / totals, pairs.indices, pairs.indptr), pairs.shape)
  cooccurrences = np.asarray(cooccurrences)
  check_counts(occurrences, cooccurrences)
  totals = np.broadcast_to(occurrences[:, None], cooccurrences.shape)
  probabilities = np.zeros(cooccurrences.shape)
  np.divide(cooccurrences, totals, out=probabilities, where=totals > 0)
  np.fill_diagonal(probabilities, 0)
  return probabilities


def threshold_edges(adjacency: Matrix, threshold: float) -> Matrix:
  """Eq. 6: the weights of at least τ, zero in place of the others, [K, K].

  Args:
    adjacency: float[K, K], P of Eq. 5.
    threshold: τ, 0 to 1.
  """
  if scipy.sparse.issparse(adjacency):
    kept = adjacency.copy()
    kept.data[kept.data < threshold] = 0
    return csr(kept)
  return np.where(adjacency >= threshold, adjacency, 0.0)


def reweight(adjacency: Matrix, neighbour_weight: float) -> Matrix:
  """Eq. 7: own weight 1 - p, and p shared among the neighbours by their weights, float64[K, K].

  A row without neighbours has only its own weight. The diagonal that comes in is not looked at.

  Args:
    adjacency: [K, K], not negative; A of Eq. 6, or true where there is an edge.
    neighbour_weight: p, 0 to 1.
  """
  neighbours = without_diagonal(adjacency.astype(np.float64))
  totals = neighbours.sum(1)[:, None]
  # A total of 0 belongs to a row of zeros, which any divisor leaves as it is.
  weights = neighbour_weight * neighbours / np.where(totals > 0, totals, 1)
  return weights + (1 - neighbour_weight) * eye(neighbours)


def normalise(adjacency: Matrix) -> Matrix:
  """Eq. 1: D^-1/2 (A + I) D^-1/2, where D holds the row sums of A + I, float64[K, K].

  Args:
    adjacency: float[K, K], not negative, so that every row sum is at least 1.
  """
  linked = adjacency + eye(adjacency)
  scale = 1 / np.sqrt(linked.sum(1))
  return scale[:, None] * linked * scale


def author_matrix(adjacency: Matrix, neighbour_weight: float) -> Matrix:
  """The matrix of the authors' code, float64[K, K]; it stands in for Eq. 7 and Eq. 1.

  Weights are shared over columns, a label's own weight is I alone, and the transpose is propagated,
  scaled by the row sums taken before.

  Args:
    adjacency: float[K, K], A of Eq. 6, not negative.
    neighbour_weight: p, 0 to 1.
  """
  # The small number is the authors': columns without neighbours stay zero.
  shared = neighbour_weight * adjacency / (adjacency.sum(0) + 1e-6)
  linked = shared + eye(adjacency)
  scale = 1 / np.sqrt(linked.sum(1))
  return scale[:, None] * linked.T * scale
