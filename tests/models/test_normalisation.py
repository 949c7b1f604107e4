"""Batch norm compared with flax.linen, and separate statistics on each device."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax import linen as nn

from atgcn_jax import models
from atgcn_jax.models.cnn10 import ConvBlock
from atgcn_jax.models.layers import Placement
from atgcn_jax.models.normalisation import BatchNorm
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.runs.parts import optimiser_of
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.sharding import data_mesh, place, replicated, split
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, loss_and_gradients, make_train_step

FAST_COMPILE = {"xla_backend_optimization_level": 0}
LABELS, BATCH, FRAMES, BANDS = 5, 16, 16, 16
X = np.random.default_rng(0).normal(1.5, 2, (8, 5, 3)).astype("f")
WEIGHTS = {"scale": np.array([0.5, 1.5, -2.0], "f"), "bias": np.array([0.1, -0.3, 0.2], "f")}
RUNNING = {"mean": np.array([1.0, 2.0, 3.0], "f"), "var": np.array([0.5, 2.0, 4.0], "f")}


def compute(module, x, train, weights=WEIGHTS):
  """Return the output, the new running statistics, and the gradients of x and the weights."""

  def total(x, weights):
    variables = {"params": weights, "batch_stats": RUNNING}
    y, new = module.apply(variables, x, mutable=["batch_stats"], **train)
    return jnp.sin(y.astype(jnp.float32)).sum(), (y, new["batch_stats"])

  compute = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (_, (y, new)), gradients = compute(x, weights)
  return jax.tree.map(np.asarray, (y, dict(new), gradients))


def linen(train, dtype):
  return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", [True, False])
def test_values_and_gradients_agree_with_linen(train, dtype):
  dtype = jnp.dtype(dtype)
  ours = compute(BatchNorm(3, dtype), X.astype(dtype), {"train": train})
  theirs = compute(linen(train, dtype), X.astype(dtype), {})
  assert ours[0].dtype == dtype
  assert {leaf.dtype for leaf in jax.tree.leaves(ours[1])} == {np.dtype("float32")}
  tolerance = 1e-5 if dtype == "float32" else 3e-2
  close = functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
  jax.tree.map(lambda a, b: close(np.float32(a), np.float32(b)), ours, theirs)


def test_one_clip_at_a_time_gives_the_same():
  """Compare the form for one CPU with the plain form."""
  by_clip, plain = (
    compute(BatchNorm(3, after=nn.hard_swish, by_clip=form), X, {"train": True})
    for form in (True, False)
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, by_clip, plain)


def test_each_group_has_its_own_statistics():
  y, new, (of_x, of_weights) = compute(BatchNorm(3, groups=4), X, {"train": True})
  parts = [compute(BatchNorm(3), X[i : i + 2], {"train": True}) for i in range(0, 8, 2)]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  close(y, np.concatenate([part[0] for part in parts]))
  close(of_x, np.concatenate([part[2][0] for part in parts]))
  jax.tree.map(lambda a, *b: close(a, sum(b)), of_weights, *(part[2][1] for part in parts))
  jax.tree.map(lambda a, *b: close(a, sum(b) / 4), new, *(part[1] for part in parts))
  assert np.abs(y - compute(BatchNorm(3), X, {"train": True})[0]).max() > 0.1


class PlainBlock(nn.Module):
  """ConvBlock from flax.linen layers, without rematerialisation."""

  channels: int

  @nn.compact
  def __call__(self, x, train):
    for i in (1, 2):
      x = nn.Conv(self.channels, (3, 3), use_bias=False, name=f"conv{i}")(x)
      norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"bn{i}")
      x = nn.relu(norm(x))
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_block_agrees_with_one_from_linen_layers(inputs):
  block = ConvBlock(4, jnp.dtype("float32"), Placement(8, "cpu"))
  x = np.random.default_rng(1).standard_normal((4, 8, 6, inputs)).astype("f")
  variables = jax.jit(block.init, static_argnums=2)(jax.random.key(0), x, False)
  shapes = jax.eval_shape(lambda x: PlainBlock(4).init(jax.random.key(0), x, False), x)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

  def of(block):
    def total(params, x):
      v = {"params": params, "batch_stats": variables["batch_stats"]}
      y, new = block.apply(v, x, True, mutable=["batch_stats"])
      return jnp.sin(y).sum(), (y, new)

    compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return compiled(variables["params"], x)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    of(block),
    of(PlainBlock(4)),
  )


def model_of(batch_norm, dropout):
  section = DEFAULTS["model"] | {"width": 1 / 32, "batch_norm": batch_norm}
  section["dropout"] = dict.fromkeys(("block", "pooled", "embedding"), dropout)
  return models.build(
    ml_collections.ConfigDict(section),
    num_classes=LABELS,
    propagation=0.6 * np.eye(LABELS) + 0.4 * np.roll(np.eye(LABELS), 1, axis=1),
    label_embeddings=np.random.default_rng(0).standard_normal((LABELS, 5)),
  )


CONFIG = load_config(pathlib.Path(__file__).parents[2] / "configs" / "atgcn_audioset.py")
PLAIN, AUGMENTED = Augmentation(), Augmentation(**CONFIG.augment)
NORMALISER = Normaliser(np.zeros(BANDS, "f"), np.ones(BANDS, "f"))


@pytest.fixture(scope="module")
def state():
  init = jax.jit(model_of("global", 0.0).init, compiler_options=FAST_COMPILE)
  variables = init(jax.random.key(0), jnp.zeros((1, FRAMES, BANDS)))
  return jax.device_get(start_state(variables, optimiser_of(CONFIG.optim)))


def batch():
  random = np.random.default_rng(3)
  log_mel = random.standard_normal((BATCH, FRAMES, BANDS)) * random.uniform(0.5, 2, (BATCH, 1, 1))
  return {"log_mel": log_mel.astype("f"), "labels": random.random((BATCH, LABELS)) < 0.4}


def loss_and_more(state, clips, devices, batch_norm, dropout=0.0, augmentation=PLAIN):
  """Return the loss, gradients and batch statistics of one step on `devices` devices."""
  mesh = data_mesh(jax.devices()[:devices])
  compute = functools.partial(
    loss_and_gradients,
    model_of(batch_norm, dropout),
    normaliser=NORMALISER,
    augmentation=augmentation,
    seed=3,
    placement=Placement(devices, "cpu"),
  )
  compiled = jax.jit(
    compute,
    in_shardings=(replicated(mesh), split(mesh)),
    out_shardings=replicated(mesh),
    compiler_options=FAST_COMPILE,
  )
  return jax.device_get(compiled(jax.device_put(state, replicated(mesh)), place(clips, mesh)))


@pytest.fixture(scope="module")
def with_chance(state):
  """Return steps with dropout and augmentation, by number of devices and kind of batch norm."""
  return {
    key: loss_and_more(state, batch(), *key, dropout=0.3, augmentation=AUGMENTED)
    for key in ((1, "global"), (1, "local"), (8, "local"))
  }


@pytest.mark.slow
def test_on_one_device_local_is_global(with_chance):
  jax.tree.map(np.testing.assert_array_equal, with_chance[1, "local"], with_chance[1, "global"])


@pytest.mark.slow
def test_local_draws_the_same_random_numbers(with_chance):
  (_, _, one), (loss, _, eight) = with_chance[1, "global"], with_chance[8, "local"]
  # The input of the first batch norm depends on mixup and SpecAugment. The mean of the means over
  # devices is the mean over the batch.
  means = [stats["encoder"]["bn0"]["mean"] for stats in (one, eight)]
  np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-7)
  deviations = [stats["encoder"]["bn0"]["var"] for stats in (one, eight)]
  assert np.abs(deviations[0] - deviations[1]).max() > 1e-3
  assert np.isfinite(loss)


@pytest.mark.slow
def test_local_on_eight_devices_is_the_mean_of_eight_batches(state):
  whole = loss_and_more(state, batch(), 8, "local")
  size = BATCH // 8
  parts = [
    loss_and_more(state, {name: x[i : i + size] for name, x in batch().items()}, 1, "global")
    for i in range(0, BATCH, size)
  ]
  mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *parts)
  norm = optax.tree.norm(mean[1])

  def close(a, b):
    assert np.linalg.norm(a - b) < 1e-5 * max(np.linalg.norm(b), norm / 100)

  jax.tree.map(close, whole[1], mean[1])
  np.testing.assert_allclose(whole[0], mean[0], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), whole[2], mean[2]
  )


@pytest.mark.slow
def test_the_training_step_passes_the_placement_to_the_model(state):
  mesh = data_mesh()
  step = make_train_step(
    model_of("local", 0.0),
    optimiser_of(CONFIG.optim),
    mesh,
    normaliser=NORMALISER,
    augmentation=PLAIN,
    seed=3,
  )
  start = jax.device_put(state, replicated(mesh))
  placed = place(batch(), mesh)
  after, _ = step.lower(start, placed, 1.0).compile(FAST_COMPILE)(start, placed, 1.0)
  parts = batch()["log_mel"].reshape(8, -1, BANDS)
  of_parts, of_all = parts.var(axis=1).mean(axis=0), parts.var(axis=(0, 1))
  found = np.asarray(after.batch_stats["encoder"]["bn0"]["var"])
  np.testing.assert_allclose(found, 0.9 + 0.1 * of_parts, rtol=1e-5)
  assert np.abs(of_parts - of_all).max() > 0.01


def test_scoring_does_not_depend_on_devices(state):
  logits = [
    jax.jit(model_of(kind, 0.3).apply)(state.variables, batch()["log_mel"])
    for kind in models.BATCH_NORMS
  ]
  np.testing.assert_array_equal(*logits)
