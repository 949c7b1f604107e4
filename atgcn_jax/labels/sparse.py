"""Matrices over pairs of labels: dense for small vocabularies, sparse for large vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

# Up to this number of labels a matrix over their pairs is an array, above it scipy's csr_array.
# Propagation along an array takes K (256 + 512) multiplications per label, the dense layers of the
# paper take 300 · 256 + 256 · 512. At about 541 labels, propagation takes twice as long as the
# layers.
DENSE_LABELS = 540

Matrix = Any  # np.ndarray or scipy.sparse.csr_array, [K, K]
PARTS = ("data", "indices", "indptr")


def sized(matrix: Matrix) -> Matrix:
  """Return the matrix as an array, or as csr_array for more than DENSE_LABELS labels.

  Args:
    matrix: [K, K], dense or sparse.
  """
  if matrix.shape[0] > DENSE_LABELS:
    return csr(matrix)
  return matrix.toarray() if scipy.sparse.issparse(matrix) else matrix


def dense(matrix: Matrix) -> np.ndarray:
  """Return a matrix as an array."""
  return matrix.toarray() if scipy.sparse.issparse(matrix) else np.asarray(matrix)


def csr(matrix: Matrix) -> scipy.sparse.csr_array:
  """Return the nonzero entries as a csr_array with sorted columns.

  Args:
    matrix: [K, K], dense or sparse. It is not changed.
  """
  rows = scipy.sparse.csr_array(matrix, copy=True)
  rows.sum_duplicates()
  rows.eliminate_zeros()
  return rows


def without_diagonal(matrix: Matrix) -> Matrix:
  """Return a copy with a zero diagonal.

  Args:
    matrix: [K, K], dense or sparse.
  """
  if scipy.sparse.issparse(matrix):
    pairs = matrix.tocoo()
    off_diagonal = pairs.row != pairs.col
    entries = (
      pairs.data[off_diagonal],
      (pairs.row[off_diagonal], pairs.col[off_diagonal]),
    )
    return csr(scipy.sparse.coo_array(entries, shape=matrix.shape))
  copy = matrix.copy()
  np.fill_diagonal(copy, 0)
  return copy


def eye(matrix: Matrix) -> Matrix:
  """Return the identity with the form and size of a matrix, float64[K, K]."""
  if scipy.sparse.issparse(matrix):
    return scipy.sparse.eye_array(matrix.shape[0], format="csr")
  return np.eye(len(matrix))


def edges_of(matrix: Matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the positive off-diagonal entries, row by row.

  Args:
    matrix: [K, K], dense or sparse.

  Returns:
    Rows int[N], columns int[N] and weights [N].
  """
  pairs = csr(without_diagonal(matrix)).tocoo()
  positive = pairs.data > 0
  return pairs.row[positive], pairs.col[positive], pairs.data[positive]


def selected(matrix: Matrix, rows: np.ndarray) -> Matrix:
  """Return the submatrix of some labels, [N, N].

  Args:
    matrix: [K, K], dense or sparse.
    rows: int[N]. The positions of the labels.
  """
  return matrix[rows][:, rows]


def equal(one: Matrix, other: Matrix) -> bool:
  """Return whether two arrays or matrices have the same shape and values."""
  if scipy.sparse.issparse(one) or scipy.sparse.issparse(other):
    return one.shape == other.shape and (csr(one) != csr(other)).nnz == 0
  return np.array_equal(one, other)


def pack_matrices(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Return the arrays with each sparse matrix NAME split into NAME_data, NAME_indices, NAME_indptr.

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
  """Return the arrays and sparse matrices from the result of `pack_matrices`.

  Args:
    arrays: Arrays by name.

  Raises:
    ValueError: Three arrays with such names do not form a square sparse matrix.
  """
  restored: dict[str, Any] = dict(arrays)
  for name in [key.removesuffix("_indptr") for key in arrays if key.endswith("_indptr")]:
    keys = [f"{name}_{part}" for part in PARTS]
    if all(key in arrays for key in keys):
      restored[name] = _checked_csr(name, *(np.asarray(restored.pop(key)) for key in keys))
  return restored


def _checked_csr(
  name: str, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray
) -> scipy.sparse.csr_array:
  """Return a square sparse matrix.

  Raises:
    ValueError: The arrays do not form one. An index outside it would access invalid memory.
  """
  numeric = data.dtype.kind in "biuf" and data.dtype != np.float16  # which SciPy cannot index
  if not numeric or any(x.dtype.kind not in "iu" for x in (indices, indptr)):
    raise ValueError(f"the sparse matrix {name} has values or indices of the wrong type")
  # SciPy's own check overlooks differences that overflow.
  indices, indptr = indices.astype(np.int64), indptr.astype(np.int64)
  labels = indptr.size - 1
  if (
    data.ndim != 1
    or data.shape != indices.shape
    or indptr.ndim != 1
    or labels < 0
    or (indptr[0], indptr[-1]) != (0, len(data))
    or (indptr[1:] < indptr[:-1]).any()
    or (indices < 0).any()
    or (indices >= labels).any()
  ):
    raise ValueError(f"{name}_data, {name}_indices and {name}_indptr do not form a sparse matrix")
  return scipy.sparse.csr_array((data, indices, indptr), shape=(labels, labels))
