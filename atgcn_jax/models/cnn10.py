"""CNN10: four blocks of two 3x3 convolutions, pooled over frequency and time to a vector."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, SpectrogramTransform, batch_norm, parameter_dtype

CHANNELS = (64, 128, 256, 512)


class ConvBlock(nn.Module):
  """Twice (3x3 convolution, batch norm, ReLU), then 2x2 average pooling."""

  channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, *, train: bool) -> Array:
    """Returns [B, T // 2, F // 2, channels]."""
    x = x_BxTxFxC
    for i in (1, 2):
      x = nn.Conv(
        self.channels,
        (3, 3),
        use_bias=False,
        kernel_init=nn.initializers.xavier_uniform(),
        dtype=self.dtype,
        param_dtype=parameter_dtype(self.dtype),
        name=f"conv{i}",
      )(x)
      x = nn.relu(batch_norm(f"bn{i}", self.dtype, train=train)(x))
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class Cnn10(nn.Module):
  """The acoustic encoder x = f_fc(f_gp(f_cnn(M))) of Eq. 2.

  Source: Kong et al., PANNs, 2020 (CNN10); Wang et al., IEEE SPL 2020, Eq. 2.
  """

  width: float = 1.0
  block_dropout: float = 0.2
  pooled_dropout: float = 0.5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, log_mel: Array, *, train: bool, after_norm: SpectrogramTransform | None = None
  ) -> dict[str, Array]:
    """Returns `embedding` [B, C] with C = 512 * width.

    Args:
      log_mel: float[B, T, F] normalised log-mels; T and F at least 16.
      train: batch statistics and dropout (needs an rng `dropout`) where true.
      after_norm: applied to the spectrogram behind the first batch norm; may shrink the batch.
    """
    x = batch_norm("bn0", self.dtype, train=train)(log_mel)
    if after_norm is not None:
      x = after_norm(x)
    x = x[..., None]
    for i, channels in enumerate(CHANNELS, 1):
      x = ConvBlock(scaled(channels, self.width), self.dtype, name=f"conv_block{i}")(x, train=train)
      x = nn.Dropout(self.block_dropout, deterministic=not train)(x)
    x_BxTxC = x.mean(axis=2)
    x = x_BxTxC.max(axis=1) + x_BxTxC.mean(axis=1)
    x = nn.Dropout(self.pooled_dropout, deterministic=not train)(x)
    x = nn.Dense(
      scaled(512, self.width),
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name="fc1",
    )(x)
    return {"embedding": nn.relu(x)}


def scaled(channels: int, width: float) -> int:
  """The number of channels at this width multiplier, at least one."""
  return max(1, round(channels * width))
