"""Benchmark of the parts of CNN10: each convolution, and each block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.bench.steps import BANDS, FRAMES, matrix_product_rate, median_seconds
from atgcn_jax.models.cnn10 import CHANNELS, ConvBlock
from atgcn_jax.models.fast import folded_convolution
from atgcn_jax.models.layers import ONE_CPU, placement_here


def bench_layers(batch: int, steps: int, dtype: str = "float32") -> dict[str, Any]:
  """Measure each part of CNN10 at full size separately.

  Args:
    batch: Clips per batch.
    steps: Number of timings; the result has the medians.
    dtype: Compute type, `float32` or `bfloat16`.

  Returns:
    `matrix_product`, the FLOP/s of a large matrix product of this type, and for each part in
    `layers` its `name`, `flops` of the forward pass, `forward_seconds`, `backward_seconds` (both
    gradients), and its `share` of the matrix product's FLOP/s. A block includes its batch norms and
    its pooling.
  """
  peak = matrix_product_rate(dtype)
  layers: list[dict[str, Any]] = []
  height, width, inputs = FRAMES, BANDS, 1
  for i, channels in enumerate(CHANNELS, 1):
    x = jax.random.normal(jax.random.key(0), (batch, height, width, inputs), dtype)
    wide = jax.random.normal(jax.random.key(1), (batch, height, width, channels), dtype)
    flops = [18 * x.size * channels, 18 * wide.size * channels]
    for name, clips, count in (("conv1", x, flops[0]), ("conv2", wide, flops[1])):
      if placement_here() != ONE_CPU:  # on one CPU, convolutions are fused into their block
        layers.append(
          {"name": f"conv_block{i}.{name}", "flops": count, **_convolution(clips, channels, steps)}
        )
    layers.append({"name": f"conv_block{i}", "flops": sum(flops), **_block(x, channels, steps)})
    height, width, inputs = height // 2, width // 2, channels
  for layer in layers:
    seconds = layer["forward_seconds"] + layer["backward_seconds"]
    layer["share"] = 3 * layer["flops"] / seconds / peak
  return {
    "what": "layers",
    "batch": batch,
    "dtype": dtype,
    "device": jax.devices()[0].device_kind,
    "matrix_product": peak,
    "layers": layers,
  }


def _convolution(x, channels: int, steps: int) -> dict[str, float]:
  """Measure a convolution and its two gradients."""
  kernel = jax.random.normal(jax.random.key(2), (3, 3, x.shape[-1], channels), x.dtype)

  def backward(x, kernel, dy):
    return jax.vjp(folded_convolution.folded_convolve, x, kernel)[1](dy)

  dy = jnp.ones((*x.shape[:-1], channels), x.dtype)
  return {
    "forward_seconds": median_seconds(
      jax.jit(folded_convolution.folded_convolve), (x, kernel), steps
    ),
    "backward_seconds": median_seconds(jax.jit(backward), (x, kernel, dy), steps),
  }


def _block(x, channels: int, steps: int) -> dict[str, float]:
  """Measure a block of the model and its gradients."""
  block = ConvBlock(channels, x.dtype, placement_here())
  variables = block.init(jax.random.key(3), x[:1], False)

  def forward(params, x):
    y, _ = block.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    return y

  def both(params, x):
    return jax.grad(lambda *args: forward(*args).astype("float32").sum(), (0, 1))(params, x)

  arguments = variables["params"], x
  forward_seconds = median_seconds(jax.jit(forward), arguments, steps)
  both_seconds = median_seconds(jax.jit(both), arguments, steps)
  return {
    "forward_seconds": forward_seconds,
    "backward_seconds": both_seconds - forward_seconds,
  }


def layer_table(result: dict[str, Any]) -> str:
  """Return the result of `bench_layers` as a Markdown table."""
  lines = ["| part | GFLOP | forward | backward | of the matrix product |", "|---|---|---|---|---|"]
  for layer in result["layers"]:
    times = [f"{layer[key] * 1e3:.2f} ms" for key in ("forward_seconds", "backward_seconds")]
    cells = [layer["name"], f"{layer['flops'] / 1e9:.2f}", *times, f"{layer['share']:.0%}"]
    lines.append(f"| {' | '.join(cells)} |")
  peak = f"matrix product: {result['matrix_product'] / 1e12:.3f} TFLOP/s, {result['dtype']}"
  return "\n".join([*lines, "", f"batch {result['batch']}, {result['device']}; {peak}"])
