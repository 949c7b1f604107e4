"""The product of a large constant sparse matrix with the nodes of a graph network."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from atgcn_jax.models.layers import Array

# Number of entries per row in each group. Longer rows are summed in pieces, because a few long rows
# would use only a few cores.
WIDTHS = (4, 8, 16, 32, 64)
WIDEST = WIDTHS[-1]
BLOCK = 8  # entries per row that are added in one pass, at most half of the width


class GatherPlan(NamedTuple):
  """The order in which the rows of a matrix are gathered.

  Attributes:
    groups: For each group of V rows of similar length, indices int32[W/N, N, V] and weights
      float[W/N, N, V]. Rows are padded with weights of 0 to W entries, W from WIDTHS.
    long: The plan for the pieces of all longer rows, and the plan for the sums of these pieces.
      None if there are no longer rows.
    places: int32[K]. The position of each row in the concatenation of groups and long rows. None if
      the rows are in order.
  """

  groups: list[tuple[np.ndarray, np.ndarray]]
  long: tuple[GatherPlan, GatherPlan] | None
  places: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class SparseProduct:
  """The product `product @ nodes` [K, C] for nodes [K, C], with a gradient for the nodes.

  Rows are gathered, weighted and summed in one pass without an array of edges by channels. The
  gradient does the same with the transposed matrix, because scattered additions are slow on every
  device.
  """

  forward: GatherPlan
  backward: GatherPlan

  def __matmul__(self, nodes: Array) -> Array:
    """Return the product in the type of the nodes."""

    @jax.custom_vjp
    def product(nodes):
      return _gathered(self.forward, nodes)

    product.defvjp(
      lambda nodes: (product(nodes), None),
      lambda _, gradient: (_gathered(self.backward, gradient),),
    )
    return product(nodes)


def sparse_product(matrix: scipy.sparse.csr_array) -> SparseProduct:
  """Return the product with a sparse matrix, float[K, K]."""
  return SparseProduct(_plan(matrix), _plan(matrix.T.tocsr()))


def _plan(matrix: scipy.sparse.csr_array) -> GatherPlan:
  """Return the plan for the rows of a matrix."""
  lengths = np.diff(matrix.indptr)
  # Padding refers to an additional entry of weight 0 at the end.
  indices = np.append(matrix.indices, 0).astype(np.int32)
  data = np.append(matrix.data, 0).astype(matrix.dtype)
  groups, order = [], []
  for shorter, width in zip((-1, *WIDTHS), WIDTHS):
    rows = np.flatnonzero((lengths > shorter) & (lengths <= width))
    if len(rows):
      within = np.arange(width)
      entries = matrix.indptr[rows, None] + within
      entries[within >= lengths[rows, None]] = matrix.nnz
      entries = entries.T.reshape(-1, min(BLOCK, width // 2), len(rows))
      groups.append((indices[entries], data[entries]))
      order.append(rows)
  long = None
  rows = np.flatnonzero(lengths > WIDEST)
  if len(rows):
    long = _pieces(matrix[rows])
    order.append(rows)
  places = np.empty(len(lengths), np.int32)
  places[np.concatenate(order)] = np.arange(len(lengths))
  return GatherPlan(groups, long, None if len(order) == 1 else places)


def _pieces(matrix: scipy.sparse.csr_array) -> tuple[GatherPlan, GatherPlan]:
  """Return the plans for the rows cut into pieces of at most WIDEST, and for their sums."""
  pieces = -(-np.diff(matrix.indptr) // WIDEST)
  ends = np.cumsum(pieces)
  total = int(ends[-1])
  nth = np.arange(total) - np.repeat(ends - pieces, pieces)
  starts = np.repeat(matrix.indptr[:-1], pieces) + WIDEST * nth
  cut = scipy.sparse.csr_array(
    (matrix.data, matrix.indices, np.append(starts, matrix.nnz)), shape=(total, matrix.shape[1])
  )
  sums = scipy.sparse.csr_array(
    (np.ones(total, matrix.dtype), np.arange(total), np.append(0, ends)), shape=(len(ends), total)
  )
  return _plan(cut), _plan(sums)


def _gathered(plan: GatherPlan, nodes: Array) -> Array:
  """Return the product of the matrix [K, M] of a plan with nodes [M, C]."""
  sums = [_group(nodes, jnp.asarray(i), jnp.asarray(w, nodes.dtype)) for i, w in plan.groups]
  if plan.long is not None:
    cut, rest = plan.long
    sums.append(_gathered(rest, _gathered(cut, nodes)))
  if plan.places is None:
    return sums[0]
  return _rows(jnp.concatenate(sums), jnp.asarray(plan.places))


def _group(nodes: Array, indices: Array, weights: Array) -> Array:
  """Return the weighted sums of rows, [V, C].

  XLA compiles the additions of a block to one pass over the sums. The loop of at least two
  iterations keeps the compiler from fusing them with other operations. Otherwise the additions
  would take several passes, and all gathered rows would be held in memory.
  """

  def add(total, block):
    for rows, weight in zip(*block):
      total += weight[:, None] * _rows(nodes, rows)
    return total, None

  start = jnp.zeros((indices.shape[-1], nodes.shape[-1]), nodes.dtype)
  return jax.lax.scan(add, start, (indices, weights))[0]


def _rows(nodes: Array, indices: Array) -> Array:
  """Return the nodes at some indices."""
  return nodes.at[indices].get(mode="promise_in_bounds")
