"""Batch norm with a custom backward pass, over the entire batch or over groups of clips."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from atgcn_jax.models.layers import Array, parameter_dtype

MOMENTUM, EPSILON = 0.9, 1e-5  # PyTorch's defaults; its momentum is 1 - 0.9
STATISTICS = "statistics"  # checkpoint name of the reductions, saved during rematerialisation


def unchanged(x: Array) -> Array:
  """Return x."""
  return x


class BatchNorm(nn.Module):
  """Batch norm over all axes except the last, with the variable names of flax.linen.

  The statistics have the type of the parameters, float32 or wider. In training, each of `groups`
  equal runs of clips has separate statistics. The running statistics follow the mean over the
  groups. The function `after` is applied after the batch norm. `by_clip` is the form for one CPU.
  """

  channels: int
  dtype: jnp.dtype = jnp.float32
  groups: int = 1
  after: Callable[[Array], Array] = unchanged
  momentum: float = MOMENTUM
  epsilon: float = EPSILON
  by_clip: bool = False

  def setup(self):
    """Create the variables."""
    shape, dtype = (self.channels,), parameter_dtype(self.dtype)
    self.scale = self.param("scale", nn.initializers.ones, shape, dtype)
    self.bias = self.param("bias", nn.initializers.zeros, shape, dtype)
    self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
    self.running_variance = self.variable("batch_stats", "var", jnp.ones, shape, dtype)

  def __call__(self, x: Array, *, train: bool) -> Array:
    """Return `after` of the normalised x in the compute type.

    Args:
      x: [B, …, C].
      train: Whether to use the statistics of the batch instead of the running statistics.
    """
    if not train:
      mean = self.running_mean.value
      factor = jax.lax.rsqrt(self.running_variance.value + self.epsilon)
      return self.after(_scaled(x, mean, factor, self.scale, self.bias).astype(self.dtype))
    y, mean_GxC, variance_GxC = batch_norm(
      x, self.scale, self.bias, self.dtype, self.groups, self.after, self.epsilon, self.by_clip
    )
    self.follow(mean_GxC.mean(axis=0), variance_GxC.mean(axis=0))
    return y

  def follow(self, mean: Array, variance: Array) -> None:
    """Update the running statistics with those of a batch."""
    if not self.is_initializing():
      for running, new in ((self.running_mean, mean), (self.running_variance, variance)):
        running.value = self.momentum * running.value + (1 - self.momentum) * new


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def batch_norm(
  x: Array,
  scale_C: Array,
  bias_C: Array,
  dtype: jnp.dtype,
  groups: int,
  after: Callable[[Array], Array] = unchanged,
  epsilon: float = EPSILON,
  by_clip: bool = False,
) -> tuple[Array, Array, Array]:
  """Normalise x by the statistics of the batch and apply `after`.

  No gradient flows through the returned statistics. The backward pass needs only x and reduces
  over the batch once: the two sums are the gradients of bias and scale.

  Args:
    x: [B, …, C].
    scale_C: [C].
    bias_C: [C].
    dtype: The type of the normalised x. The statistics have the type of scale and bias.
    groups: The number of equal runs of clips that are normalised separately.
    after: The function that is applied to the normalised x. The backward pass recomputes it, so
      it should be cheap.
    epsilon: The term that is added to the variance.
    by_clip: Whether the backward pass reduces one clip at a time, while its gradients are in the
      cache. There must be one group.

  Returns:
    The result of `after` [B, …, C], and the mean and biased variance [groups, C].
  """
  return _forward(x, scale_C, bias_C, dtype, groups, after, epsilon, by_clip)[0]


def _forward(x, scale, bias, dtype, groups, after, epsilon, by_clip):
  wide = _grouped(x, groups).astype(scale.dtype)
  axes = tuple(range(1, wide.ndim - 1))
  mean, mean_square = wide.mean(axes, keepdims=True), jnp.square(wide).mean(axes, keepdims=True)
  mean, mean_square = (checkpoint_name(s, STATISTICS) for s in (mean, mean_square))
  var = jnp.maximum(0, mean_square - jnp.square(mean))
  factor = jax.lax.rsqrt(var + epsilon)
  y = _scaled(wide, mean, factor, scale, bias).astype(dtype).reshape(x.shape)
  channels = (groups, x.shape[-1])
  statistics = mean.reshape(channels), var.reshape(channels)
  return (after(y), *statistics), (x, mean, factor, scale, bias)


def _backward(dtype, groups, after, _, by_clip, residuals, cotangents):
  x, mean, factor, scale, bias = residuals

  def at_norm(x, cotangent):
    """Return the gradient of the normalised x, and the whitened x."""
    wide = _grouped(x, groups).astype(scale.dtype)
    y = _scaled(wide, mean, factor, scale, bias).astype(dtype).reshape(x.shape)
    (gradient,) = jax.vjp(after, y)[1](cotangent)
    return _grouped(gradient, groups).astype(scale.dtype), (wide - mean) * factor

  def sums(x, cotangent):
    """Return the gradients of bias and scale in each group."""
    gradient, whitened = at_norm(x, cotangent)
    axes = tuple(range(1, gradient.ndim - 1))
    return gradient.sum(axes, keepdims=True), (gradient * whitened).sum(axes, keepdims=True)

  def and_clip(total, clip):
    return jax.tree.map(jnp.add, total, sums(*(array[None] for array in clip))), None

  if by_clip:
    start = jnp.zeros_like(mean), jnp.zeros_like(mean)
    of_bias, of_scale = jax.lax.scan(and_clip, start, (x, cotangents[0]))[0]
  else:
    of_bias, of_scale = sums(x, cotangents[0])
  # Recomputed after the reduction, which is faster than a round trip to memory.
  of_bias, of_scale, again = jax.lax.optimization_barrier((of_bias, of_scale, (x, cotangents[0])))
  gradient, whitened = at_norm(*again)
  count = math.prod(gradient.shape[1:-1])
  of_x = scale * factor * (gradient - (of_bias + whitened * of_scale) / count)
  channels = (groups, x.shape[-1])
  return (
    of_x.astype(x.dtype).reshape(x.shape),
    of_scale.reshape(channels).sum(axis=0),
    of_bias.reshape(channels).sum(axis=0),
  )


batch_norm.defvjp(_forward, _backward)


def _scaled(x, mean, factor, scale, bias):
  return (x.astype(scale.dtype) - mean) * (factor * scale) + bias


def _grouped(x, groups):
  return x.reshape(groups, len(x) // groups, *x.shape[1:])
