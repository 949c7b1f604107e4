"""The CPU form of 3x3 convolutions and CNN10 blocks, compared with XLA in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atgcn_jax.models.fast import cpu_block, tiled_convolution
from atgcn_jax.models.fast.cpu_block import Layer, Statistics

EPSILON = {"float32": 1e-5, "float64": 1e-13}
# Clips, height, width, channels in and out: sizes that are and are not multiples of the tile,
# chunks of several clips and of one, one input channel and many.
CASES = [
  ("float64", (4, 20, 16, 1, 16)),
  ("float32", (3, 50, 8, 16, 32)),
  ("float64", (5, 5, 3, 24, 17)),
]


@pytest.fixture(autouse=True)
def wide():
  with jax.enable_x64():
    yield


def normal(*shape, seed, dtype):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def layer(ins, channels, seed, dtype):
  return Layer(
    normal(3, 3, ins, channels, seed=seed, dtype=dtype) / float(np.sqrt(9 * ins)),
    1 + 0.3 * normal(channels, seed=seed + 1, dtype=dtype),
    0.3 * normal(channels, seed=seed + 2, dtype=dtype),
  )


def convolution(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def plain_block(x, first, second, statistics=None):
  found = []
  for i, (kernel, scale, bias) in enumerate((first, second)):
    z = convolution(x, kernel)
    axes = (0, 1, 2)
    mean, variance = statistics[i] if statistics else (z.mean(axes), z.var(axes))
    found.append((mean, variance))
    x = jnp.maximum(0, (z - mean) / jnp.sqrt(variance + 1e-5) * scale + bias)
  B, H, W, C = x.shape
  x = x[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C)
  return x.mean((2, 4)), tuple(found)


def assert_close(actual, expected, dtype):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == dtype
    np.testing.assert_allclose(a, b, rtol=0, atol=EPSILON[dtype] * np.abs(np.asarray(b)).max())


@pytest.mark.parametrize(
  ("dtype", "shape"),
  [
    ("float32", (2, 20, 16, 16, 24)),
    ("float64", (1, 9, 6, 33, 16)),
    ("float64", (3, 4, 4, 16, 16)),
  ],
)
def test_tiled_convolution_equals_xla_convolution(dtype, shape):
  clips, height, width, ins, channels = shape
  x = normal(clips, height, width, ins, seed=0, dtype=dtype)
  kernel = normal(3, 3, ins, channels, seed=1, dtype=dtype)

  @jax.jit
  def tiled(x, kernel):
    return tiled_convolution.tiled_convolve(x, tiled_convolution.kernel_to_points(kernel))

  assert_close(tiled(x, kernel), jax.jit(convolution)(x, kernel), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiled_kernel_gradient_equals_xla_gradient(dtype):
  x, dy = (normal(2, 10, 7, n, seed=n, dtype=dtype) for n in (16, 20))
  kernel = normal(3, 3, 16, 20, seed=1, dtype=dtype)

  @jax.jit
  def both(x, dy):
    tiled = tiled_convolution.points_to_kernel(tiled_convolution.kernel_gradient(x, dy))
    return tiled, jax.vjp(lambda kernel: convolution(x, kernel), kernel)[1](dy)[0]

  assert_close(*both(x, dy), dtype)


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_the_block_and_its_gradients_equal_the_plain_form(dtype, shape, monkeypatch):
  clips, height, width, ins, channels = shape
  monkeypatch.setattr(cpu_block, "CHUNK_BYTES", 2 * 36 * 4 * 8 * 65 * max(ins, channels))
  x = normal(clips, height, width, ins, seed=0, dtype=dtype)
  layers = layer(ins, channels, 1, dtype), layer(channels, channels, 4, dtype)
  dy = normal(clips, height // 2, width // 2, channels, seed=7, dtype=dtype)

  def all_of(block):
    (y, statistics), pull = jax.vjp(block, x, *layers)
    return y, statistics, pull((dy, jax.tree.map(jnp.zeros_like, statistics)))

  actual = jax.jit(lambda: all_of(cpu_block.block))()
  expected = jax.jit(lambda: all_of(plain_block))()
  assert_close(actual, expected, dtype)


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_inference_equals_the_plain_block_with_running_statistics(dtype, shape):
  clips, height, width, ins, channels = shape
  x = normal(clips, height, width, ins, seed=0, dtype=dtype)
  layers = layer(ins, channels, 1, dtype), layer(channels, channels, 4, dtype)
  statistics = [
    Statistics(normal(channels, seed=s, dtype=dtype), normal(channels, seed=s, dtype=dtype) ** 2)
    for s in (8, 9)
  ]

  @jax.jit
  def both(x, layers, statistics):
    actual = cpu_block.infer(x, *map(cpu_block.folded, layers, statistics))
    return actual, plain_block(x, *layers, statistics)[0]

  assert_close(*both(x, layers, statistics), dtype)


def test_clips_do_not_influence_each_other_in_inference():
  x = normal(3, 12, 8, 16, seed=0, dtype="float32")
  layers = [layer(16, 16, seed, "float32") for seed in (1, 4)]
  statistics = Statistics(jnp.zeros(16, "f"), jnp.ones(16, "f"))
  infer = jax.jit(lambda x: cpu_block.infer(x, *(cpu_block.folded(y, statistics) for y in layers)))
  whole = infer(x)
  alone = np.concatenate([infer(x[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(whole, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ("ins", "channels", "suits"), [(1, 16, True), (8, 16, False), (16, 8, False)]
)
def test_only_blocks_with_enough_channels_have_this_form(ins, channels, suits):
  assert cpu_block.suits(ins, channels) == suits
