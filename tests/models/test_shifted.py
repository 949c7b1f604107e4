"""Convolutions as sums of shifted products, compared with XLA's in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow

from atgcn_jax.models.fast.shifted_convolution import convolve

QUICK = {"xla_backend_optimization_level": 0}


def plain(x, kernel, stride):
  edge = kernel.shape[0] // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((edge, edge), (edge, edge)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x.shape[-1] // kernel.shape[2],
  )


def values_and_gradients(function, stride):
  def total(x, kernel, weights):
    return (function(x, kernel, stride) * weights).sum()

  both = jax.value_and_grad(total, argnums=(0, 1))
  return jax.jit(lambda *args: (function(*args[:2], stride), both(*args)), compiler_options=QUICK)


@pytest.mark.parametrize(
  ("size", "stride", "inputs", "channels"),
  [(1, 1, 3, 4), (3, 2, 1, 8), (3, 1, 5, 5), (3, 2, 5, 5), (5, 1, 3, 3), (5, 2, 3, 3)],
)
@pytest.mark.parametrize("shape", [(7, 4), slow((8, 3)), (1, 2)])
def test_values_and_gradients_agree_with_xla(shape, size, stride, inputs, channels):
  r = np.random.default_rng(0)
  grouped = inputs == channels
  x, kernel = (
    r.standard_normal((3, *shape, inputs)),
    r.standard_normal((size, size, 1 if grouped else inputs, channels)),
  )
  out = [-(-n // stride) for n in shape]
  arguments = [
    jnp.asarray(a, jnp.float32) for a in (x, kernel, r.standard_normal((3, *out, channels)))
  ]
  found, expected = (values_and_gradients(f, stride)(*arguments) for f in (convolve, plain))
  assert found[0].shape == (3, *out, channels)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected)
