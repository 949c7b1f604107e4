"""Losses: binary cross-entropy, and three terms that use relations between labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy

from atgcn_jax.models.sparse_product import sparse_product

Array = jax.Array
Loss = Callable[[Array, Array, Array | None], Array]


def loss_of(
  relations: Mapping[str, Any],
  *,
  laplacian: float = 0.0,
  hierarchy: float = 0.0,
  neighbours: float = 0.0,
) -> Loss:
  """Return the binary cross-entropy plus weighted terms that use relations between labels.

  Args:
    relations: `similarity` for `laplacian_penalty`, `members` for `hierarchical_loss`, and
      `neighbours` for `neighbour_penalty`. Required only for terms with a weight.
    laplacian: Weight of `laplacian_penalty`.
    hierarchy: Weight of `hierarchical_loss`.
    neighbours: Weight of `neighbour_penalty`.

  Returns:
    A function from logits float[B, K], labels [B, K] and label vectors [K, C] to the loss. The
    vectors may be None without `neighbours`.
  """

  def loss(logits, labels, vectors):
    total = binary_cross_entropy(logits, labels)
    if laplacian:
      total += laplacian * laplacian_penalty(logits, relations["similarity"])
    if hierarchy:
      total += hierarchy * hierarchical_loss(logits, labels, relations["members"])
    if neighbours:
      if vectors is None:
        raise ValueError("loss.neighbours: must be 0 for a system without label vectors")
      total += neighbours * neighbour_penalty(vectors, relations["neighbours"])
    return total

  return loss


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
  """Return the binary cross-entropy, averaged over clips and labels (Eq. 4, scaled)."""
  return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


def neighbour_penalty(vectors: Array, neighbours: Any) -> Array:
  """Return the squared distance of label vectors from the mean of their neighbours' vectors.

  The distance is averaged over labels. A label with few positives, whose cross-entropy pulls its
  vector little, becomes similar to its neighbours.

  Args:
    vectors: float[K, C].
    neighbours: float32[K, K], weights that sum to 1 in each row, or to 0 for a label without
      neighbours, whose vector is drawn to 0. An array or a SciPy csr_array.

  Source:
    The regulariser of Evgeniou et al., Learning multiple tasks with kernel methods, JMLR 2005, on
    a directed graph.
  """
  is_sparse = scipy.sparse.issparse(neighbours)
  product: Any = sparse_product(neighbours) if is_sparse else jnp.asarray(neighbours, vectors.dtype)
  return ((vectors - product @ vectors) ** 2).sum() / len(vectors)


def laplacian_penalty(logits: Array, similarity: Any) -> Array:
  """Return tr(Y L Yᵀ) of the scores Y, divided by the number of clips and labels.

  The penalty is small if similar labels have similar scores. For a clip, the trace is half the sum
  over all pairs of W[i, j] (y_i - y_j)².

  Args:
    logits: float[B, K].
    similarity: W float[K, K], symmetric and non-negative, an array or a SciPy csr_array. The graph
      Laplacian is L = D - W, where D is the diagonal matrix of the row sums of W.

  Source:
    Imoto and Kyochi, Sound event detection using graph Laplacian regularization based on event
    co-occurrence, ICASSP 2019 ([16] of the paper).
  """
  scores_KxB = jax.nn.sigmoid(logits).T
  is_sparse = scipy.sparse.issparse(similarity)
  product: Any = sparse_product(similarity) if is_sparse else jnp.asarray(similarity, logits.dtype)
  degrees_K = jnp.asarray(similarity.sum(axis=1), logits.dtype)
  return (scores_KxB * (degrees_K[:, None] * scores_KxB - product @ scores_KxB)).sum() / logits.size


def hierarchical_loss(logits: Array, labels: Array, members: np.ndarray) -> Array:
  """Return the mean binary cross-entropy of the categories of the labels.

  A category is present if one of its labels is present. Its score is the highest score of its
  labels, so the network needs no separate outputs for categories.

  Args:
    logits: float[B, K].
    labels: [B, K].
    members: int[2, M], pairs of a category and one of its labels. Categories are numbered from 0
      without gaps.

  Source:
    After Xu et al., Hierarchical learning for DNN-based acoustic scene classification, 2016 ([17]
    of the paper), which trains outputs for both levels of a hierarchy of scenes.
  """
  categories, of_label = members
  count = int(categories.max()) + 1

  def highest(x_BxK):
    return jax.ops.segment_max(x_BxK.T[of_label], categories, count).T

  return binary_cross_entropy(highest(logits), highest(labels.astype(logits.dtype)))
