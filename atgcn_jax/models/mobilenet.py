"""MobileNetV3-Large for spectrograms, as EfficientAT trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from atgcn_jax.models.fast import cpu_mobilenet, shifted_convolution
from atgcn_jax.models.layers import (
  ONE_CPU,
  Array,
  Placement,
  SpectrogramTransform,
  constant,
  groups_of,
  parameter_dtype,
  placement_here,
)
from atgcn_jax.models.normalisation import STATISTICS, BatchNorm, unchanged

MOMENTUM, EPSILON = 0.99, 1e-3  # of all batch norms; PyTorch's momentum is 1 - 0.99
CONVOLUTION = "convolution"  # checkpoint name of the convolutions, saved during rematerialisation
HIDDEN = 1280  # units of the hidden layer at width 1
kernel_init = nn.initializers.he_normal()  # He et al., ICCV 2015


class Stage(NamedTuple):
  """An inverted residual at width 1."""

  size: int  # of the depthwise kernel
  expanded: int
  channels: int
  squeezed: bool  # whether channels are weighted by squeeze-and-excitation
  activation: Callable[[Array], Array]
  stride: int


STAGES = (
  Stage(3, 16, 16, False, nn.relu, 1),
  Stage(3, 64, 24, False, nn.relu, 2),
  Stage(3, 72, 24, False, nn.relu, 1),
  Stage(5, 72, 40, True, nn.relu, 2),
  Stage(5, 120, 40, True, nn.relu, 1),
  Stage(5, 120, 40, True, nn.relu, 1),
  Stage(3, 240, 80, False, nn.hard_swish, 2),
  Stage(3, 200, 80, False, nn.hard_swish, 1),
  Stage(3, 184, 80, False, nn.hard_swish, 1),
  Stage(3, 184, 80, False, nn.hard_swish, 1),
  Stage(3, 480, 112, True, nn.hard_swish, 1),
  Stage(3, 672, 112, True, nn.hard_swish, 1),
  Stage(5, 672, 160, True, nn.hard_swish, 2),
  Stage(5, 960, 160, True, nn.hard_swish, 1),
  Stage(5, 960, 160, True, nn.hard_swish, 1),
)


def in_eights(channels: float) -> int:
  """Return the nearest multiple of 8 that is at least 8 and at least 90 % of a number."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded


class KernelConvolution(nn.Module):
  """A convolution without bias, with zero padding around each clip."""

  channels: int
  size: int
  stride: int
  depthwise: bool
  on_one_cpu: bool
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BxTxFxC: Array) -> Array:
    """Return [B, ceil(T / stride), ceil(F / stride), channels]."""
    inputs, edge = x_BxTxFxC.shape[-1], self.size // 2
    shape = (self.size, self.size, 1 if self.depthwise else inputs, self.channels)
    kernel = self.param("kernel", kernel_init, shape, parameter_dtype(self.dtype))
    x, kernel = x_BxTxFxC.astype(self.dtype), kernel.astype(self.dtype)
    if self.on_one_cpu:
      return shifted_convolution.convolve(x, kernel, self.stride)
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (self.stride, self.stride),
      ((edge, edge), (edge, edge)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=inputs if self.depthwise else 1,
    )


