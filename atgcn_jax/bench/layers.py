"""Where the time of CNN10's training goes: each convolution alone, and each block whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.bench.steps import BANDS, FRAMES, matrix_product_rate, median_seconds
from atgcn_jax.models.cnn10 import CHANNELS, ConvBlock
from atgcn_jax.models.fast import folded_convolution
from atgcn_jax.models.layers import ONE_CPU, placement_here


def bench_layers(batch: int, steps: int, dtype: str = "float32") -> dict[str, Any]:
  """Time of the parts of CNN10 at full size, each on its own.

  Returns:
    `matrix_product`, the FLOP/s of a large matrix product of this type, and for each part in
    `layers` its `name`, `flops` forward (every multiplication counted), `forward_seconds`,
    `backward_seconds` (both gradients) and its `share` of the matrix product's FLOP/s. A block has
    its batch norms and pooling beside its convolutions.
  """
  peak = matrix_product_rate(dtype)
  layers: list[dict[str, Any]] = []
  height, width, inputs = FRAMES, BANDS, 1
  for i, channels in enumerate(CHANNELS, 1):
    x = jax.random.normal(jax.random.key(0), (batch, height, width, inputs), dtype)
    wide = jax.random.normal(jax.random.key(1), (batch, height, width, channels), dtype)
    flops = [18 * x.size * channels, 18 * wide.size * channels]
    for name, clips, count in (("conv1", x, flops[0]), ("conv2", wide, flops[1])):
      if placement_here() != ONE_CPU:  # there convolutions are not apart from their block
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
  """Seconds of a convolution and of both its gradients."""
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
  """Seconds of a block and of its gradients, as the model has it."""
  block = ConvBlock(channels, x.dtype, placement_here())
  variables = block.init(jax.random.key(3), x[:1], False)

  def forward(params, x):
    y, _ = block.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
    return y

  def both(params, x):
    return jax.grad(lambda *args: forward(*args).astype("float32").sum(), (0, 1))(params, x)

  arguments = variables["params"], x
  alone = median_seconds(jax.jit(forward), arguments, steps)
  whole = median_seconds(jax.jit(both), arguments, steps)
  return {"forward_seconds": alone, "backward_seconds": whole - alone}


def layer_table(result: dict[str, Any]) -> str:
  """The result of `bench_layers` in Markdown."""
  lines = ["| part | GFLOP | forward | backward | of the matrix product |", "|---|---|---|---|---|"]
  for layer in result["layers"]:
    times = [f"{layer[key] * 1e3:.2f} ms" for key in ("forward_seconds", "backward_seconds")]
    cells = [layer["name"], f"{layer['flops'] / 1e9:.2f}", *times, f"{layer['share']:.0%}"]
    lines.append(f"| {' | '.join(cells)} |")
  peak = f"matrix product: {result['matrix_product'] / 1e12:.3f} TFLOP/s, {result['dtype']}"
  return "\n".join([*lines, "", f"batch {result['batch']}, {result['device']}; {peak}"])
