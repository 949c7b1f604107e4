"""CNN10: four blocks of two 3x3 convolutions, pooled over frequency and time to a vector."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from atgcn_jax.models import folding
from atgcn_jax.models.layers import ONE_CPU, Array, Placement, SpectrogramTransform, parameter_dtype
from atgcn_jax.models.normalisation import STATISTICS, BatchNorm

CHANNELS = (64, 128, 256, 512)
CONVOLUTION = "convolution"
# What the backward pass keeps of a block besides its input. It computes anew what lies between
# convolutions, which costs little; kept, that would be most of the memory of a training step.
_keep = jax.checkpoint_policies.save_only_these_names


class Convolution(nn.Module):
  """A 3x3 convolution without bias, with zeros around each clip."""

  channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: Array, parts: int | None = None) -> Array:
    """Returns [B, T, F, channels].

    Args:
      x: [B, T, F, C].
      parts: where given, the form for TPUs, on clips folded into as many parts.
    """
    shape = (3, 3, x.shape[-1], self.channels)
    init = nn.initializers.xavier_uniform()
    kernel = self.param("kernel", init, shape, parameter_dtype(self.dtype))
    x = x.astype(self.dtype)
    return folding.convolve_parts(x, kernel, parts) if parts else folding.convolve(x, kernel)


class ConvBlock(nn.Module):
  """Twice (3x3 convolution, batch norm, ReLU), then 2x2 average pooling."""

  channels: int
  dtype: jnp.dtype
  groups: int = 1  # of clips that have batch statistics of their own
  parts: int | None = None  # see Convolution

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Returns [B, T // 2, F // 2, channels]."""
    first = _layer
    if x_BxTxFxC.shape[-1] == 1:
      # The convolution of one channel costs little too: its result is not kept, nor is it held
      # while the second one's gradients are computed.
      first = nn.remat(_layer, policy=_keep(STATISTICS), static_argnums=(2, 3, 4))
    x = first(self, x_BxTxFxC, 1, train, nn.relu)
    return _layer(self, x, 2, train, _relu_and_pool)


def _layer(
  block: ConvBlock, x: Array, i: int, train: bool, behind: Callable[[Array], Array]
) -> Array:
  """The i-th convolution of a block, its batch norm, and what is behind that."""
  y = Convolution(block.channels, block.dtype, name=f"conv{i}")(x, block.parts)
  if x.shape[-1] > 1:
    y = checkpoint_name(y, CONVOLUTION)
  return BatchNorm(block.dtype, block.groups, behind, name=f"bn{i}")(y, train=train)


def _relu_and_pool(x: Array) -> Array:
  return nn.avg_pool(nn.relu(x), (2, 2), strides=(2, 2))


class Cnn10(nn.Module):
  """The acoustic encoder x = f_fc(f_gp(f_cnn(M))) of Eq. 2.

  Source: Kong et al., PANNs, 2020 (CNN10); Wang et al., IEEE SPL 2020, Eq. 2.
  """

  width: float = 1.0
  block_dropout: float = 0.2
  pooled_dropout: float = 0.5
  batch_norm: str = "global"  # or local: each device's clips have statistics of their own
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    log_mel: Array,
    *,
    train: bool,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement = ONE_CPU,
  ) -> dict[str, Array]:
    """Returns `embedding` [B, C] with C = 512 * width.

    Args:
      log_mel: float[B, T, F] normalised log-mels; T and F at least 16.
      train: batch statistics and dropout (needs an rng `dropout`) where true.
      after_norm: applied to the spectrogram behind the first batch norm; may shrink the batch.
      placement: of the batch, in training.
    """
    groups = placement.devices if self.batch_norm == "local" else 1
    x = BatchNorm(self.dtype, groups, name="bn0")(log_mel, train=train)
    if after_norm is not None:
      x = after_norm(x)
    x = x[..., None]
    block = nn.remat(ConvBlock, policy=_keep(CONVOLUTION, STATISTICS), static_argnums=2)
    for i, channels in enumerate(CHANNELS, 1):
      parts = None
      if placement.platform == "tpu":
        parts = folding.parts_to_fill(len(x) // placement.devices, x.shape[1]) if i == 1 else 1
      channels = scaled(channels, self.width)
      one = (block if train else ConvBlock)(
        channels, self.dtype, groups, parts, name=f"conv_block{i}"
      )
      x = folding.unfold(one(folding.fold(x, parts or 1), train), parts or 1)
      x = nn.Dropout(self.block_dropout, deterministic=not train)(x)
    # From here on nothing is large, so it is computed in float32 whatever the type.
    x_BxTxC = x.mean(axis=2, dtype=parameter_dtype(self.dtype))
    x = x_BxTxC.max(axis=1) + x_BxTxC.mean(axis=1)
    x = nn.Dropout(self.pooled_dropout, deterministic=not train)(x)
    x = nn.Dense(
      scaled(512, self.width),
      kernel_init=nn.initializers.xavier_uniform(),
      param_dtype=parameter_dtype(self.dtype),
      name="fc1",
    )(x)
    return {"embedding": nn.relu(x).astype(self.dtype)}


def scaled(channels: int, width: float) -> int:
  """The number of channels at this width multiplier, at least one."""
  return max(1, round(channels * width))
