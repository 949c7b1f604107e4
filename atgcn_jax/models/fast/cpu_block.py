"""A training block of two convolutions in a form for CPUs.

A few clips at a time pass through all operations between two batch statistics while they are in the
cache. The input and the results of the two convolutions are saved for the backward pass. The
gradients overwrite them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from atgcn_jax.models.fast import tiled_convolution
from atgcn_jax.models.normalisation import EPSILON

Array = jax.Array
NARROWEST = 16  # with fewer channels, the products of tiles are too narrow to save time
CHUNK_BYTES = 16 << 20  # size of the tiles of a chunk: about the size of the caches


class Layer(NamedTuple):
  """A 3x3 convolution and its batch norm: kernel [3, 3, C, D], scale [D] and bias [D]."""

  kernel: Array
  scale: Array
  bias: Array


class Statistics(NamedTuple):
  """The mean and biased variance [D] over clips, frames and bands."""

  mean: Array
  variance: Array


def suits(in_channels: int, channels: int) -> bool:
  """Return whether a block with these numbers of channels has this form."""
  return channels >= NARROWEST and (in_channels == 1 or in_channels >= NARROWEST)


@jax.custom_vjp
def block(
  x_BxHxWxC: Array, first: Layer, second: Layer
) -> tuple[Array, tuple[Statistics, Statistics]]:
  """Apply twice (convolution, batch norm with batch statistics, ReLU), then 2x2 average pooling.

  No gradient flows through the returned statistics.

  Args:
    x_BxHxWxC: The input. `suits(C, D)` must be true.
    first: The first layer, from C to D channels.
    second: The second layer, from D to D channels.

  Returns:
    The result [B, H // 2, W // 2, D], and the statistics of each batch norm.
  """
  return _forward(x_BxHxWxC, first, second)[0]


def _forward(x, first, second):
  z1, statistics1 = _convolved(x, lambda x: x, first.kernel)
  saved, z1_of = _first_result(x, z1, first)
  norm1 = _norm(statistics1, first)
  z2, statistics2 = _convolved(saved, lambda saved: jax.nn.relu(norm1(z1_of(saved))), second.kernel)
  y = _pool(jax.nn.relu(_norm(statistics2, second)(z2)))
  statistics = statistics1, statistics2
  return (y, statistics), (x, z1, z2, first, second, statistics)


def _backward(residuals, cotangents):
  x, z1, z2, first, second, (statistics1, statistics2) = residuals
  dy = cotangents[0]
  saved, z1_of = _first_result(x, z1, first)
  norm1, norm2 = _norm(statistics1, first), _norm(statistics2, second)

  def below_pool(z2, dy):
    return jnp.where(norm2(z2) > 0, _unpool(dy, z2.shape), 0)

  through_norm2, dscale2, dbias2 = _norm_gradient(
    _sums(below_pool(z2, dy), z2), z2, statistics2, second
  )

  def second_gradients(saved, z2, dy):
    z1 = z1_of(saved)
    dz2 = through_norm2(below_pool(z2, dy), z2)
    return jax.nn.relu(norm1(z1)), dz2, lambda dh: (jnp.where(norm1(z1) > 0, dh, 0), z1)

  g1, dkernel2, sums1 = _gradients(second_gradients, second.kernel, (saved, z2, dy))
  through_norm1, dscale1, dbias1 = _norm_gradient(sums1, g1, statistics1, first)

  def first_gradients(x, saved, g1):
    return x, through_norm1(g1, z1_of(saved)), lambda dx: (dx, x)

  dx, dkernel1, _ = _gradients(first_gradients, first.kernel, (x, saved, g1))
  return dx, Layer(dkernel1, dscale1, dbias1), Layer(dkernel2, dscale2, dbias2)


def _first_result(x, z1, first: Layer) -> tuple[Array, Callable]:
  """Return an array of clips, and the function from its chunks to the first convolution's result.

  It is faster to recompute a convolution of one channel than to write and read its result.
  """
  if z1 is None:
    return x, lambda x: _convolve(x, first.kernel)
  return z1, lambda z1: z1


block.defvjp(_forward, _backward)


def folded(layer: Layer, statistics: Statistics) -> tuple[Array, Array]:
  """Return the form of a layer for `infer`: a prepared kernel and a shift, with the norm folded."""
  factor = layer.scale * jax.lax.rsqrt(statistics.variance + EPSILON)
  return _prepared(layer.kernel * factor), layer.bias - statistics.mean * factor


def infer(x_BxHxWxC: Array, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
  """Apply a block in inference, with layers from `folded`: [B, H // 2, W // 2, D]."""

  def some_clips(carry, x):
    for kernel, shift in (first, second):
      x = jax.nn.relu(_convolve(x, kernel) + shift)
    return carry, _pool(x)

  return _by_chunks(some_clips, None, (x_BxHxWxC,), second[0].shape[-1])[1]


def _convolved(x, before: Callable, kernel) -> tuple[Array | None, Statistics]:
  """Return the convolution of `before(x)`, None for a narrow kernel, and its statistics."""
  prepared, channels = _prepared(kernel), kernel.shape[3]

  def some_clips(sums, x):
    z = _convolve(before(x), prepared)
    return jax.tree.map(jnp.add, sums, _sums(z, z)), None if _narrow(kernel) else z

  start = jnp.zeros(channels, x.dtype), jnp.zeros(channels, x.dtype)
  (total, squares), z = _by_chunks(some_clips, start, (x,), max(kernel.shape[2:]))
  count = x.size // x.shape[-1]
  mean = total / count
  return z, Statistics(mean, jnp.maximum(0, squares / count - jnp.square(mean)))


def _gradients(parts_of: Callable, kernel, arrays) -> tuple[Array, Array, tuple[Array, Array]]:
  """Return the gradients of a convolution.

  Args:
    parts_of: Maps chunks of the arrays to the input of the convolution, the gradient of its result,
      and a function. This function maps the gradient of the input to the requested gradient and
      the weights for the second of the `_sums`.
    kernel: The kernel, [3, 3, C, D].
    arrays: The arrays of clips that are split into chunks.

  Returns:
    The requested gradient, the gradient of the kernel, and the `_sums` of the requested gradient.
  """
  back = (
    kernel
    if _narrow(kernel)
    else tiled_convolution.kernel_to_points(tiled_convolution.mirrored(kernel))
  )

  def some_clips(carry, *chunks):
    dkernel, sums = carry
    h, dz, finish = parts_of(*chunks)
    if _narrow(kernel):
      dkernel, dh = dkernel + _narrow_kernel_gradient(h, dz), _narrow_input_gradient(dz, back)
    else:
      dkernel, dh = (
        dkernel + tiled_convolution.kernel_gradient(h, dz),
        tiled_convolution.tiled_convolve(dz, back),
      )
    gradient, weights = finish(dh)
    return (dkernel, jax.tree.map(jnp.add, sums, _sums(gradient, weights))), gradient

  channels = jnp.zeros(kernel.shape[2], kernel.dtype)
  start = jnp.zeros(
    (9 if _narrow(kernel) else tiled_convolution.POINTS, *kernel.shape[2:]), kernel.dtype
  )
  (dkernel, sums), gradient = _by_chunks(
    some_clips, (start, (channels, channels)), arrays, max(kernel.shape[2:])
  )
  dkernel = (
    dkernel.reshape(kernel.shape)
    if _narrow(kernel)
    else tiled_convolution.points_to_kernel(dkernel)
  )
  return gradient, dkernel, sums


def _by_chunks(step: Callable, carry, arrays, channels: int):
  """Scan over chunks of clips with `step(carry, *chunks) -> (carry, chunk)`.

  Args:
    step: The function of the carry and one chunk of each array.
    carry: The initial carry.
    arrays: Arrays of clips.
    channels: The maximum number of channels, which determines the size of a chunk.

  Returns:
    The last carry, and the array of the resulting chunks.
  """
  clips, height, width, _ = arrays[0].shape
  clip_bytes = (
    arrays[0].dtype.itemsize
    * tiled_convolution.POINTS
    * tiled_convolution.count(height, width)
    * channels
  )
  most = max(1, min(clips, CHUNK_BYTES // clip_bytes))
  size = next(n for n in range(most, 0, -1) if clips % n == 0)
  chunks = tuple(a.reshape(-1, size, *a.shape[1:]) for a in arrays)
  carry, out = jax.lax.scan(lambda carry, some: step(carry, *some), carry, chunks)
  return carry, None if out is None else out.reshape(clips, *out.shape[2:])


def _norm(statistics: Statistics, layer: Layer) -> Callable:
  """Return the batch norm as a function of z."""
  factor = layer.scale * jax.lax.rsqrt(statistics.variance + EPSILON)
  shift = layer.bias - statistics.mean * factor
  return lambda z: factor * z + shift


def _norm_gradient(sums, z, statistics, layer):
  """Return the backward pass of the norm, `(g, z) -> dz`, and the gradients of scale and bias.

  Args:
    sums: The sums of the gradient g and of g * z.
    z: The result of the convolution.
    statistics: The statistics of z.
    layer: The layer.
  """
  total, total_z = sums
  count = z.size // z.shape[-1]
  inverse = jax.lax.rsqrt(statistics.variance + EPSILON)
  dscale = (total_z - statistics.mean * total) * inverse
  factor = layer.scale * inverse
  of_z = -factor * inverse * dscale / count
  shift = -factor * total / count - of_z * statistics.mean
  return (lambda g, z: factor * g + of_z * z + shift), dscale, total


def _sums(x, weight) -> tuple[Array, Array]:
  """Return the sums of x and of x * weight for each channel."""
  return x.sum((0, 1, 2)), (x * weight).sum((0, 1, 2))


def _pool(x):
  """Return the 2x2 average pooling of x."""
  height, width = (n // 2 * 2 for n in x.shape[1:3])
  x = x[:, :height, :width]
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) * 0.25


def _unpool(dy, shape):
  """Return the adjoint of `_pool` for an input of this shape."""
  B, h, w, C = dy.shape
  dx = jnp.broadcast_to(dy[:, :, None, :, None] * 0.25, (B, h, 2, w, 2, C))
  dx = dx.reshape(B, 2 * h, 2 * w, C)
  return jnp.pad(dx, [(0, wanted - has) for wanted, has in zip(shape, dx.shape)])


def _prepared(kernel):
  """Return the kernel in the form for `_convolve`."""
  return kernel if _narrow(kernel) else tiled_convolution.kernel_to_points(kernel)


def _narrow(kernel) -> bool:
  """Return whether the kernel has one input channel, for which tiles save nothing."""
  return kernel.shape[2] == 1


def _convolve(x, prepared):
  """Return the convolution with a kernel from `_prepared`."""
  if prepared.ndim == 3:
    return tiled_convolution.tiled_convolve(x, prepared)
  return sum(part * weights for part, weights in zip(_neighbours(x), prepared.reshape(9, -1)))


def _neighbours(x) -> list[Array]:
  """Return, for each tap of a 3x3 kernel, the shifted x that it is multiplied with."""
  H, W = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return [padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]


def _narrow_kernel_gradient(x_BxHxWx1, dz):
  """Return the gradient of a narrow kernel, [9, 1, D]."""
  taps = jnp.stack(_neighbours(x_BxHxWx1)).reshape(9, -1)
  return (taps @ dz.reshape(-1, dz.shape[-1]))[:, None]


def _narrow_input_gradient(dz, kernel_3x3x1xD):
  """Return the gradient of the input of a narrow kernel, [B, H, W, 1]."""
  by_tap = dz @ kernel_3x3x1xD.reshape(9, -1).T
  shifted = _neighbours(by_tap)
  return functools.reduce(jnp.add, (shifted[8 - tap][..., tap] for tap in range(9)))[..., None]
