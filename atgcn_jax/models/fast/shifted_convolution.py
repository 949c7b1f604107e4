"""Depthwise convolutions on a CPU, as sums of products of shifted inputs.

On CPUs, XLA computes depthwise convolutions, and above all their gradients, much more slowly than
sums of k² products, which it fuses into one loop. Clips pass through the gradients one at a time,
while they are in the cache.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
PARTS, PART_ROWS = 8, 8  # most parts of a clip that are added up, and fewest rows of a part


def convolve(x: Array, kernel: Array, stride: int) -> Array:
  """Return the zero-padded convolution [B, ceil(H / stride), ceil(W / stride), D].

  Args:
    x: [B, H, W, C].
    kernel: [k, k, 1, C] for a depthwise convolution, [k, k, 1, D] for one channel (C = 1), or
      [1, 1, C, D].
    stride: The stride over rows and columns; 1 for a 1x1 kernel.
  """
  if kernel.shape[0] == 1:
    return _product(x, kernel)
  if x.shape[-1] == 1:
    return of_one_channel(x, kernel, stride)
  return depthwise(x, kernel, stride)


def _product(x, kernel):
  """Return the convolution with a 1x1 kernel."""
  # As a product of two matrices, the gradient of the kernel needs no transposed copy of x.
  return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def of_one_channel(x_BxHxWx1: Array, kernel_KxKx1xD: Array, stride: int) -> Array:
  """Return the convolution of one channel of `convolve`."""
  padded = _padded(x_BxHxWx1, kernel_KxKx1xD)
  wide = jnp.broadcast_to(padded, (*padded.shape[:-1], kernel_KxKx1xD.shape[-1]))
  return _weighted_sum(wide, kernel_KxKx1xD, stride, _size(x_BxHxWx1, stride))


def _one_forward(x, kernel, stride):
  return of_one_channel(x, kernel, stride), (x, kernel)


def _one_backward(stride, residuals, dy):
  x, kernel = residuals
  size, channels = kernel.shape[0], kernel.shape[-1]
  taps = jnp.stack(_taps(_padded(x, kernel), size, stride, dy.shape[1:3]))
  dkernel = taps.reshape(size * size, -1) @ dy.reshape(-1, channels)
  dx = _input_gradient(dy, kernel, stride, x.shape[1:3]).sum(axis=-1, keepdims=True)
  return dx, dkernel.reshape(kernel.shape)


of_one_channel.defvjp(_one_forward, _one_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x_BxHxWxC: Array, kernel_KxKx1xC: Array, stride: int) -> Array:
  """Return the depthwise convolution of `convolve`."""
  padded = _padded(x_BxHxWxC, kernel_KxKx1xC)
  return _weighted_sum(padded, kernel_KxKx1xC, stride, _size(x_BxHxWxC, stride))


def _forward(x, kernel, stride):
  return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, dy):
  x, kernel = residuals

  def of_clip(dkernel, clip):
    x, dy = (array[None] for array in clip)
    dkernel += _kernel_gradient(x, dy, kernel.shape[0], stride)
    return dkernel, _input_gradient(dy, kernel, stride, x.shape[1:3])[0]

  start = jnp.zeros((kernel.shape[0] ** 2, x.shape[-1]), kernel.dtype)
  dkernel, dx = jax.lax.scan(of_clip, start, (x, dy))
  return dx, dkernel.reshape(kernel.shape)


depthwise.defvjp(_forward, _backward)


def _kernel_gradient(x, dy, size, stride):
  """Return the gradient of a kernel, [k * k, C], from those of one clip.

  XLA vectorises sums of arrays, but not sums over the rows of an array. Therefore the rows are
  split into equal parts, which are added before the rest is summed.
  """
  height, width = dy.shape[1:3]
  parts = min(PARTS, max(1, height // PART_ROWS))
  rows = -(-height // parts)
  edge, missing = size // 2, parts * rows - height
  below = edge + stride * missing
  padded, dy = jax.lax.optimization_barrier(
    (
      jnp.pad(x, ((0, 0), (edge, below), (edge, edge), (0, 0))),
      jnp.pad(dy, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else dy,
    )
  )
  sums: list[Any] = [0] * size**2
  for first in range(0, parts * rows, rows):
    part = jax.lax.slice_in_dim(dy, first, first + rows, axis=1)
    last = stride * (first + rows - 1) + size
    taps = _taps(padded[:, stride * first : last], size, stride, (rows, width))
    sums = [total + tap * part for total, tap in zip(sums, taps)]
  return jax.lax.optimization_barrier(jnp.stack(sums)).sum(axis=(1, 2, 3))


def _input_gradient(dy, kernel, stride, shape):
  """Return the gradient of the input of this height and width: a convolution of spread-out dy."""
  edge = kernel.shape[0] // 2
  ends = [edge + n - 1 - stride * (m - 1) for n, m in zip(shape, dy.shape[1:3])]
  spread = [(0, 0, 0), *((edge, end, stride - 1) for end in ends), (0, 0, 0)]
  padded = jax.lax.optimization_barrier(jax.lax.pad(dy, jnp.zeros((), dy.dtype), spread))
  return _weighted_sum(padded, kernel[::-1, ::-1], 1, shape)


def _weighted_sum(padded, kernel, stride, shape):
  """Return the sum over the weights of a kernel of the shifted input times the weight."""
  taps = _taps(padded, kernel.shape[0], stride, shape)
  # Tracing these operations of JAX takes half the time of tracing those of jax.numpy.
  weights = jax.lax.split(kernel.reshape(len(taps), -1), [1] * len(taps))
  wide = (jax.lax.broadcast_in_dim(weight, taps[0].shape, (0, 3)) for weight in weights)
  return functools.reduce(jax.lax.add, map(jax.lax.mul, taps, wide))


def _taps(padded, size, stride, shape):
  """Return the shifted inputs of this height and width, one for each weight of a kernel."""
  height, width = ((n - 1) * stride + 1 for n in shape)
  batch, *_, channels = padded.shape
  return [
    jax.lax.slice(
      padded, (0, i, j, 0), (batch, i + height, j + width, channels), (1, stride, stride, 1)
    )
    for i in range(size)
    for j in range(size)
  ]


def _padded(x, kernel):
  edge = kernel.shape[0] // 2
  # Without the barrier, XLA tests for every product whether its input is padding.
  return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0))))


def _size(x, stride):
  return -(-x.shape[1] // stride), -(-x.shape[2] // stride)
