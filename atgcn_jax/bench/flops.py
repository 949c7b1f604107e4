"""FLOPs of models and steps: by formula for CNN10, and of any function that can be traced."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from atgcn_jax.models.cnn10 import CHANNELS
from atgcn_jax.models.layers import PORTABLE, scaled_channels


def product_flops(jaxpr: Any) -> int:
  """Return the FLOPs of the convolutions and matrix products in a traced function.

  The result is the sum over all devices. A multiplication with its addition counts as two. The body
  of a scan counts once per iteration. Zero padding of convolutions counts like other inputs.
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


def forward_flops(model: nn.Module, variables: Any, log_mel_shape: tuple[int, int]) -> int:
  """Return the FLOPs of the forward pass of one clip in the form for any platform.

  Args:
    model: The module.
    variables: Its variables.
    log_mel_shape: The numbers of frames and bands of a clip.
  """
  clip = jnp.zeros((1, *log_mel_shape))
  traced = jax.make_jaxpr(lambda variables: model.apply(variables, clip, placement=PORTABLE))
  return product_flops(traced(variables).jaxpr)


def layer_flops(model: Any, *, frames: int = 400, bands: int = 64, classes: int = 527) -> int:
  """Return the FLOPs of the forward pass of one clip through the encoder and head of CNN10.

  Convolutions and matrix products are counted. A multiplication with its addition counts as two.
  Zero padding counts like other inputs. The products of the label graph are not included, because
  all clips share them: see `graph_flops`.

  Args:
    model: The `model` section of a config.
    frames: Number of frames in a clip.
    bands: Number of mel bands.
    classes: Number of labels.
  """
  total, inputs, height, width = 0, 1, frames, bands
  for channels in CHANNELS:
    outputs = scaled_channels(channels, model.width)
    total += 2 * height * width * 9 * (inputs + outputs) * outputs
    inputs, height, width = outputs, height // 2, width // 2
  embedding = scaled_channels(512, model.width)
  return total + 2 * inputs * embedding + 2 * embedding * classes


def graph_flops(model: Any, embedding_size: int, *, classes: int = 527) -> int:
  """Return the FLOPs of one forward pass through the label graph; 0 for a linear head.

  Args:
    model: The `model` section of a config.
    embedding_size: Length of the label embeddings.
    classes: Number of labels.
  """
  if model.head != "graph":
    return 0
  sizes = [embedding_size, *[scaled_channels(model.hidden, model.width)] * (model.layers - 1)]
  sizes.append(scaled_channels(512, model.width))
  return sum(2 * classes * b * (a + classes) for a, b in itertools.pairwise(sizes))


def step_flops(
  model: Any, embedding_size: int, clips: int, *, classes: int = 527, **sizes: int
) -> int:
  """Return the FLOPs of one training step, counting the backward pass as two forward passes.

  Args:
    model: The `model` section of a config.
    embedding_size: Length of the label embeddings.
    clips: Clips per step.
    classes: Number of labels.
    **sizes: `frames` and `bands`, as for `layer_flops`.
  """
  forward = clips * layer_flops(model, classes=classes, **sizes)
  return 3 * (forward + graph_flops(model, embedding_size, classes=classes))
