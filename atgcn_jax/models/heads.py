"""Heads from embeddings to one logit per label: linear, or with label vectors from a graph."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import scipy
from flax import linen as nn
from jax.typing import ArrayLike

from atgcn_jax.models.layers import Array, activation, constant, parameter_dtype
from atgcn_jax.models.sparse_product import SparseProduct, sparse_product


class LinearHead(nn.Module):
  """A linear classifier with one weight vector and bias per label."""

  num_classes: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, embedding_BxC: Array) -> dict[str, Array]:
    """Return `logits` [B, K] and `label_vectors` [K, C], the rows of the weight matrix."""
    dense = nn.Dense(
      self.num_classes,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name="fc",
    )
    logits = dense(embedding_BxC)
    return {"logits": logits, "label_vectors": dense.variables["params"]["kernel"].T}


class GraphConvolution(nn.Module):
  """One propagation step Â H W of Eq. 1, before the activation.

  Source:
    Wang et al., IEEE SPL 2020, Eq. 1; Kipf and Welling, ICLR 2017.
  """

  features: int

  @nn.compact
  def __call__(self, nodes_KxE: Array, propagation_KxK: Array | SparseProduct) -> Array:
    """Return the next nodes, [K, features]."""
    bound = self.features**-0.5
    weight = self.param(
      "weight",
      lambda key, shape, dtype: nn.initializers.uniform(2 * bound)(key, shape, dtype) - bound,
      (nodes_KxE.shape[-1], self.features),
      nodes_KxE.dtype,
    )
    if self.is_mutable_collection("intermediates") and not self.is_initializing():
      self.sow("intermediates", "messages", nodes_KxE @ weight)  # for `serving.explain`
    if isinstance(propagation_KxK, SparseProduct) and nodes_KxE.shape[-1] < self.features:
      # The product is the same. Propagation is faster where the nodes have fewer channels.
      return _product(propagation_KxK @ nodes_KxE, weight)
    return _product(propagation_KxK, _product(nodes_KxE, weight))


def _product(one: Array | SparseProduct, other: Array) -> Array:
  """Return a product in full precision: GPUs and TPUs round the factors of dense ones."""
  if isinstance(one, SparseProduct):
    return one @ other
  return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)


class GraphHead(nn.Module):
  """A head whose label vectors come from a graph; logits are their products with the embedding.

  The graph is constant. Propagation is always in float32 or wider, whatever the type of the
  encoder: it costs little, and its rounding errors would affect all clips alike.

  Source:
    Wang et al., IEEE SPL 2020, Eq. 1 and Eq. 3, Algorithm 1.
  """

  propagation: ArrayLike | scipy.sparse.csr_array  # float[K, K], Â of Eq. 1
  label_embeddings: ArrayLike  # float[K, E], H^(0)
  layers: int = 2
  hidden: int = 256
  activation: str = "leaky_relu"
  negative_slope: float = 0.2
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, embedding_BxC: Array) -> dict[str, Array]:
    """Return `logits` [B, K] and `label_vectors` H^(L) [K, C] for an embedding [B, C]."""
    nodes = constant(self, "label_vectors", lambda: self._label_vectors(embedding_BxC.shape[-1]))
    return {"logits": embedding_BxC @ nodes.T.astype(embedding_BxC.dtype), "label_vectors": nodes}

  def _label_vectors(self, size: int) -> Array:
    """Return the label vectors H^(L), [K, size]."""
    node_dtype = parameter_dtype(self.dtype)
    propagation: Array | SparseProduct
    if scipy.sparse.issparse(self.propagation):
      propagation = sparse_product(self.propagation)
    else:
      propagation = jnp.asarray(self.propagation, node_dtype)
    nodes = jnp.asarray(self.label_embeddings, node_dtype)
    for layer in range(1, self.layers + 1):
      last = layer == self.layers
      features = size if last else self.hidden
      nodes = GraphConvolution(features, name=f"gc{layer}")(nodes, propagation)
      if not last:
        nodes = activation(self.activation, self.negative_slope, node_dtype)(nodes)
    return nodes
