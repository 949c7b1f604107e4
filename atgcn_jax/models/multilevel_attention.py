"""Multi-level attention: label scores from two layers of a small network are combined."""

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
CHANNELS = (32, 64, 128, 128)  # channels of the convolutions on log-mels
SMALLEST = 1e-7  # lower limit of an attention weight


class MultiLevelAttention(nn.Module):
  """The encoder. Its `embedding` is the scores of two levels, [B, 2K].

  With a linear head and a batch norm of the logits it is the published system, whose input is ten
  embeddings of size 128 per clip. On log-mels, a trained front end turns each of ten patches into a
  vector of size 128. This front end is not from the paper: four times (3x3 convolution, batch norm,
  ReLU, 2x2 max pooling), then the mean over the patch.

  Source:
    Yu et al., Multi-level attention model for weakly supervised audio classification, DCASE 2018.
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
    log_mel_BxTxF: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> dict[str, Array]:
    """Return `embedding` [B, 2K], with values in (0, 1).

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F], T at least 160 and F at least 16; or
        embeddings [B, 10, 128].
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      after_norm: Transform of the input: of log-mels directly, of embeddings after the first batch
        norm.
      placement: Placement of the batch. By default it is on all devices.
    """
    groups = groups_of(self.batch_norm, placement)
    x = log_mel_BxTxF
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

  def _of_patches(self, log_mel_BxTxF: Array, train: bool, groups: int) -> Array:
    """Return the vectors [B, 10, 128 * width] of the patches of log-mels [B, T, F]."""
    x = patches(log_mel_BxTxF)
    y = x.reshape(-1, *x.shape[2:], 1)
    for i, channels in enumerate(CHANNELS, 1):
      channels = scaled_channels(channels, self.width)
      conv = ConvNorm(channels, 3, groups=groups, dtype=self.dtype, name=f"conv{i}")
      y = nn.max_pool(conv(y, train), window_shape=(2, 2), strides=(2, 2))
    return y.mean(axis=(1, 2)).reshape(*x.shape[:2], -1)

  def _scored(self, x: Array, name: str, train: bool, groups: int) -> Array:
    """Return the scores [B, K] of a level [B, T, C]: attention-weighted sigmoids of segments."""
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
    """Apply a dense layer and its batch norm."""
    x = nn.Dense(
      units,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=x.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name=name,
    )(x)
    return BatchNorm(units, x.dtype, groups, name=f"{name}_bn")(x, train=train)
