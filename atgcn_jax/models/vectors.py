"""An encoder for vectors in time, such as the ten VGGish embeddings of an AudioSet clip."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  groups_of,
  maximum,
  parameter_dtype,
  scaled_channels,
)
from atgcn_jax.models.normalisation import BatchNorm

MAX_MEAN, FEATURE_ATTENTION = "max_mean", "feature_attention"
FEATURE_POOLINGS = (MAX_MEAN, FEATURE_ATTENTION)


class VectorEncoder(nn.Module):
  """Dense layers on each frame, pooling over time, and dense layers on the clip.

  A layer is Dense, batch norm, ReLU and dropout. The dropout of the last layer is the
  `embedding_dropout` of the system.

  Attributes:
    frame_units: Units of each layer on the frames, before `width`.
    clip_units: Units of each layer on the clip, before `width`.
    pooling: `max_mean`, the maximum and the mean over time, concatenated; `feature_attention`, a
      weighted mean of each feature with its own softmax over time; or empty for a vector per frame.
    width: Multiplier of all units.
    block_dropout: Dropout rate after each layer.
    pooled_dropout: Dropout rate after the pooling.
    batch_norm: `global` or `local` (separate batch statistics on each device).
    dtype: Compute type.

  Source:
    Kong et al., Weakly labelled AudioSet tagging with attention neural networks, TASLP 2019
    (feature-level attention; layers on frames with decision-level attention).
  """

  frame_units: tuple[int, ...]
  clip_units: tuple[int, ...]
  pooling: str = MAX_MEAN
  width: float = 1.0
  block_dropout: float = 0.2
  pooled_dropout: float = 0.5
  batch_norm: str = "global"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    log_mel_BxTxF: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> dict[str, Array]:
    """Return `embedding` [B, C] and, without pooling, `frames` [B, T, C].

    Args:
      log_mel_BxTxF: Normalised vectors, float[B, T, F].
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      after_norm: Transform of the vectors after the first batch norm. It may shrink the batch.
      placement: Placement of the batch. By default it is on all devices.
    """
    groups = groups_of(self.batch_norm, placement)
    x = BatchNorm(log_mel_BxTxF.shape[-1], self.dtype, groups, name="bn0")(
      log_mel_BxTxF, train=train
    )
    if after_norm is not None:
      x = after_norm(x)
    layers = len(self.frame_units) + len(self.clip_units)

    def layer(x: Array, units: int, name: str, number: int) -> Array:
      x = nn.relu(self._dense_norm(x, scaled_channels(units, self.width), name, train, groups))
      return Dropout(self.block_dropout if number < layers else 0.0)(x, train=train)

    for i, units in enumerate(self.frame_units, 1):
      x = layer(x, units, f"frame{i}", i)
    if not self.pooling:
      return {"frames": x, "embedding": x.mean(axis=1)}
    x = Dropout(self.pooled_dropout)(self._pooled(x), train=train)
    for i, units in enumerate(self.clip_units, 1):
      x = layer(x, units, f"clip{i}", len(self.frame_units) + i)
    return {"embedding": x}

  def _pooled(self, x_BxTxC: Array) -> Array:
    """Return the pooled vectors, [B, 2C] for `max_mean` and [B, C] for `feature_attention`."""
    if self.pooling == MAX_MEAN:
      return jnp.concatenate([maximum(x_BxTxC), x_BxTxC.mean(axis=1)], axis=-1)
    attention = self._dense(x_BxTxC.shape[-1], x_BxTxC.dtype, "attention")(x_BxTxC)
    return (jax.nn.softmax(attention, axis=1) * x_BxTxC).sum(axis=1)

  def _dense_norm(self, x: Array, units: int, name: str, train: bool, groups: int) -> Array:
    """Apply a dense layer and its batch norm."""
    x = self._dense(units, self.dtype, name)(x)
    return BatchNorm(units, self.dtype, groups, name=f"{name}_bn")(x, train=train)

  def _dense(self, units: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    return nn.Dense(
      units,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=dtype,
      param_dtype=parameter_dtype(self.dtype),
      name=name,
    )
