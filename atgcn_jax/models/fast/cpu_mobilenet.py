"""Inference of MobileNetV3 in a form for one CPU.

Batch norms are folded into the convolutions. Each clip passes through all layers while it is in the
cache.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.models.fast.shifted_convolution import convolve

Array = jax.Array
AT_ONCE = 2  # clips at a time; the layers of a single clip are too small for several cores


def folded_layers(params: Any, statistics: Any, epsilon: float) -> Any:
  """Return the parameters with each convolution and its batch norm as `kernel` and `shift`.

  Args:
    params: Parameters of the encoder or of a part of it.
    statistics: The running statistics of the same part.
    epsilon: The term that is added to the variances.
  """
  if "conv" in params:
    norm, running = params["bn"], statistics["bn"]
    factor = norm["scale"] * jax.lax.rsqrt(running["var"] + epsilon)
    shift = norm["bias"] - running["mean"] * factor
    return {"kernel": params["conv"]["kernel"] * factor, "shift": shift}
  return {
    name: folded_layers(part, statistics.get(name, {}), epsilon) if isinstance(part, dict) else part
    for name, part in params.items()
  }


def infer_pooled(layers: Any, x_BxTxF: Array, stages: Sequence[Any]) -> Array:
  """Return the mean of the last convolution over frames and bands, [B, C].

  Args:
    layers: The result of `folded_layers` for the encoder.
    x_BxTxF: Normalised log-mels.
    stages: The inverted residuals, as `mobilenet.STAGES`.
  """
  clips, stages = len(x_BxTxF), tuple(stages)
  if clips == 1:
    return _infer_clip(layers, x_BxTxF[0], stages)[None]
  size = AT_ONCE if clips % AT_ONCE == 0 else 1
  some = x_BxTxF.reshape(-1, size, *x_BxTxF.shape[1:])
  found = jax.lax.map(lambda clips: [_infer_clip(layers, clip, stages) for clip in clips], some)
  return jnp.stack(found, axis=1).reshape(clips, -1)


# Tracing the layers takes a third of a second. Jitted, they are traced once for all programs.
@functools.partial(jax.jit, static_argnames="stages")
def _infer_clip(layers: Any, x_TxF: Array, stages: tuple[Any, ...]) -> Array:
  """Return the result of `infer_pooled` for a clip, [C]."""
  x = jax.nn.hard_swish(_convolved(layers["stem"], x_TxF[None, :, :, None], 2))
  for i, stage in enumerate(stages, 1):
    x = _block(layers[f"block{i}"], x, stage)
  return jax.nn.hard_swish(_convolved(layers["last"], x)).mean(axis=(0, 1, 2))


def _block(layers: Any, x: Array, stage: Any) -> Array:
  """Return the result of an inverted residual."""
  y = x
  if "expand" in layers:
    y = stage.activation(_convolved(layers["expand"], y))
  y = stage.activation(_convolved(layers["depthwise"], y, stage.stride))
  if stage.squeezed:
    hidden = jax.nn.relu(_dense(layers["squeeze"]["fc1"], y.mean(axis=(1, 2))))
    y *= jax.nn.sigmoid(_dense(layers["squeeze"]["fc2"], hidden))[:, None, None]
  y = _convolved(layers["project"], y)
  return x + y if x.shape == y.shape else y


def _convolved(layer: Any, x: Array, stride: int = 1) -> Array:
  return convolve(x, layer["kernel"], stride) + layer["shift"]


def _dense(layer: Any, x: Array) -> Array:
  return x @ layer["kernel"] + layer["bias"]
