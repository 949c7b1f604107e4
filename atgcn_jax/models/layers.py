"""What several systems share: the input norm, compute types, activations."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
# What training does to the spectrogram before or behind the first batch norm.
SpectrogramTransform = Callable[[Array], Array]


def batch_norm(name: str, dtype: jnp.dtype, *, train: bool) -> nn.BatchNorm:
  """Batch norm with PyTorch's momentum and epsilon.

  Its statistics are the global batch's under jit, and of the type of the parameters.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    dtype=dtype,
    param_dtype=parameter_dtype(dtype),
    force_float32_reductions=parameter_dtype(dtype) == jnp.float32,
    name=name,
  )


def parameter_dtype(dtype: jnp.dtype) -> jnp.dtype:
  """The type parameters are kept in: float32, or float64 where that is computed in."""
  return jnp.promote_types(jnp.float32, dtype)


def activation(kind: str, negative_slope: float, dtype: jnp.dtype) -> Callable[[Array], Array]:
  """The activation h of Eq. 1.

  Args:
    kind: `leaky_relu` (fixed slope), `prelu` (the slope is trained, from this start) or `relu`.
    negative_slope: slope below zero; `relu` ignores it.
    dtype: compute type of `prelu`.
  Raises:
    ValueError: for another kind.
  Source: Wang et al., IEEE SPL 2020, Section IV-B (PReLU with slope 0.2).
  """
  if kind == "leaky_relu":
    return lambda x: nn.leaky_relu(x, negative_slope)
  if kind == "prelu":
    return nn.PReLU(negative_slope_init=negative_slope, param_dtype=parameter_dtype(dtype))
  if kind == "relu":
    return nn.relu
  raise ValueError(f"activation {kind!r}: one of leaky_relu, prelu, relu")
