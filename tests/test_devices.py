"""One device and eight compute the same training step."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atgcn_jax import models
from atgcn_jax.runs.config import load_config
from atgcn_jax.training import augment
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.sharding import data_mesh, place, replicated, split
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, loss_and_gradients, make_train_step

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
LABELS, BATCH, FRAMES, BANDS = 6, 16, 48, 64
FAST_COMPILE = {"xla_backend_optimization_level": 0}
FASTER_STEPS = {"xla_backend_optimization_level": 1}


def setting(form, dtype):
  """The paper's AT-GCN and recipe, narrow: mixup, SpecAugment and every dropout are on."""
  config = load_config(
    CONFIGS / "atgcn_audioset.py",
    [
      "--config.model.width=0.03125",
      f"--config.model.dtype={dtype}",
      f"--config.augment.form={form}",
    ],
  )
  assert config.augment.mixup_alpha > 0
  assert config.augment.time_stripes * config.augment.band_stripes > 0
  assert min(config.model.dropout.values()) > 0
  model = models.build(
    config.model,
    num_classes=LABELS,
    propagation=0.6 * np.eye(LABELS) + 0.4 * np.roll(np.eye(LABELS), 1, axis=1),
    label_embeddings=np.random.default_rng(0).standard_normal((LABELS, 5)),
  )
  return config, model


def first_state(config, model):
  shape = jnp.zeros((1, FRAMES, BANDS))
  variables = jax.jit(model.init, compiler_options=FAST_COMPILE)(jax.random.key(0), shape)
  return start_state(variables, optimiser(config.optim))


def batch_of(config, step):
  random = np.random.default_rng(step)
  clips = BATCH * augment.clips_per_example(config.augment)
  return {
    "log_mel": random.standard_normal((clips, FRAMES, BANDS)).astype("f"),
    "labels": random.random((clips, LABELS)) < 0.3,
  }


NORMALISER = Normaliser(np.full(BANDS, 0.3, "f"), np.full(BANDS, 1.7, "f"))


@pytest.mark.parametrize("form", augment.FORMS)
def test_loss_and_gradients_of_a_step(form):
  config, model = setting(form, "float32")
  state = first_state(config, model)
  compute = functools.partial(
    loss_and_gradients, model, normaliser=NORMALISER, augment_config=config.augment, seed=3
  )

  def on(devices):
    mesh = data_mesh(jax.devices()[:devices])
    compiled = jax.jit(
      compute,
      in_shardings=(replicated(mesh), split(mesh)),
      out_shardings=replicated(mesh),
      compiler_options=FAST_COMPILE,
    )
    batch = place(batch_of(config, 0), mesh)
    assert len(batch["log_mel"].sharding.device_set) == devices
    return jax.device_get(compiled(jax.device_put(state, replicated(mesh)), batch))

  (loss, gradients, *one), (loss_8, gradients_8, *eight) = on(1), on(8)
  np.testing.assert_allclose(loss_8, loss, rtol=1e-5)

  # Per tensor: the norm of the difference, relative to that of the tensor. A tensor whose gradient
  # nearly cancels (a scale that the next batch norm undoes) is held to a hundredth of the whole's.
  whole = optax.tree.norm(gradients)

  def close(where, one, eight):
    relative = np.linalg.norm(eight - one) / max(np.linalg.norm(one), whole / 100)
    assert relative < 1e-5, f"{jax.tree_util.keystr(where)}: {relative}"

  jax.tree.map_with_path(close, gradients, gradients_8)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, eight)


def test_twenty_steps_in_float64():
  def train(devices):
    config, model = setting("authors", "float64")
    mesh = data_mesh(jax.devices()[:devices])
    state = jax.device_put(first_state(config, model), replicated(mesh))
    step = make_train_step(
      model,
      optimiser(config.optim),
      mesh,
      normaliser=NORMALISER,
      augment_config=config.augment,
      seed=3,
    )
    batches = [place(batch_of(config, t), mesh) for t in range(20)]
    compiled = step.lower(state, batches[0], 1.0).compile(FASTER_STEPS)
    before = jax.device_get(state.params)
    for batch in batches:
      state, _ = compiled(state, batch, 1.0)
    return before, jax.device_get(state)

  with jax.enable_x64(True):
    (before, one), (_, eight) = train(1), train(8)
  assert one.step == 20
  for start, a, b in zip(*map(jax.tree.leaves, (before, one.params, eight.params))):
    assert a.dtype == np.float64
    assert np.abs(a - start).max() > 1e-4  # it has learnt something
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-9)
  for a, b in zip(*map(jax.tree.leaves, (one.batch_stats, eight.batch_stats))):
    assert a.dtype == np.float64
    np.testing.assert_allclose(b, a, rtol=1e-9)
