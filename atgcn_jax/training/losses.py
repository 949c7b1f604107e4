"""What a training step makes smaller: binary cross-entropy, and two terms that know the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from atgcn_jax.models.sparse_product import sparse_product

Array = jax.Array
Loss = Callable[[Array, Array], Array]


def loss_of(config: Any, relations: Mapping[str, Any]) -> Loss:
  """(logits float[B, K], labels [B, K]) → loss, the cross-entropy and what the config adds to it.

  Args:
    config: a `loss` section: `laplacian` and `hierarchy` are the weights of the two terms.
    relations: `similarity` and `members`, as far as these terms need them.
  """

  def loss(logits, labels):
    total = binary_cross_entropy(logits, labels)
    if config.laplacian:
      total += config.laplacian * laplacian_penalty(logits, relations["similarity"])
    if config.hierarchy:
      total += config.hierarchy * hierarchical_loss(logits, labels, relations["members"])
    return total

  return loss


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
  """Mean over clips and labels of the binary cross-entropy (Eq. 4, scaled)."""
  return optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype)).mean()


def laplacian_penalty(logits: Array, similarity: Any) -> Array:
  """tr(Y L Yᵀ) of the scores Y, divided by clips and labels: similar labels, similar scores.

  For a clip that is half the sum over pairs of W[i, j] (y_i - y_j)².

  Args:
    logits: float[B, K].
    similarity: W float[K, K], symmetric and not negative, an array or of scipy's csr_array; the
      graph Laplacian is L = D - W with W's row sums in D.
  Source: Imoto and Kyochi, Sound event detection using graph Laplacian regularization based on
    event co-occurrence, ICASSP 2019 ([16] of the paper).
  """
  scores_KxB = jax.nn.sigmoid(logits).T
  is_sparse = scipy.sparse.issparse(similarity)
  product: Any = sparse_product(similarity) if is_sparse else jnp.asarray(similarity, logits.dtype)
  degrees_K = jnp.asarray(similarity.sum(axis=1), logits.dtype)
  return (scores_KxB * (degrees_K[:, None] * scores_KxB - product @ scores_KxB)).sum() / logits.size


def hierarchical_loss(logits: Array, labels: Array, members: np.ndarray) -> Array:
  """Mean binary cross-entropy of the categories above the labels.

  A category is present where one of its labels is, and its score is the highest of theirs, so the
  network needs no outputs of its own for categories.

  Args:
    logits, labels: [B, K].
    members: int[2, M], pairs of a category, numbered from 0 without gaps, and one of its labels.
  Source: after Xu et al., Hierarchical learning for DNN-based acoustic scene classification, 2016
    ([17] of the paper), which trains outputs for both levels of a hierarchy of scenes.
  """
  categories, of_label = members
  count = int(categories.max()) + 1

  def highest(x_BxK):
    return jax.ops.segment_max(x_BxK.T[of_label], categories, count).T

  return binary_cross_entropy(highest(logits), highest(labels.astype(logits.dtype)))
