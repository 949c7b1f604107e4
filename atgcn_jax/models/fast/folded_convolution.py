"""The 3x3 convolution as TPUs want it: clips cut into parts, and a float32 gradient of the kernel.

A TPU keeps arrays in tiles of 128 along one axis. The first block's 64 channels would leave half of
each tile empty, as would 64 clips; 64 clips in 2 parts each fill it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
LANES = 128
WHOLE, ROWS = (
  ((1, 1), (1, 1)),
  ((0, 0), (1, 1)),
)  # zeros around clips; at their lowest and top bands


def parts_to_fill(clips: int, frames: int) -> int:
  """Into how many parts to cut each clip so that parts fill a TPU's tiles.

  Args:
    clips: on each device.
    frames: of a clip; a part has an even number of them, since pairs are pooled.
  """
  parts = LANES // math.gcd(clips, LANES)
  while parts > 1 and frames % (2 * parts):
    parts //= 2
  return parts


def fold(x: Array, parts: int) -> Array:
  """[B, T, …] to [B * parts, T // parts, …]."""
  return x.reshape(len(x) * parts, x.shape[1] // parts, *x.shape[2:])


def unfold(x: Array, parts: int) -> Array:
  """What `fold` was given."""
  return x.reshape(len(x) // parts, x.shape[1] * parts, *x.shape[2:])


def folded_convolve(x: Array, kernel: Array, padding: Any = WHOLE) -> Array:
  """[B, T, F, D], each clip convolved with zeros around it; `kernel` takes the type of x.

  Args:
    x: [B, T, F, C].
    kernel: [3, 3, C, D].
  """
  return jax.lax.conv_general_dilated(
    x, kernel.astype(x.dtype), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_parts(x: Array, kernel: Array, parts: int) -> Array:
  """What `convolve` makes of clips, for clips that are folded; no other rounding but at the seams.

  The gradient of the kernel has the kernel's type even where x is narrower, so that it is summed
  over devices in it.

  Args:
    x: [B * parts, T // parts, F, C].
    kernel: [3, 3, C, D].
  """
  if parts > 1 and x.shape[-1] == 1:  # a small array: it is copied with its neighbours' frames
    return folded_convolve(_with_neighbours(x, parts), kernel, ROWS)
  y = folded_convolve(x, kernel)
  if parts == 1:
    return y
  before, behind = (
    folded_convolve(x[:, -1:], kernel[:1], ROWS),
    folded_convolve(x[:, :1], kernel[2:], ROWS),
  )
  return _added_at_ends(y, _to_next(before, parts), _to_previous(behind, parts))


def _forward(x, kernel, parts):
  return convolve_parts(x, kernel, parts), (x, kernel)


def _backward(parts, kept, dy):
  x, kernel = kept
  if parts > 1 and x.shape[-1] == 1:
    widen = functools.partial(_with_neighbours, parts=parts)
    dx, dkernel = _gradients(widen(x), kernel, dy, ROWS)
    return jax.linear_transpose(widen, x)(dx)[0], dkernel
  # With x there before dx is computed, the kernel's gradient comes first and x is then given up.
  x, dy = jax.lax.optimization_barrier((x, dy))
  dx, dkernel = _gradients(x, kernel, dy, WHOLE)
  if parts == 1:
    return dx, dkernel
  # What a part's first frame got from the part before goes back there, and so for its last frame.
  before, behind = _to_previous(dy[:, :1], parts), _to_next(dy[:, -1:], parts)
  last, dkernel_before = _gradients(x[:, -1:], kernel[:1], before, ROWS, ((0, 2), (1, 1)))
  first, dkernel_behind = _gradients(x[:, :1], kernel[2:], behind, ROWS, ((2, 0), (1, 1)))
  return _added_at_ends(dx, first, last), dkernel + dkernel_before + dkernel_behind


convolve_parts.defvjp(_forward, _backward)


def _gradients(x, kernel, dy, padding, kernel_padding=None):
  """Gradients of `convolve`; with another `kernel_padding` the kernel's has zeros added to it."""
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
  """x with these added to its first and last frame."""
  frame = jnp.arange(x.shape[1])[:, None, None]
  return x + jnp.where(frame == 0, first, 0) + jnp.where(frame == x.shape[1] - 1, last, 0)


def _with_neighbours(x, parts):
  before, behind = _to_next(x[:, -1:], parts), _to_previous(x[:, :1], parts)
  return jnp.concatenate([before, x, behind], axis=1)


def _to_next(frames, parts):
  """Each part's frame [N, 1, …] handed on to the clip's next part; zeros to its first."""
  by_clip = frames.reshape(-1, parts, *frames.shape[2:])
  return jnp.zeros_like(by_clip).at[:, 1:].set(by_clip[:, :-1]).reshape(frames.shape)


def _to_previous(frames, parts):
  by_clip = frames.reshape(-1, parts, *frames.shape[2:])
  return jnp.zeros_like(by_clip).at[:, :-1].set(by_clip[:, 1:]).reshape(frames.shape)
