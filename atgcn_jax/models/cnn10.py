"""CNN10: four blocks of two 3x3 convolutions, pooled over frequency and time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from atgcn_jax.models.fast import cpu_block, folded_convolution
from atgcn_jax.models.layers import (
  ONE_CPU,
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  constant,
  groups_of,
  parameter_dtype,
  placement_here,
  scaled_channels,
)
from atgcn_jax.models.normalisation import STATISTICS, BatchNorm

CHANNELS = (64, 128, 256, 512)
CONVOLUTION = "convolution"
# The policy for the values of a block that are saved for the backward pass besides its input. The
# backward pass recomputes everything between convolutions at little cost. Saved, these values
# would take most of the memory of a training step.
_keep = jax.checkpoint_policies.save_only_these_names


class Convolution(nn.Module):
  """A 3x3 convolution without bias, with zero padding around each clip."""

  inputs: int
  channels: int
  dtype: jnp.dtype

  def setup(self):
    """Create the kernel."""
    shape, init = (3, 3, self.inputs, self.channels), nn.initializers.xavier_uniform()
    self.kernel = self.param("kernel", init, shape, parameter_dtype(self.dtype))

  def __call__(self, x: Array, parts: int | None = None) -> Array:
    """Return the convolution, [B, T, F, channels].

    Args:
      x: [B, T, F, inputs].
      parts: The number of parts into which clips are folded, for the form for TPUs. None for the
        default form.
    """
    x = x.astype(self.dtype)
    if parts:
      return folded_convolution.convolve_parts(x, self.kernel, parts)
    return folded_convolution.folded_convolve(x, self.kernel)


class ConvBlock(nn.Module):
  """Twice (3x3 convolution, batch norm, ReLU), then 2x2 average pooling."""

  channels: int
  dtype: jnp.dtype
  placement: Placement
  groups: int = 1  # groups of clips with separate batch statistics

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, T // 2, F // 2, channels]."""
    x = x_BxTxFxC
    one_group = self.placement == ONE_CPU and self.dtype == parameter_dtype(self.dtype)
    if one_group and cpu_block.suits(x.shape[-1], self.channels):
      return _on_cpu(self, x, train)
    if not train:
      return _layers(self, x, train, None)
    keep = _keep(CONVOLUTION, STATISTICS)
    layers = nn.remat(_layers, policy=keep, static_argnums=(2, 3))
    if self.placement.platform != "tpu":
      return layers(self, x, train, None)
    parts = 1
    if x.shape[-1] == 1:
      parts = folded_convolution.parts_to_fill(len(x) // self.placement.devices, x.shape[1])
    return folded_convolution.unfold(
      layers(self, folded_convolution.fold(x, parts), train, parts), parts
    )


def _on_cpu(block: ConvBlock, x: Array, train: bool) -> Array:
  """Apply a block in the form for one CPU."""
  sizes = (x.shape[-1], block.channels), (block.channels, block.channels)
  convs = [Convolution(*size, block.dtype, name=f"conv{i}") for i, size in enumerate(sizes, 1)]
  norms = [BatchNorm(block.channels, block.dtype, name=f"bn{i}") for i in (1, 2)]
  layers = [cpu_block.Layer(conv.kernel, norm.scale, norm.bias) for conv, norm in zip(convs, norms)]
  x = x.astype(block.dtype)
  if train:
    y, statistics = cpu_block.block(x, *layers)
    for norm, of_batch in zip(norms, statistics):
      norm.follow(*of_batch)
    return y
  running = [
    cpu_block.Statistics(norm.running_mean.value, norm.running_variance.value) for norm in norms
  ]
  folded = constant(block, "folded", lambda: [*map(cpu_block.folded, layers, running)])
  return cpu_block.infer(x, *folded)


def _layers(block: ConvBlock, x: Array, train: bool, parts: int | None) -> Array:
  """Apply both layers of a block."""
  first = _layer
  if x.shape[-1] == 1:
    # The convolution of one channel costs little. Its result is not saved, and not held in memory
    # while the gradients of the second layer are computed.
    first = nn.remat(_layer, policy=_keep(STATISTICS), static_argnums=(2, 3, 4, 5))
  x = first(block, x, 1, train, parts, nn.relu)
  return _layer(block, x, 2, train, parts, _relu_and_pool)


def _layer(
  block: ConvBlock,
  x: Array,
  i: int,
  train: bool,
  parts: int | None,
  after: Callable[[Array], Array],
) -> Array:
  """Apply the i-th convolution of a block, its batch norm, and the function `after` them."""
  y = Convolution(x.shape[-1], block.channels, block.dtype, name=f"conv{i}")(x, parts)
  if x.shape[-1] > 1:
    y = checkpoint_name(y, CONVOLUTION)
  norm = BatchNorm(block.channels, block.dtype, block.groups, after, name=f"bn{i}")
  return norm(y, train=train)


def _relu_and_pool(x: Array) -> Array:
  return nn.avg_pool(nn.relu(x), window_shape=(2, 2), strides=(2, 2))


class Cnn10(nn.Module):
  """The acoustic encoder x = f_fc(f_gp(f_cnn(M))) of Eq. 2.

  Source:
    Kong et al., PANNs, 2020 (CNN10); Wang et al., IEEE SPL 2020, Eq. 2.
  """

  width: float = 1.0
  block_dropout: float = 0.2
  pooled_dropout: float = 0.5
  batch_norm: str = "global"  # or "local": separate batch statistics on each device
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
    """Return `embedding` [B, C] with C = 512 * width.

    Args:
      log_mel: Normalised log-mels, float[B, T, F]; T and F at least 16.
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      after_norm: Transform of the spectrogram after the first batch norm. It may shrink the batch.
      placement: Placement of the batch. By default it is on all devices.
    """
    placement = placement or placement_here()
    groups = groups_of(self.batch_norm, placement)
    x = BatchNorm(log_mel.shape[-1], self.dtype, groups, name="bn0")(log_mel, train=train)
    if after_norm is not None:
      x = after_norm(x)
    x = x[..., None]
    for i, channels in enumerate(CHANNELS, 1):
      channels = scaled_channels(channels, self.width)
      block = ConvBlock(channels, self.dtype, placement, groups, name=f"conv_block{i}")
      x = Dropout(self.block_dropout)(block(x, train), train=train)
    # The arrays are small from here on, so they are always computed in float32 or wider.
    x_BxTxC = x.mean(axis=2, dtype=parameter_dtype(self.dtype))
    x = x_BxTxC.max(axis=1) + x_BxTxC.mean(axis=1)
    x = Dropout(self.pooled_dropout)(x, train=train)
    x = nn.Dense(
      scaled_channels(512, self.width),
      kernel_init=nn.initializers.xavier_uniform(),
      param_dtype=parameter_dtype(self.dtype),
      name="fc1",
    )(x)
    return {"embedding": nn.relu(x).astype(self.dtype)}
