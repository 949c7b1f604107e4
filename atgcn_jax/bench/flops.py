"""FLOPs of models and steps: counted by hand of CNN10, and of anything that can be traced."""

from __future__ import annotations

import itertools
import math
from typing import Any

from jax.extend.core import jaxprs_in_params

from atgcn_jax.models.cnn10 import CHANNELS
from atgcn_jax.models.layers import scaled_channels


def product_flops(jaxpr: Any) -> int:
  """FLOPs of the convolutions and matrix products in a traced function, on all devices together.

  A multiplication and an addition count two, the body of a scan as often as it runs; zeros at the
  edges of a convolution are counted like other inputs.
  """
  total = 0
  for equation in jaxpr.eqns:
    params, shapes = equation.params, [v.aval.shape for v in equation.invars]
    times = params["length"] if equation.primitive.name == "scan" else 1
    if equation.primitive.name == "shard_map":
      times = params["mesh"].size
    total += times * sum(product_flops(inner) for inner in jaxprs_in_params(params))
    size = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "conv_general_dilated":
      _, inputs, *window = params["dimension_numbers"].rhs_spec
      taps = math.prod(shapes[1][axis] for axis in (inputs, *window))
      total += 2 * size * taps // math.prod(params["lhs_dilation"])
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      total += 2 * size * math.prod(shapes[0][axis] for axis in contracted)
  return total


def layer_flops(config: Any, *, frames: int = 400, bands: int = 64, classes: int = 527) -> int:
  """FLOPs of one clip's way forward through the convolutions and products of the encoder and head.

  A multiplication and an addition count two; zeros at the edges are counted like other inputs.
  The label graph's products are not here, since all clips share them: `graph_flops`.

  Args:
    config: a config's `model` section.
  """
  total, inputs, height, width = 0, 1, frames, bands
  for channels in CHANNELS:
    outputs = scaled_channels(channels, config.width)
    total += 2 * height * width * 9 * (inputs + outputs) * outputs
    inputs, height, width = outputs, height // 2, width // 2
  embedding = scaled_channels(512, config.width)
  return total + 2 * inputs * embedding + 2 * embedding * classes


def graph_flops(config: Any, embedding_size: int, *, classes: int = 527) -> int:
  """FLOPs of one way forward through the label graph; none for a linear head.

  Args:
    config: a config's `model` section.
  """
  if config.head != "graph":
    return 0
  sizes = [embedding_size, *[scaled_channels(config.hidden, config.width)] * (config.layers - 1)]
  sizes.append(scaled_channels(512, config.width))
  return sum(2 * classes * b * (a + classes) for a, b in itertools.pairwise(sizes))


def step_flops(config: Any, clips: int, *, classes: int = 527, **sizes: int) -> int:
  """FLOPs of one training step's layers: forward, and twice that backward.

  Args:
    config: a whole config.
  """
  model = config.model
  forward = clips * layer_flops(model, classes=classes, **sizes)
  return 3 * (forward + graph_flops(model, config.graph.embedding_size, classes=classes))
