"""A block of two convolutions in training, in the form that suits a CPU.

A few clips at a time go through all that lies between two batch statistics, while they are in
cache; what is kept for the backward pass is the input and the two convolutions' results, and the
gradients are written over them.
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
NARROWEST = 16  # channels below which the products of tiles are too narrow to gain anything
CHUNK_BYTES = 16 << 20  # of a chunk's tiles: about what the caches hold


class Layer(NamedTuple):
  """A 3x3 convolution and the batch norm behind it: kernel [3, 3, C, D], scale and bias [D]."""

  kernel: Array
  scale: Array
  bias: Array


class Statistics(NamedTuple):
  """Mean and (biased) variance [D] over clips, frames and bands."""

  mean: Array
  variance: Array


def suits(in_channels: int, channels: int) -> bool:
  """Whether a block with these channels has this form."""
  return channels >= NARROWEST and (in_channels == 1 or in_channels >= NARROWEST)


@jax.custom_vjp
def block(
  x_BxHxWxC: Array, first: Layer, second: Layer
) -> tuple[Array, tuple[Statistics, Statistics]]:
  """Twice (convolution, batch norm by the batch's statistics, ReLU), then 2x2 average pooling.

  No gradient flows through the statistics that are returned.

  Args:
    x_BxHxWxC: `suits(C, D)` holds.
  Returns: [B, H // 2, W // 2, D], and the statistics of each batch norm.
  """
  return _forward(x_BxHxWxC, first, second)[0]


def _forward(x, first, second):
  z1, statistics1 = _convolved(x, lambda x: x, first.kernel)
  kept, z1_of = _first_result(x, z1, first)
  norm1 = _norm(statistics1, first)
  z2, statistics2 = _convolved(kept, lambda kept: jax.nn.relu(norm1(z1_of(kept))), second.kernel)
  y = _pool(jax.nn.relu(_norm(statistics2, second)(z2)))
  statistics = statistics1, statistics2
  return (y, statistics), (x, z1, z2, first, second, statistics)


def _backward(kept, cotangents):
  x, z1, z2, first, second, (statistics1, statistics2) = kept
  dy = cotangents[0]
  kept, z1_of = _first_result(x, z1, first)
  norm1, norm2 = _norm(statistics1, first), _norm(statistics2, second)

  def below_pool(z2, dy):
    return jnp.where(norm2(z2) > 0, _unpool(dy, z2.shape), 0)

  through_norm2, dscale2, dbias2 = _norm_gradient(
    _sums(below_pool(z2, dy), z2), z2, statistics2, second
  )

  def second_gradients(kept, z2, dy):
    z1 = z1_of(kept)
    dz2 = through_norm2(below_pool(z2, dy), z2)
    return jax.nn.relu(norm1(z1)), dz2, lambda dh: (jnp.where(norm1(z1) > 0, dh, 0), z1)

  g1, dkernel2, sums1 = _gradients(second_gradients, second.kernel, (kept, z2, dy))
  through_norm1, dscale1, dbias1 = _norm_gradient(sums1, g1, statistics1, first)

  def first_gradients(x, kept, g1):
    return x, through_norm1(g1, z1_of(kept)), lambda dx: (dx, x)

  dx, dkernel1, _ = _gradients(first_gradients, first.kernel, (x, kept, g1))
  return dx, Layer(dkernel1, dscale1, dbias1), Layer(dkernel2, dscale2, dbias2)


def _first_result(x, z1, first: Layer) -> tuple[Array, Callable]:
  """An array of clips, and what makes the first convolution's result of some of them.

  A convolution of one channel is computed anew faster than its result is written and read.
  """
  if z1 is None:
    return x, lambda x: _convolve(x, first.kernel)
  return z1, lambda z1: z1


block.defvjp(_forward, _backward)


def folded(layer: Layer, statistics: Statistics) -> tuple[Array, Array]:
  """A layer with these statistics for `infer`: a prepared kernel, and what is added behind it."""
  factor = layer.scale * jax.lax.rsqrt(statistics.variance + EPSILON)
  return _prepared(layer.kernel * factor), layer.bias - statistics.mean * factor


def infer(x_BxHxWxC: Array, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
  """What `block` makes of x with layers that are `folded`."""

  def some_clips(carry, x):
    for kernel, shift in (first, second):
      x = jax.nn.relu(_convolve(x, kernel) + shift)
    return carry, _pool(x)

  return _by_chunks(some_clips, None, (x_BxHxWxC,), second[0].shape[-1])[1]


def _convolved(x, before: Callable, kernel) -> tuple[Array | None, Statistics]:
  """The convolution of `before(x)`, None where the kernel is narrow, and its statistics."""
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
  """The gradients of a convolution.

  Args:
    parts_of: from chunks of the arrays to the convolution's input, the gradient of its result, and
      a function of the gradient of its input: to what is wanted of that, and its weights in the
      second of the `_sums`.
  Returns: what is wanted, the gradient of the kernel, and the `_sums`.
  """
  back = (
    kernel
    if _narrow(kernel)
    else tiled_convolution.kernel_to_points(tiled_convolution.mirrored(kernel))
  )

  def some_clips(carry, *chunks):
    dkernel, sums = carry
    h, dz, behind = parts_of(*chunks)
    if _narrow(kernel):
      dkernel, dh = dkernel + _narrow_kernel_gradient(h, dz), _narrow_input_gradient(dz, back)
    else:
      dkernel, dh = (
        dkernel + tiled_convolution.kernel_gradient(h, dz),
        tiled_convolution.tiled_convolve(dz, back),
      )
    wanted, weights = behind(dh)
    return (dkernel, jax.tree.map(jnp.add, sums, _sums(wanted, weights))), wanted

  channels = jnp.zeros(kernel.shape[2], kernel.dtype)
  start = jnp.zeros(
    (9 if _narrow(kernel) else tiled_convolution.POINTS, *kernel.shape[2:]), kernel.dtype
  )
  (dkernel, sums), wanted = _by_chunks(
    some_clips, (start, (channels, channels)), arrays, max(kernel.shape[2:])
  )
  dkernel = (
    dkernel.reshape(kernel.shape)
    if _narrow(kernel)
    else tiled_convolution.points_to_kernel(dkernel)
  )
  return wanted, dkernel, sums


def _by_chunks(step: Callable, carry, arrays, channels: int):
  """`step(carry, *chunks) -> (carry, chunk)` for the clips of the arrays in turn.

  Returns: the last carry, and the array of the chunks.
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
  """The batch norm, `z -> normalised z`."""
  factor = layer.scale * jax.lax.rsqrt(statistics.variance + EPSILON)
  shift = layer.bias - statistics.mean * factor
  return lambda z: factor * z + shift


def _norm_gradient(sums, z, statistics, layer):
  """How a gradient g passes the norm, `(g, z) -> dz`, and the gradients of scale and bias.

  Args:
    sums: of g, and of g * z.
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
  """Sums of x, and of x * weight, for each channel."""
  return x.sum((0, 1, 2)), (x * weight).sum((0, 1, 2))


def _pool(x):
  height, width = (n // 2 * 2 for n in x.shape[1:3])
  x = x[:, :height, :width]
  return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) * 0.25


def _unpool(dy, shape):
  """The adjoint of `_pool`, of this shape."""
  B, h, w, C = dy.shape
  dx = jnp.broadcast_to(dy[:, :, None, :, None] * 0.25, (B, h, 2, w, 2, C))
  dx = dx.reshape(B, 2 * h, 2 * w, C)
  return jnp.pad(dx, [(0, wanted - has) for wanted, has in zip(shape, dx.shape)])


def _prepared(kernel):
  return kernel if _narrow(kernel) else tiled_convolution.kernel_to_points(kernel)


def _narrow(kernel) -> bool:
  """Whether the kernel sees one channel: no tiles then, the sums are as short as can be."""
  return kernel.shape[2] == 1


def _convolve(x, prepared):
  """The convolution with what `_prepared` gave."""
  if prepared.ndim == 3:
    return tiled_convolution.tiled_convolve(x, prepared)
  return sum(part * weights for part, weights in zip(_neighbours(x), prepared.reshape(9, -1)))


def _neighbours(x) -> list[Array]:
  """For each tap of a 3x3 kernel, what it sees of x."""
  H, W = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return [padded[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]


def _narrow_kernel_gradient(x_BxHxWx1, dz):
  """[9, 1, D]."""
  taps = jnp.stack(_neighbours(x_BxHxWx1)).reshape(9, -1)
  return (taps @ dz.reshape(-1, dz.shape[-1]))[:, None]


def _narrow_input_gradient(dz, kernel_3x3x1xD):
  """[B, H, W, 1]."""
  by_tap = dz @ kernel_3x3x1xD.reshape(9, -1).T
  seen = _neighbours(by_tap)
  return functools.reduce(jnp.add, (seen[8 - tap][..., tap] for tap in range(9)))[..., None]
