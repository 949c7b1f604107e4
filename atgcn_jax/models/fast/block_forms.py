"""Forms of a pooled block of CNN10 that take less time on one CPU, or less memory in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from atgcn_jax.models.convolution import Convolution
from atgcn_jax.models.fast import cpu_block, folded_convolution
from atgcn_jax.models.layers import ONE_CPU, Array, constant, parameter_dtype
from atgcn_jax.models.normalisation import STATISTICS, BatchNorm

CONVOLUTION = "convolution"
# The policy for the values of a block that are saved for the backward pass besides its input. The
# backward pass recomputes everything between convolutions at little cost. Saved, these values
# would take most of the memory of a training step.
_keep = jax.checkpoint_policies.save_only_these_names

Form = Callable[[Any, Array, bool], Array]  # from a block, x and `train` to the output of the block


def fast_form(block: Any, x: Array, train: bool) -> Form | None:
  """Return the form of a block that suits the devices, or None if the plain form does.

  Args:
    block: A `ConvBlock`. Without pooling, it is small, and has the plain form.
    x: Its input [B, T, F, C].
    train: Whether gradients are computed.
  """
  if not block.pooled:
    return None
  one_group = block.placement == ONE_CPU and block.dtype == parameter_dtype(block.dtype)
  if one_group and cpu_block.suits(x.shape[-1], block.channels):
    return on_one_cpu
  if not train:
    return None
  return on_tpus if block.placement.platform == "tpu" else recomputed


def recomputed(block: Any, x: Array, train: bool) -> Array:
  """Apply a block that saves only convolutions and statistics for the backward pass."""
  return _recomputed(block, x, train, None)


def on_tpus(block: Any, x: Array, train: bool) -> Array:
  """Apply a block as `recomputed` does, with clips folded into parts that fill a TPU."""
  parts = 1
  if x.shape[-1] == 1:
    parts = folded_convolution.parts_to_fill(len(x) // block.placement.devices, x.shape[1])
  folded = _recomputed(block, folded_convolution.fold(x, parts), train, parts)
  return folded_convolution.unfold(folded, parts)


def _recomputed(block: Any, x: Array, train: bool, parts: int | None) -> Array:
  keep = _keep(CONVOLUTION, STATISTICS)
  return nn.remat(_layers, policy=keep, static_argnums=(2, 3))(block, x, train, parts)


def on_one_cpu(block: Any, x: Array, train: bool) -> Array:
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


def _layers(block: Any, x: Array, train: bool, parts: int | None) -> Array:
  """Apply both layers of a block."""
  first = _layer
  if x.shape[-1] == 1:
    # The convolution of one channel costs little. Its result is not saved, and not held in memory
    # while the gradients of the second layer are computed.
    first = nn.remat(_layer, policy=_keep(STATISTICS), static_argnums=(2, 3, 4, 5))
  x = first(block, x, 1, train, parts, nn.relu)
  return _layer(block, x, 2, train, parts, _relu_and_pool)


def _layer(
  block: Any,
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
