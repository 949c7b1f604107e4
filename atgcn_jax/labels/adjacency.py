"""Propagation matrices from label counts: Eq. 5, Eq. 6, Eq. 7 and Eq. 1."""

from __future__ import annotations

import numpy as np
import scipy

from atgcn_jax.labels.counts import check_counts
from atgcn_jax.labels.sparse import Matrix, csr, dense, eye, without_diagonal

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
  """Return the propagation matrix of Eq. 1.

  Args:
    occurrences: int[K]. The number of clips with each label.
    cooccurrences: int[K, K]. The number of clips with both labels of a pair. The diagonal is
      ignored. An array or a SciPy sparse matrix, like `edges` and the matrices of the functions
      below.
    method: The steps between Eq. 5 and Eq. 1. `none`: no step. `threshold`: Eq. 6. `reweight`:
      Eq. 7. `paper`: Eq. 6 and Eq. 7. `binary`: as `paper`, with the remaining edges set to 1
      before Eq. 7. `ontology`: Eq. 7 on `edges` instead of counts. `author`: the form of the
      authors' code. `identity`: no graph.
    threshold: τ of Eq. 6, 0 to 1.
    neighbour_weight: p of Eq. 7, 0 to 1.
    edges: bool[K, K], True from a label to each of its neighbours. Only used by `ontology`.

  Returns:
    float32[K, K]. Row i contains the weights with which label i gathers from all labels. An array
    if the counts are an array, scipy's csr_array if they are sparse. The memory for the sparse form
    grows with the number of entries only.

  Raises:
    ValueError: The method is unknown, a setting is out of range, the counts are inconsistent, or
      the edges are missing or have another shape.

  Source:
    Eq. 1, Eq. 5, Eq. 6, Eq. 7 and Table II; the authors' code for `author`.
  """
  if method not in METHODS:
    raise ValueError(f"graph method must be one of {', '.join(METHODS)}, got {method!r}")
  for name, value in (("threshold", threshold), ("neighbour_weight", neighbour_weight)):
    if not 0 <= value <= 1:
      raise ValueError(f"{name} must be 0 to 1, got {value}")
  probabilities = adjacency_from_counts(occurrences, cooccurrences)
  strong = threshold_edges(probabilities, threshold)
  if method == "identity":
    matrix = eye(probabilities)
  elif method == "none":
    matrix = normalise(probabilities)
  elif method == "threshold":
    matrix = normalise(strong)
  elif method == "reweight":
    matrix = normalise(reweight(probabilities, neighbour_weight))
  elif method == "paper":
    matrix = normalise(reweight(strong, neighbour_weight))
  elif method == "binary":
    # Labels that never occur together get no edge, even if the threshold is 0.
    matrix = normalise(reweight(strong > 0, neighbour_weight))
  elif method == "ontology":
    if edges is None or np.shape(edges) != probabilities.shape:
      shape = "none" if edges is None else np.shape(edges)
      raise ValueError(
        f"graph method 'ontology' needs edges of shape {probabilities.shape}, got {shape}"
      )
    if scipy.sparse.issparse(probabilities):
      linked = csr(edges).astype(bool)
    else:
      linked = dense(edges).astype(bool)
    matrix = normalise(reweight(linked, neighbour_weight))
  elif method == "author":
    matrix = author_matrix(strong, neighbour_weight)
  return (csr(matrix) if scipy.sparse.issparse(matrix) else matrix).astype(np.float32)


def adjacency_from_counts(occurrences: np.ndarray, cooccurrences: Matrix) -> Matrix:
  """Return P of Eq. 5: P[i, j] is the probability of label j given label i, float64[K, K].

  The diagonal is zero, and so is the row of a label that never occurs.

  Args:
    occurrences: int[K]. The number of clips with each label.
    cooccurrences: int[K, K]. The number of clips with both labels of a pair. The diagonal is
      ignored.

  Raises:
    ValueError: The shapes do not match, a count is negative or not finite, or a pair occurs more
      often than one of its labels.
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
  """Return A of Eq. 6: weights below τ are set to zero, [K, K].

  Args:
    adjacency: float[K, K], P of Eq. 5.
    threshold: τ, 0 to 1.
  """
  if scipy.sparse.issparse(adjacency):
    strong = adjacency.copy()
    strong.data[strong.data < threshold] = 0
    return csr(strong)
  return np.where(adjacency >= threshold, adjacency, 0.0)


def reweight(adjacency: Matrix, neighbour_weight: float) -> Matrix:
  """Return the reweighted matrix of Eq. 7, float64[K, K].

  The diagonal is 1 - p. The weights of the neighbours of a label are scaled to the sum p; a label
  without neighbours has only its diagonal entry. The diagonal of the input is ignored.

  Args:
    adjacency: [K, K], not negative. A of Eq. 6, or True for each edge.
    neighbour_weight: p, 0 to 1.
  """
  neighbours = without_diagonal(adjacency.astype(np.float64))
  totals = neighbours.sum(1)[:, None]
  # A row with the total 0 has only zeros, which any divisor leaves unchanged.
  weights = neighbour_weight * neighbours / np.where(totals > 0, totals, 1)
  return weights + (1 - neighbour_weight) * eye(neighbours)


def normalise(adjacency: Matrix) -> Matrix:
  """Return the normalised matrix Â of Eq. 1, D^-1/2 (A + I) D^-1/2, float64[K, K].

  D contains the row sums of A + I.

  Args:
    adjacency: A, float[K, K]. Not negative, so that every row sum is at least 1.
  """
  linked = adjacency + eye(adjacency)
  scale = 1 / np.sqrt(linked.sum(1))
  return scale[:, None] * linked * scale


def author_matrix(adjacency: Matrix, neighbour_weight: float) -> Matrix:
  """Return the matrix of the authors' code, float64[K, K], which replaces Eq. 7 and Eq. 1.

  Weights are scaled to the sum p per column instead of per row. The diagonal is the identity only.
  The matrix is transposed; it is scaled by the row sums before the transpose.

  Args:
    adjacency: float[K, K], A of Eq. 6, not negative.
    neighbour_weight: p, 0 to 1.
  """
  # The constant is the authors'. It keeps columns without neighbours at zero.
  shared = neighbour_weight * adjacency / (adjacency.sum(0) + 1e-6)
  linked = shared + eye(adjacency)
  scale = 1 / np.sqrt(linked.sum(1))
  return scale[:, None] * linked.T * scale
