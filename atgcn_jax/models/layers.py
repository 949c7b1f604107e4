"""What several systems share: where a batch lies, compute types, activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
PORTABLE = Placement(1, "any")  # of programs that run wherever they are loaded
ONNX = Placement(1, "onnx")  # likewise, without what ONNX or its runtimes lack


def placement_here() -> Placement:
  """Where a batch lies if nobody says otherwise: on all devices."""
  return Placement(jax.device_count(), jax.default_backend())


def groups_of(batch_norm: str, placement: Placement | None) -> int:
  """Into how many runs of clips, each with batch statistics of its own, a batch falls.

  Args:
    batch_norm: `global`, or `local` for one a device.
    placement: of the batch; by default it lies on all devices.
  """
  return (placement or placement_here()).devices if batch_norm == "local" else 1


def scaled_channels(channels: int, width: float) -> int:
  """The number of channels at this width multiplier, at least one."""
  return max(1, round(channels * width))


def constant(module: nn.Module, name: str, compute: Callable[[], Any]) -> Any:
  """What inference needs of the parameters alone: computed, or taken from where it is kept.

  It is kept in the collection `constants` if that is given; see `models.with_constants`.
  """
  if module.has_variable("constants", name):
    return module.get_variable("constants", name)
  value = compute()
  if module.is_mutable_collection("constants") and not module.is_initializing():
    module.put_variable("constants", name, value)
  return value


class Dropout(nn.Module):
  """Dropout from 16 random bits an element, so that one draw of 32 serves two.

  The share that is kept is rounded to 1/65536; what is kept is divided by that very share.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Returns x, some of it set to zero in training (needs an rng `dropout`)."""
    kept = round((1 - self.rate) * 2**16)
    if not train or kept == 2**16:
      return x
    if not kept:
      return jnp.zeros_like(x)
    # Halved along the second axis: on a TPU half the channels would fill no tile.
    size = x.shape[1]
    words = jax.random.bits(self.make_rng("dropout"), (len(x), -(-size // 2), *x.shape[2:]))
    bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :size]
    return jnp.where(bits < kept, x * (2**16 / kept), 0)


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