class ConvNormActivation(nn.Module):
  """A convolution, batch norm, and an activation."""

  channels: int
  size: int = 1
  stride: int = 1
  depthwise: bool = False
  activation: Callable[[Array], Array] = unchanged
  groups: int = 1
  on_one_cpu: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, ceil(T / stride), ceil(F / stride), channels]."""
    shape = self.channels, self.size, self.stride, self.depthwise
    x = KernelConvolution(*shape, self.on_one_cpu, self.dtype, name="conv")(x_BxTxFxC)
    settings = self.groups, self.activation, MOMENTUM, EPSILON, self.on_one_cpu
    norm = BatchNorm(self.channels, self.dtype, *settings, name="bn")
    return norm(checkpoint_name(x, CONVOLUTION), train=train)


class SqueezeExcitation(nn.Module):
  """A weight in (0, 1) per channel, from the mean over frames and bands.

  Source:
    Hu et al., Squeeze-and-excitation networks, CVPR 2018.
  """

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxTxFxC: Array) -> Array:
    """Return x with weighted channels, [B, T, F, C]."""
    channels = x_BxTxFxC.shape[-1]
    mean_BxC = x_BxTxFxC.mean(axis=(1, 2), dtype=parameter_dtype(self.dtype))
    hidden = nn.relu(_dense(in_eights(channels // 4), self.dtype, "fc1")(mean_BxC))
    weights_BxC = nn.sigmoid(_dense(channels, self.dtype, "fc2")(hidden))
    return x_BxTxFxC * weights_BxC[:, None, None].astype(x_BxTxFxC.dtype)


class InvertedResidual(nn.Module):
  """A 1x1 expansion, a depthwise convolution, and a 1x1 projection, added to the input if it fits.

  Source:
    Sandler et al., MobileNetV2, CVPR 2018; Howard et al., Searching for MobileNetV3, ICCV 2019.
  """

  stage: Stage
  width: float
  groups: int = 1
  on_one_cpu: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BxTxFxC: Array, train: bool) -> Array:
    """Return [B, ceil(T / stride), ceil(F / stride), channels]."""
    # In training, only convolutions and statistics are saved for the backward pass. On one CPU,
    # time matters more than memory.
    keep = jax.checkpoint_policies.save_only_these_names(CONVOLUTION, STATISTICS)
    recomputed = nn.remat(_layers, policy=keep, static_argnums=(2,))
    layers = recomputed if train and not self.on_one_cpu else _layers
    return layers(self, x_BxTxFxC, train)


def _layers(block: InvertedResidual, x: Array, train: bool) -> Array:
  """Apply the layers of a block."""
  stage = block.stage
  shared: dict[str, Any] = {
    "groups": block.groups,
    "on_one_cpu": block.on_one_cpu,
    "dtype": block.dtype,
  }
  expanded, channels = (in_eights(n * block.width) for n in (stage.expanded, stage.channels))
  y = x
  if expanded != x.shape[-1]:
    y = ConvNormActivation(expanded, activation=stage.activation, **shared, name="expand")(y, train)
  y = ConvNormActivation(
    expanded, stage.size, stage.stride, True, stage.activation, **shared, name="depthwise"
  )(y, train)
  if stage.squeezed:
    y = SqueezeExcitation(block.dtype, name="squeeze")(y)
  y = ConvNormActivation(channels, **shared, name="project")(y, train)
  return x + y if stage.stride == 1 and x.shape[-1] == channels else y


class MobileNet(nn.Module):
  """The encoder of EfficientAT's networks. Channels are rounded to multiples of 8.

  The hidden layer of their classifier belongs to the encoder, so that each head is a product of
  that layer with label vectors.

  Source:
    Howard et al., Searching for MobileNetV3, ICCV 2019 (MobileNetV3-Large); Schmid et al.,
    Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation, ICASSP 2023.
  """

  width: float = 1.0
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
    """Return `embedding` [B, 960 * width] and `hidden` [B, 1280 * width].

    `embedding` is the mean of the last convolution over frames and bands, as in EfficientAT's code.
    `hidden` is the layer that follows it, the input of the head.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F].
      train: Whether to use batch statistics.
      after_norm: Transform of the input, because no batch norm precedes the convolutions.
      placement: Placement of the batch. By default it is on all devices.
    """
    wide = parameter_dtype(self.dtype)
    on_one_cpu = (placement or placement_here()) == ONE_CPU and self.dtype == wide
    x = log_mel_BxTxF if after_norm is None else after_norm(log_mel_BxTxF)
    x = x.astype(self.dtype)
    if on_one_cpu and not train and not self.is_initializing():
      layers = constant(
        self,
        "folded",
        lambda: cpu_mobilenet.folded_layers(
          self.variables["params"], self.variables["batch_stats"], EPSILON
        ),
      )
      embedding_BxC = cpu_mobilenet.infer_pooled(layers, x, STAGES)
    else:
      groups = groups_of(self.batch_norm, placement)
      shared: dict[str, Any] = {"groups": groups, "on_one_cpu": on_one_cpu, "dtype": self.dtype}
      last_BxTxFxC = _last(x[..., None], train, self.width, shared)
      embedding_BxC = last_BxTxFxC.mean(axis=(1, 2), dtype=wide)
    # The arrays are small from here on, so they are always computed in float32 or wider.
    hidden = _dense(in_eights(HIDDEN * self.width), self.dtype, "fc1")(embedding_BxC)
    return {"embedding": embedding_BxC, "hidden": nn.hard_swish(hidden).astype(self.dtype)}


def last_channels(width: float) -> int:
  """Return the number of channels of the last convolution at a width."""
  return 6 * in_eights(STAGES[-1].channels * width)


def _last(x: Array, train: bool, width: float, shared: dict[str, Any]) -> Array:
  """Return the result of the last convolution, [B, T', F', 960 * width]."""
  stem = ConvNormActivation(
    in_eights(16 * width), 3, 2, False, nn.hard_swish, **shared, name="stem"
  )
  x = stem(x, train)
  for i, stage in enumerate(STAGES, 1):
    x = InvertedResidual(stage, width, **shared, name=f"block{i}")(x, train)
  last = ConvNormActivation(6 * x.shape[-1], activation=nn.hard_swish, **shared, name="last")
  return last(x, train)


def _dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
  """Return a dense layer that computes in float32 or wider."""
  wide = parameter_dtype(dtype)
  init = nn.initializers.xavier_uniform()
  return nn.Dense(features, kernel_init=init, dtype=wide, param_dtype=wide, name=name)
