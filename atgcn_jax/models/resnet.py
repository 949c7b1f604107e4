"""Residual networks with 34 and 50 layers for spectrograms."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, parameter_dtype, scaled_channels
from atgcn_jax.models.normalisation import BatchNorm, unchanged

BLOCKS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # residual blocks of each stage, by depth
CHANNELS, STRIDES = (64, 128, 256, 512), (1, 2, 2, 2)
BOTTLENECK = 4  # ratio of output to inner channels in a block of ResNet-50
STRIDE = 16  # total stride over frames and over bands


class ConvNorm(nn.Module):
  """A convolution without bias, batch norm and, if `relu` is set, ReLU."""

  channels: int
  size: int
  stride: int = 1
  relu: bool = True
  groups: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, ceil(T / stride), ceil(F / stride), channels]."""
    edge = self.size // 2
    x = nn.Conv(
      self.channels,
      (self.size, self.size),
      strides=self.stride,
      padding=((edge, edge), (edge, edge)),
      use_bias=False,
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      param_dtype=parameter_dtype(self.dtype),
      name="conv",
    )(x_BxTxFxC)
    after = nn.relu if self.relu else unchanged
    return BatchNorm(self.channels, self.dtype, self.groups, after, name="bn")(x, train=train)


class ResNet(nn.Module):
  """A residual network whose first convolution has stride 1.

  Source:
    He et al., Deep residual learning for image recognition, CVPR 2016; the first stride as in
    Hershey et al., ICASSP 2017.
  """

  depth: int  # one of BLOCKS
  width: float = 1.0
  groups: int = 1  # groups of clips with separate batch statistics
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxTxF: Array, train: bool) -> Array:
    """Return [B, ceil(T / 16), ceil(F / 16), C], C = 512 * width, four times that for depth 50."""
    shared: dict[str, Any] = {"groups": self.groups, "dtype": self.dtype}
    x = x_BxTxF[..., None].astype(self.dtype)
    x = ConvNorm(scaled_channels(CHANNELS[0], self.width), 7, **shared, name="stem")(x, train)
    # After a ReLU, padding with zeros does not change a maximum. The padding is explicit because
    # the ONNX converter ignores the padding of a pooling.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
    for stage, (channels, stride, blocks) in enumerate(zip(CHANNELS, STRIDES, BLOCKS[self.depth])):
      channels = scaled_channels(channels, self.width)
      layers = [(channels, 3), (channels, 3)]
      if self.depth == 50:
        layers = [(channels, 1), (channels, 3), (BOTTLENECK * channels, 1)]
      for block in range(blocks):
        name = f"stage{stage + 1}_block{block + 1}"
        x = Residual(tuple(layers), 1 if block else stride, **shared, name=name)(x, train)
    return x


class Residual(nn.Module):
  """Convolutions whose result is added to their input, then ReLU."""

  layers: tuple[tuple[int, int], ...]  # channels and kernel size of each convolution
  stride: int  # stride of the first convolution of size 3
  groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, ceil(T / stride), ceil(F / stride), channels of the last layer]."""
    shared: dict[str, Any] = {"groups": self.groups, "dtype": self.dtype}
    strided = [size for _, size in self.layers].index(3)
    x = y = x_BxTxFxC
    for i, (channels, size) in enumerate(self.layers):
      stride, last = self.stride if i == strided else 1, i == len(self.layers) - 1
      y = ConvNorm(channels, size, stride, not last, **shared, name=f"layer{i + 1}")(y, train)
    if x.shape != y.shape:
      x = ConvNorm(y.shape[-1], 1, self.stride, False, **shared, name="shortcut")(x, train)
    return nn.relu(x + y)
