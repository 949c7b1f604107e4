"""What several systems share: where a batch lies, compute types, activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
# What training does to the spectrogram before or behind the first batch norm.
SpectrogramTransform = Callable[[Array], Array]


class Placement(NamedTuple):
  """Where a batch lies: equal runs of clips on so many devices of a platform (`cpu`, `tpu` …)."""

  devices: int
  platform: str


ONE_CPU = Placement(1, "cpu")


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
