"""Shared parts of the systems: batch placement, compute types, dropout and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = jax.Array
# A training transform of the spectrogram, before or after the first batch norm.
SpectrogramTransform = Callable[[Array], Array]


class Placement(NamedTuple):
  """The placement of a batch: equal runs of clips on `devices` of a `platform` (`cpu`, `tpu` …)."""

  devices: int
  platform: str


ONE_CPU = Placement(1, "cpu")
PORTABLE = Placement(1, "any")  # for programs that run on any platform
ONNX = Placement(1, "onnx")  # as PORTABLE, without operations that ONNX or its runtimes lack


def placement_here() -> Placement:
  """Return the default placement of a batch: on all devices."""
  return Placement(jax.device_count(), jax.default_backend())


def groups_of(batch_norm: str, placement: Placement | None) -> int:
  """Return the number of groups of clips with separate batch statistics.

  Args:
    batch_norm: `global` for one group, `local` for one group per device.
    placement: Placement of the batch. By default it is on all devices.
  """
  return (placement or placement_here()).devices if batch_norm == "local" else 1


def scaled_channels(channels: int, width: float) -> int:
  """Return the number of channels times the width multiplier, rounded, at least one."""
  return max(1, round(channels * width))


def constant(module: nn.Module, name: str, compute: Callable[[], Any]) -> Any:
  """Return a value that depends only on the parameters: stored, or else computed.

  The value is read from the collection `constants` if it is there. Otherwise it is computed, and
  stored if the collection is mutable; see `models.with_constants`.

  Args:
    module: The module of the variable.
    name: The name of the variable.
    compute: Computes the value.
  """
  if module.has_variable("constants", name):
    return module.get_variable("constants", name)
  value = compute()
  if module.is_mutable_collection("constants") and not module.is_initializing():
    module.put_variable("constants", name, value)
  return value


class Dropout(nn.Module):
  """Dropout with 16 random bits per element, so that one draw of 32 bits serves two elements.

  The share of elements to keep is rounded to 1/65536. The remaining elements are divided by the
  rounded share.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """Return x, in training with random elements set to zero (needs an rng `dropout`)."""
    keep = round((1 - self.rate) * 2**16)
    if not train or keep == 2**16:
      return x
    if not keep:
      return jnp.zeros_like(x)
    # The draws are halved along the second axis: on a TPU, half of the channels may not fill a
    # tile.
    size = x.shape[1]
    words = jax.random.bits(self.make_rng("dropout"), (len(x), -(-size // 2), *x.shape[2:]))
    bits = jnp.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :size]
    return jnp.where(bits < keep, x * (2**16 / keep), 0)


def parameter_dtype(dtype: jnp.dtype) -> jnp.dtype:
  """Return the type of the parameters: float32, or float64 if the compute type is float64."""
  return jnp.promote_types(jnp.float32, dtype)


def activation(kind: str, negative_slope: float, dtype: jnp.dtype) -> Callable[[Array], Array]:
  """Return the activation h of Eq. 1.

  Args:
    kind: `leaky_relu` (fixed slope), `prelu` (trained slope) or `relu`.
    negative_slope: The slope below zero; for `prelu` its initial value. Ignored by `relu`.
    dtype: The compute type of `prelu`.

  Raises:
    ValueError: The kind is unknown.

  Source:
    Wang et al., IEEE SPL 2020, Section IV-B (PReLU with slope 0.2).
  """
  if kind == "leaky_relu":
    return lambda x: nn.leaky_relu(x, negative_slope)
  if kind == "prelu":
    return nn.PReLU(negative_slope_init=negative_slope, param_dtype=parameter_dtype(dtype))
  if kind == "relu":
    return nn.relu
  raise ValueError(f"model.activation must be one of leaky_relu, prelu, relu, got {kind!r}")


def maximum(x_BxTxC: Array) -> Array:
  """Return the maximum over time [B, C], whose gradient goes to its first frame.

  The gradient of `x.max` compares the maximum with x. Where XLA computes x a second time and rounds
  it otherwise, no element is equal, and the gradient is 0 / 0.
  """
  first = x_BxTxC.argmax(axis=1)[:, None]
  return jnp.where(jnp.arange(x_BxTxC.shape[1])[:, None] == first, x_BxTxC, 0).sum(axis=1)
