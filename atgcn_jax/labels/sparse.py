"""Matrices over pairs of labels: dense for small vocabularies, sparse for large ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse

# Up to so many labels a matrix over their pairs is an array, for more it is scipy's csr_array. An
# array of K labels takes K (256 + 512) multiplications a label to propagate along, the paper's
# layers themselves 300 · 256 + 256 · 512: at 541 labels propagation begins to take twice as long.
DENSE_LABELS = 540

Matrix = Any  # np.ndarray or scipy.sparse.csr_array, [K, K]
PARTS = ("data", "indices", "indptr")


def sized(matrix: Matrix) -> Matrix:
  """The matrix in the form for its number of labels: an array, or csr_array above DENSE_LABELS.

  Args:
    matrix: [K, K], of either form.
  """
  if matrix.shape[0] > DENSE_LABELS:
    return csr(matrix)
  return matrix.toarray() if scipy.sparse.issparse(matrix) else matrix


def csr(matrix: Matrix) -> scipy.sparse.csr_array:
  """The entries other than zero, row by row and in order of their columns.

  Args:
    matrix: [K, K], of either form; it is left as it is.
  """
  rows = scipy.sparse.csr_array(matrix, copy=True)
  rows.sum_duplicates()
  rows.eliminate_zeros()
  return rows


def without_diagonal(matrix: Matrix) -> Matrix:
  """A copy whose diagonal is zero.

  Args:
    matrix: [K, K], of either form.
  """
  if scipy.sparse.issparse(matrix):
    pairs = matrix.tocoo()
    between = pairs.row != pairs.col
    kept = (pairs.data[between], (pairs.row[between], pairs.col[between]))
    return csr(scipy.sparse.coo_array(kept, shape=matrix.shape))
  copy = matrix.copy()
  np.fill_diagonal(copy, 0)
  return copy


def eye(matrix: Matrix) -> Matrix:
  """The identity in the form and of the size of a matrix, float64[K, K]."""
  if scipy.sparse.issparse(matrix):
    return scipy.sparse.eye_array(matrix.shape[0], format="csr")
  return np.eye(len(matrix))


def edges_of(matrix: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(rows int[N], columns int[N], weights[N]) of the positive entries off the diagonal, in order.

  Args:
    matrix: [K, K], of either form.
  """
  pairs = csr(without_diagonal(matrix)).tocoo()
  positive = pairs.data > 0
  return pairs.row[positive], pairs.col[positive], pairs.data[positive]


def selected(matrix: Matrix, rows: np.ndarray) -> Matrix:
  """The matrix of some labels, [N, N].

  Args:
    matrix: [K, K], of either form.
    rows: int[N], where these labels stand.
  """
  return matrix[rows][:, rows]


def equal(one: Matrix, other: Matrix) -> bool:
  """Whether two arrays or matrices are of one shape and hold the same numbers."""
  if scipy.sparse.issparse(one) or scipy.sparse.issparse(other):
    return one.shape == other.shape and (csr(one) != csr(other)).nnz == 0
  return np.array_equal(one, other)


def pack_matrices(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Arrays alone: a sparse matrix NAME becomes NAME_data, NAME_indices and NAME_indptr.

  Args:
    arrays: Arrays and sparse matrices by name.
  """
  plain: dict[str, np.ndarray] = {}
  for name, array in arrays.items():
    if scipy.sparse.issparse(array):
      plain |= {f"{name}_{part}": getattr(csr(array), part) for part in PARTS}
    else:
      plain[name] = array
  return plain


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """What `packed` made arrays of.

  Args:
    arrays: Arrays by name.

  Raises:
    ValueError: Three arrays of such names do not make up a square sparse matrix.
  """
  whole: dict[str, Any] = dict(arrays)
  for name in [key.removesuffix("_indptr") for key in arrays if key.endswith("_indptr")]:
    keys = [f"{name}_{part}" for part in PARTS]
    if all(key in arrays for key in keys):
      data, indices, indptr = (np.asarray(whole.pop(key)) for key in keys)
      matrix = scipy.sparse.csr_array((data, indices, indptr), shape=(indptr.size - 1,) * 2)
      # An index outside the matrix would reach into other memory.
      matrix.check_format(full_check=True)
      whole[name] = matrix
  return whole
