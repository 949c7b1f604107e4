"""CNN10 and CNN14: four or six blocks of two 3x3 convolutions, pooled over frequency and time."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.convolution import Convolution
from atgcn_jax.models.fast import block_forms
from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  groups_of,
  maximum,
  parameter_dtype,
  placement_here,
  scaled_channels,
)
from atgcn_jax.models.normalisation import BatchNorm

CHANNELS = (64, 128, 256, 512)
CNN14_CHANNELS = (*CHANNELS, 1024, 2048)
POOLED_BLOCKS = 5  # CNN14 pools after each block but the sixth


class ConvBlock(nn.Module):
  """Twice (3x3 convolution, batch norm, ReLU), then 2x2 average pooling if `pooled`.

  `plain_block` is its definition. The forms in `models/fast/` compute the same in less time or
  memory.
  """

  channels: int
  dtype: jnp.dtype
  placement: Placement
  groups: int = 1  # groups of clips with separate batch statistics
  pooled: bool = True

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, T // 2, F // 2, channels], or [B, T, F, channels] without pooling."""
    form = block_forms.fast_form(self, x_BxTxFxC, train) or plain_block
    return form(self, x_BxTxFxC, train)


def plain_block(block: ConvBlock, x: Array, train: bool) -> Array:
  """Apply a block layer by layer."""
  for i in (1, 2):
    x = Convolution(x.shape[-1], block.channels, block.dtype, name=f"conv{i}")(x)
    norm = BatchNorm(block.channels, block.dtype, block.groups, name=f"bn{i}")
    x = nn.relu(norm(x, train=train))
  return nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2)) if block.pooled else x


class Cnn10(nn.Module):
  """The acoustic encoder x = f_fc(f_gp(f_cnn(M))) of Eq. 2; CNN14 with CNN14_CHANNELS.

  Source:
    Kong et al., PANNs, 2020 (CNN10 and CNN14); Wang et al., IEEE SPL 2020, Eq. 2.
  """

  width: float = 1.0
  channels: tuple[int, ...] = CHANNELS  # of each block; the last is also the embedding's size
  block_dropout: float = 0.2
  pooled_dropout: float = 0.5
  batch_norm: str = "global"  # or "local": separate batch statistics on each device
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
    """Return `embedding` [B, C], C = 512 * width for CNN10 and 2048 * width for CNN14.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F]; T and F at least 16 (CNN14: 32).
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      after_norm: Transform of the spectrogram after the first batch norm. It may shrink the batch.
      placement: Placement of the batch. By default it is on all devices.
    """
    placement = placement or placement_here()
    groups = groups_of(self.batch_norm, placement)
    x = BatchNorm(log_mel_BxTxF.shape[-1], self.dtype, groups, name="bn0")(
      log_mel_BxTxF, train=train
    )
    if after_norm is not None:
      x = after_norm(x)
    x = x[..., None]
    for i, channels in enumerate(self.channels, 1):
      channels, pooled = scaled_channels(channels, self.width), i <= POOLED_BLOCKS
      block = ConvBlock(channels, self.dtype, placement, groups, pooled, name=f"conv_block{i}")
      x = Dropout(self.block_dropout)(block(x, train), train=train)
    # The arrays are small from here on, so they are always computed in float32 or wider.
    x_BxTxC = x.mean(axis=2, dtype=parameter_dtype(self.dtype))
    x = maximum(x_BxTxC) + x_BxTxC.mean(axis=1)
    x = Dropout(self.pooled_dropout)(x, train=train)
    x = nn.Dense(
      scaled_channels(self.channels[-1], self.width),
      kernel_init=nn.initializers.xavier_uniform(),
      param_dtype=parameter_dtype(self.dtype),
      name="fc1",
    )(x)
    return {"embedding": nn.relu(x).astype(self.dtype)}
