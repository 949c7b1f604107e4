"""The 3x3 convolution for TPUs: clips are cut into parts, and the kernel gradient is float32.

A TPU stores arrays in tiles of 128 along one axis. The 64 channels of the first block would leave
half of each tile empty, and so would 64 clips. 64 clips in 2 parts each fill the tiles.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
LANES = 128
# Zero padding at all edges of a clip; zero padding at the lowest and highest bands only.
WHOLE, ROWS = ((1, 1), (1, 1)), ((0, 0), (1, 1))


def parts_to_fill(clips: int, frames: int) -> int:
  """Return the number of parts per clip with which the parts fill the tiles of a TPU.

  Args:
    clips: The number of clips on each device.
    frames: The number of frames of a clip. A part has an even number of frames, because pairs are
      pooled.
  """
  parts = LANES // math.gcd(clips, LANES)
  while parts > 1 and frames % (2 * parts):
    parts //= 2
  return parts


def fold(x: Array, parts: int) -> Array:
  """Reshape [B, T, …] to [B * parts, T // parts, …]."""
  return x.reshape(len(x) * parts, x.shape[1] // parts, *x.shape[2:])


def unfold(x: Array, parts: int) -> Array:
  """Reshape [B * parts, T // parts, …] to [B, T, …]."""
  return x.reshape(len(x) // parts, x.shape[1] * parts, *x.shape[2:])


def folded_convolve(x: Array, kernel: Array, padding: Any = WHOLE) -> Array:
  """Return the zero-padded convolution of each clip, [B, T, F, D], in the type of x.

  Args:
    x: [B, T, F, C].
    kernel: [3, 3, C, D]. It is cast to the type of x.
    padding: The zero padding of frames and bands.
  """
  return jax.lax.conv_general_dilated(
    x, kernel.astype(x.dtype), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_parts(x: Array, kernel: Array, parts: int) -> Array:
  """Return the convolution of folded clips, [B * parts, T // parts, F, D].

  The result equals that of `folded_convolve` on unfolded clips. Rounding differs only at the edges
  of parts. The gradient of the kernel has the type of the kernel even if x is narrower, so that it
  is summed over devices in this type.

  Args:
    x: [B * parts, T // parts, F, C].
    kernel: [3, 3, C, D].
    parts: The number of parts per clip.
  """
  if parts > 1 and x.shape[-1] == 1:  # small enough to be copied together with adjacent frames
    return folded_convolve(_with_neighbours(x, parts), kernel, ROWS)
  y = folded_convolve(x, kernel)
  if parts == 1:
    return y
  before, after = (
    folded_convolve(x[:, -1:], kernel[:1], ROWS),
    folded_convolve(x[:, :1], kernel[2:], ROWS),
  )
  return _added_at_ends(y, _to_next(before, parts), _to_previous(after, parts))


def _forward(x, kernel, parts):
  return convolve_parts(x, kernel, parts), (x, kernel)


def _backward(parts, residuals, dy):
  x, kernel = residuals
  if parts > 1 and x.shape[-1] == 1:
    widen = functools.partial(_with_neighbours, parts=parts)
    dx, dkernel = _gradients(widen(x), kernel, dy, ROWS)
    return jax.linear_transpose(widen, x)(dx)[0], dkernel
  # The barrier schedules the gradient of the kernel before dx, so that x can be freed early.
  x, dy = jax.lax.optimization_barrier((x, dy))
  dx, dkernel = _gradients(x, kernel, dy, WHOLE)
  if parts == 1:
    return dx, dkernel
  # The first frame of a part also depends on the previous part, and the last frame on the next.
  # Their gradients go back to these parts.
  before, after = _to_previous(dy[:, :1], parts), _to_next(dy[:, -1:], parts)
  last, dkernel_before = _gradients(x[:, -1:], kernel[:1], before, ROWS, ((0, 2), (1, 1)))
  first, dkernel_after = _gradients(x[:, :1], kernel[2:], after, ROWS, ((2, 0), (1, 1)))
  return _added_at_ends(dx, first, last), dkernel + dkernel_before + dkernel_after


convolve_parts.defvjp(_forward, _backward)


def _gradients(x, kernel, dy, padding, kernel_padding=None):
  """Return the gradients of `folded_convolve` for x and the kernel.

  A different `kernel_padding` pads the gradient of the kernel with zeros.
  """
  (dx,) = jax.linear_transpose(lambda x: folded_convolve(x, kernel, padding), x)(dy)
  dkernel = jax.lax.conv_general_dilated(
    x,
    dy,
    (1, 1),
    kernel_padding or padding,
    dimension_numbers=("CHWN", "IHWO", "HWNC"),
    preferred_element_type=kernel.dtype,
  )
  return dx, dkernel


def _added_at_ends(x, first, last):
  """Return x with values added to the first and last frame of each part."""
  frame = jnp.arange(x.shape[1])[:, None, None]
  return x + jnp.where(frame == 0, first, 0) + jnp.where(frame == x.shape[1] - 1, last, 0)


def _with_neighbours(x, parts):
  """Return each part with the adjacent frames of the previous and the next part."""
  before, after = _to_next(x[:, -1:], parts), _to_previous(x[:, :1], parts)
  return jnp.concatenate([before, x, after], axis=1)


def _to_next(frames, parts):
  """Shift frames [N, 1, …] to the next part of the clip; the first part gets zeros."""
  by_clip = frames.reshape(-1, parts, *frames.shape[2:])
  return jnp.zeros_like(by_clip).at[:, 1:].set(by_clip[:, :-1]).reshape(frames.shape)


def _to_previous(frames, parts):
  """Shift frames [N, 1, …] to the previous part of the clip; the last part gets zeros."""
  by_clip = frames.reshape(-1, parts, *frames.shape[2:])
  return jnp.zeros_like(by_clip).at[:, :-1].set(by_clip[:, 1:]).reshape(frames.shape)
