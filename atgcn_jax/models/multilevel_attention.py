"""Multi-level attention: two layers of a small network score the labels each, then together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.google_cnn import patches
from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  groups_of,
  parameter_dtype,
  scaled_channels,
)
from atgcn_jax.models.normalisation import BatchNorm
from atgcn_jax.models.resnet import ConvNorm

UNITS, LEVELS, SCORED = 600, 3, (2, 3)
CHANNELS = (32, 64, 128, 128)  # of the front end on log-mels
SMALLEST = 1e-7  # of an attention


class MultiLevelAttention(nn.Module):
  """The encoder; what it gives as `embedding` are the scores of two levels, [B, 2K].

  A linear head and a batch norm of the logits behind it make it the published system, whose input
  is ten embeddings of 128 numbers a clip. On log-mels, each of ten patches becomes 128 numbers in
  a front end that is learned with the rest and whose form is ours: four times (3x3 convolution,
  batch norm, ReLU, 2x2 max-pooling), and the mean over the patch.

  Source: Yu et al., Multi-level attention model for weakly supervised audio classification, DCASE
    2018.
  """

  num_classes: int
  on_embeddings: bool
  width: float = 1.0
  block_dropout: float = 0.4  # after each level
  batch_norm: str = "global"
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    log_mel: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> dict[str, Array]:
    """Returns `embedding` [B, 2K], values in (0, 1).

    Args:
      log_mel: float[B, T, F] normalised log-mels, T at least 160 and F at least 16; or [B, 10, 128]
        embeddings.
      train: batch statistics and dropout (needs an rng `dropout`) where true.
      after_norm: applied behind the first batch norm to embeddings, to log-mels at once.
      placement: of the batch; by default it lies on all devices.
    """
    groups = groups_of(self.batch_norm, placement)
    x = log_mel
    if not self.on_embeddings:
      x = self._of_patches(x if after_norm is None else after_norm(x), train, groups)
    x = BatchNorm(x.shape[-1], self.dtype, groups, name="bn0")(x, train=train)
    if self.on_embeddings and after_norm is not None:
      x = after_norm(x)
    scores = []
    for level in range(1, LEVELS + 1):
      x = self._dense_norm(x, scaled_channels(UNITS, self.width), f"level{level}", train, groups)
      x = Dropout(self.block_dropout)(nn.relu(x), train=train)
      if level in SCORED:
        scores.append(self._scored(x, f"level{level}", train, groups))
    return {"embedding": jnp.concatenate(scores, axis=-1)}

  def _of_patches(self, log_mel: Array, train: bool, groups: int) -> Array:
    """[B, 10, 128 * width] of log-mels [B, T, F]."""
    x = patches(log_mel)
    y = x.reshape(-1, *x.shape[2:], 1)
    for i, channels in enumerate(CHANNELS, 1):
      channels = scaled_channels(channels, self.width)
      conv = ConvNorm(channels, 3, groups=groups, dtype=self.dtype, name=f"conv{i}")
      y = nn.max_pool(conv(y, train), window_shape=(2, 2), strides=(2, 2))
    return y.mean(axis=(1, 2)).reshape(*x.shape[:2], -1)

  def _scored(self, x: Array, name: str, train: bool, groups: int) -> Array:
    """Scores [B, K] of a level [B, T, C]: a sigmoid of each segment, weighed by attention."""
    wide = x.astype(parameter_dtype(self.dtype))
    classes = jax.nn.sigmoid(
      self._dense_norm(wide, self.num_classes, f"{name}_classes", train, groups)
    )
    attention = jax.nn.softmax(
      self._dense_norm(wide, self.num_classes, f"{name}_attention", train, groups)
    )
    attention = jnp.clip(attention, SMALLEST, 1 - SMALLEST)
    return (attention * classes).sum(axis=1) / attention.sum(axis=1)

  def _dense_norm(self, x: Array, units: int, name: str, train: bool, groups: int) -> Array:
    x = nn.Dense(
      units,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=x.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name=name,
    )(x)
    return BatchNorm(units, x.dtype, groups, name=f"{name}_bn")(x, train=train)
