"""Flax linen modules of the systems, and `build`, which makes one from a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from atgcn_jax.models.cnn10 import Cnn10, scaled
from atgcn_jax.models.heads import GraphHead, LinearHead
from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  parameter_dtype,
)

DTYPES = ("float32", "bfloat16", "float64")
BATCH_NORMS = ("global", "local")


class AudioTagger(nn.Module):
  """An acoustic encoder under a head that scores every label."""

  encoder: nn.Module
  head: nn.Module
  embedding_dropout: float = 0.5

  @nn.compact
  def __call__(
    self,
    log_mel: Array,
    train: bool = False,
    return_features: bool = False,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> Any:
    """Returns logits float32[B, K], or with `return_features` a dict that holds them and more.

    Args:
      log_mel: float[B, T, F] normalised log-mels.
      train: batch statistics and dropout (needs an rng `dropout`) where true.
      return_features: also give `embedding` [B, C] and `label_vectors` [K, C].
      after_norm: training's transform of the spectrogram behind the first batch norm.
      placement: of the batch; by default it lies on all devices.
    """
    features = self.encoder(log_mel, train=train, after_norm=after_norm, placement=placement)
    embedding = features["embedding"]
    embedding = Dropout(self.embedding_dropout)(embedding, train=train)
    scored = self.head(at_least_float32(embedding))
    features = {name: at_least_float32(x) for name, x in {**features, **scored}.items()}
    return features if return_features else features["logits"]


def at_least_float32(x: Array) -> Array:
  """Narrower floats widened, so that heads, losses and scores are computed in float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def with_constants(
  model: nn.Module, log_mel_shape: tuple[int, int], placement: Placement | None = None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
  """What adds to variables, in the collection `constants`, all that is known before a clip comes.

  That is label vectors made by a graph, and convolutions with their batch norms folded into them.
  They hold for these parameters: do not train with them.

  Args:
    log_mel_shape: frames and bands of a clip.
    placement: as for the module.
  """

  @jax.jit
  def constants(variables):
    silence = jnp.zeros((1, *log_mel_shape))
    return model.apply(variables, silence, train=False, placement=placement, mutable=["constants"])[
      1
    ]

  return lambda variables: {**variables, **constants(variables)}


def build(
  config: Any,
  *,
  num_classes: int,
  propagation: Any = None,
  label_embeddings: np.ndarray | None = None,
) -> nn.Module:
  """The module of a config's `model` section.

  `module.apply(variables, log_mel, train=False)` returns logits [B, K], and with
  `return_features=True` a dict with `logits`, `embedding` [B, C] and `label_vectors` [K, C].

  Args:
    config: `encoder` (`cnn10`), `head` (`linear` or `graph`), `width` multiplier, `dropout`
      (`block`, `pooled`, `embedding`), `batch_norm` (`global`, also where it is left out, or
      `local`), `dtype`; for the graph head also `layers`, `hidden`, `activation`,
      `negative_slope`.
    num_classes: labels K.
    propagation: float[K, K], an array or of scipy's csr_array, needed by the graph head.
    label_embeddings: float[K, E], needed by the graph head.
  Raises:
    ValueError: for an unknown name, or a graph or vectors that are missing or of another size.
  """
  if config.dtype not in DTYPES:
    raise ValueError(f"model.dtype {config.dtype!r}: one of {', '.join(DTYPES)}")
  dtype = jnp.dtype(config.dtype)
  if config.encoder != "cnn10":
    raise ValueError(f"model.encoder {config.encoder!r}: only cnn10 is known")
  batch_norm = getattr(config, "batch_norm", "global")
  if batch_norm not in BATCH_NORMS:
    raise ValueError(f"model.batch_norm {batch_norm!r}: one of {', '.join(BATCH_NORMS)}")
  encoder = Cnn10(
    width=config.width,
    block_dropout=config.dropout.block,
    pooled_dropout=config.dropout.pooled,
    batch_norm=batch_norm,
    dtype=dtype,
  )
  head: nn.Module
  if config.head == "linear":
    head = LinearHead(num_classes, dtype=parameter_dtype(dtype))
  elif config.head == "graph":
    propagation, label_embeddings = _graph(num_classes, propagation, label_embeddings)
    if config.layers < 1:
      raise ValueError(f"model.layers {config.layers}: at least 1")
    head = GraphHead(
      propagation=propagation,
      label_embeddings=label_embeddings,
      layers=config.layers,
      hidden=scaled(config.hidden, config.width),
      activation=config.activation,
      negative_slope=config.negative_slope,
      dtype=dtype,
    )
  else:
    raise ValueError(f"model.head {config.head!r}: one of linear, graph")
  return AudioTagger(encoder, head, embedding_dropout=config.dropout.embedding)


def _graph(num_classes: int, propagation, label_embeddings) -> tuple[Any, np.ndarray]:
  """Both arrays, once they are there and fit."""
  if propagation is None or label_embeddings is None:
    raise ValueError("model.head 'graph' needs a propagation matrix and label embeddings")
  if np.shape(propagation) != (num_classes, num_classes):
    raise ValueError(f"propagation is {np.shape(propagation)} for {num_classes} labels")
  if np.ndim(label_embeddings) != 2 or len(label_embeddings) != num_classes:
    raise ValueError(f"label embeddings are {np.shape(label_embeddings)} for {num_classes} labels")
  return propagation, label_embeddings
