"""Convolutions of folded clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atgcn_jax.models.fast.folded_convolution import (
  convolve_parts,
  fold,
  folded_convolve,
  parts_to_fill,
  unfold,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_convolution_of_parts_equals_that_of_the_clip(channels, parts):
  x = RANDOM.standard_normal((2, 16, 5, channels)).astype("f")
  kernel = RANDOM.standard_normal((3, 3, channels, 4)).astype("f")

  def in_parts(x, kernel):
    return unfold(convolve_parts(fold(x, parts), kernel, parts), parts)

  def of(form):
    """Return values and gradients."""

    def total(x, kernel):
      y = form(x, kernel)
      return jnp.sin(y).sum(), y

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(x, kernel)

  (gradients, values), (expected_gradients, expected) = of(in_parts), of(folded_convolve)
  np.testing.assert_allclose(values, expected, atol=1e-5)
  for a, b in zip(gradients, expected_gradients):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_gradient_of_the_kernel_keeps_the_type_of_the_kernel():
  x, kernel = jnp.ones((2, 4, 3, 1), jnp.bfloat16), jnp.full((3, 3, 1, 2), 0.1)
  gradients = jax.grad(lambda x, k: convolve_parts(x, k, 2).sum(dtype="f"), (0, 1))
  of_x, of_kernel = jax.eval_shape(gradients, x, kernel)
  assert (of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.float32)


def test_folding_keeps_the_order_of_frames():
  x = np.arange(2 * 8 * 3).reshape(2, 8, 3)
  np.testing.assert_array_equal(fold(x, 4)[5], x[1, 2:4])
  np.testing.assert_array_equal(unfold(fold(x, 4), 4), x)


@pytest.mark.parametrize(
  ("clips", "frames", "parts"),
  [
    (64, 400, 2),
    (128, 400, 1),
    (512, 400, 1),
    (32, 400, 4),
    (8, 400, 8),
    (64, 50, 1),
    (96, 400, 4),
  ],
)
def test_parts_fill_a_tile_where_frames_allow(clips, frames, parts):
  assert parts_to_fill(clips, frames) == parts
  assert frames // parts % 2 == 0
