"""The product of a large constant sparse matrix with the nodes of a graph network."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from atgcn_jax.models.layers import Array

# Entries of a group's rows. Longer rows are summed in pieces: few rows of many entries would keep
# few cores busy.
WIDTHS = (4, 8, 16, 32, 64)
WIDEST = WIDTHS[-1]
BLOCK = 8  # entries added in one pass over the sums, or half a row where it has fewer


class GatherPlan(NamedTuple):
  """How the rows of a matrix are gathered.

  Rows of like length stand together in `groups` (int32[W/N, N, V], float[W/N, N, V]), padded with
  weights of 0 to W of WIDTHS. `long` holds the plans of the pieces of all longer rows and of the
  sums of these pieces. `places` int32[K] says where in groups and long rows each row stands, None
  where all are in order.
  """

  groups: list[tuple[np.ndarray, np.ndarray]]
  long: tuple[GatherPlan, GatherPlan] | None
  places: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class SparseProduct:
  """`product @ nodes` [K, C] for nodes [K, C], with a gradient for the nodes.

  Rows are gathered, weighted and summed in one pass that keeps no array of edges by channels, and
  the gradient does the same with the transposed matrix: scattered additions are slow on every
  device.
  """

  forward: GatherPlan
  backward: GatherPlan

  def __matmul__(self, nodes: Array) -> Array:
    """The product, of the type of the nodes."""

    @jax.custom_vjp
    def product(nodes):
      return _gathered(self.forward, nodes)

    product.defvjp(
      lambda nodes: (product(nodes), None),
      lambda _, gradient: (_gathered(self.backward, gradient),),
    )
    return product(nodes)


def sparse_product(matrix: scipy.sparse.csr_array) -> SparseProduct:
  """The product with a sparse matrix, float[K, K]."""
  return SparseProduct(_plan(matrix), _plan(matrix.T.tocsr()))


def _plan(matrix: scipy.sparse.csr_array) -> GatherPlan:
  lengths = np.diff(matrix.indptr)
  # Padding points at an entry of weight 0 behind the last.
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
  """A matrix as a product: its rows cut into pieces of at most WIDEST, and the sums of these."""
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
  """The product of a plan's matrix [K, M] with nodes [M, C]."""
  sums = [_group(nodes, jnp.asarray(i), jnp.asarray(w, nodes.dtype)) for i, w in plan.groups]
  if plan.long is not None:
    cut, rest = plan.long
    sums.append(_gathered(rest, _gathered(cut, nodes)))
  if plan.places is None:
    return sums[0]
  return _rows(jnp.concatenate(sums), jnp.asarray(plan.places))


def _group(nodes: Array, indices: Array, weights: Array) -> Array:
  """Weighted sums of rows, [V, C].

  The additions of a block become one pass over the sums. The loop, of two rounds at least, keeps
  the compiler from mixing them with what stands around them, where it would no longer make them
  one pass and keep all gathered rows.
  """

  def add(total, block):
    for rows, weight in zip(*block):
      total += weight[:, None] * _rows(nodes, rows)
    return total, None

  start = jnp.zeros((indices.shape[-1], nodes.shape[-1]), nodes.dtype)
  return jax.lax.scan(add, start, (indices, weights))[0]


def _rows(nodes: Array, indices: Array) -> Array:
  return nodes.at[indices].get(mode="promise_in_bounds")
