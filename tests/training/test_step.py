"""Training step and scoring step on a small fixed batch."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from marks import slow
from narrow_system import norm

from atgcn_jax import models
from atgcn_jax.audio.quantisation import RANGE_DB
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.losses import binary_cross_entropy
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.sharding import data_mesh, place, replicated
from atgcn_jax.training.state import initial_state, start_state
from atgcn_jax.training.step import (
  Normaliser,
  make_score_step,
  make_train_step,
  normalised_log_mel,
)

LABELS, BATCH, FRAMES, BANDS = 6, 8, 32, 16
FAST_COMPILE = {"xla_backend_optimization_level": 0}
NORMALISER = Normaliser(np.full(BANDS, -40.0, "f"), np.linspace(10, 20, BANDS, dtype="f"))


def model_of(encoder="vectors", **changes):
  """Return a system with a label graph, by default of an encoder that compiles quickly."""
  small = {"encoder": encoder, "clip_units": (1024,), "width": 1 / 32}
  config = ml_collections.ConfigDict(DEFAULTS["model"] | small | changes)
  ring = 0.6 * np.eye(LABELS) + 0.4 * np.roll(np.eye(LABELS), 1, axis=1)
  vectors = np.random.default_rng(0).standard_normal((LABELS, 5))
  return models.build(config, num_classes=LABELS, propagation=ring, label_embeddings=vectors)


def fresh_state(model, learning_rate):
  """Return the state at step 0 and its optimiser."""
  adam = optimiser(optax.constant_schedule(learning_rate))
  compiled = jax.jit(
    lambda: initial_state(model, adam, 0, (FRAMES, BANDS)), compiler_options=FAST_COMPILE
  )
  return compiled(), adam


def float_batch():
  random = np.random.default_rng(1)
  log_mel = random.uniform(-70, -10, (BATCH, FRAMES, BANDS)).astype("f")
  return {"log_mel": log_mel, "labels": random.random((BATCH, LABELS)) < 0.3}


def byte_batch():
  """Return the same clips in the uint8 format of a store: 255 steps below each clip's peak."""
  batch = float_batch()
  peak = batch["log_mel"].max(axis=(1, 2))
  below = (batch["log_mel"] - peak[:, None, None] + RANGE_DB) / RANGE_DB
  return batch | {"log_mel": np.round(255 * below).astype(np.uint8), "peak_db": peak}


def compiled_step(model, adam, state, batch, augmented):
  """Return the training step over all devices, and its arguments placed on them."""
  mesh = data_mesh()
  step = make_train_step(model, adam, mesh, normaliser=NORMALISER, augmentation=augmented, seed=0)
  state, batch = jax.device_put(state, replicated(mesh)), place(batch, mesh)
  return step.lower(state, batch, 1.0).compile(FAST_COMPILE), state, batch


@pytest.fixture(scope="module")
def plain():
  """Return a deterministic step: (compiled step, function that creates its state, batch)."""
  model = model_of(dropout={"block": 0.0, "pooled": 0.0, "embedding": 0.0})
  start, adam = fresh_state(model, 1e-2)
  kept = jax.device_get(start)
  step, _, batch = compiled_step(model, adam, start, float_batch(), Augmentation())
  return step, lambda: jax.device_put(kept, replicated(data_mesh())), batch


def test_loss_falls_on_a_fixed_batch(plain):
  step, start, batch = plain
  state, losses = start(), []
  for _ in range(40):
    state, measured = step(state, batch, 1.0)
    losses.append(float(measured["loss"]))
  assert losses[0] == pytest.approx(np.log(2), abs=0.05)
  assert losses[-1] < 0.5 * losses[0]
  assert int(state.step) == 40


def test_the_state_is_donated_and_the_batch_is_not(plain):
  step, start, batch = plain
  state = start()
  new_state, _ = step(state, batch, 1.0)
  assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.batch_stats)))
  assert not any(x.is_deleted() for x in jax.tree.leaves((new_state, batch)))
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(new_state))


def test_rate_factor_multiplies_the_update(plain):
  step, start, batch = plain
  before = jax.device_get(start().params)
  moved = {}
  for factor in (0.0, 0.5, 1.0):
    state, measured = step(start(), batch, factor)
    moved[factor] = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    assert int(state.step) == 1
    assert measured["gradient_norm"] > 0
  assert all((x == 0).all() for x in jax.tree.leaves(moved[0.0]))
  # Adam's first update has the size of the learning rate.
  largest = max(np.abs(x).max() for x in jax.tree.leaves(moved[1.0]))
  assert largest == pytest.approx(1e-2, rel=1e-3)
  jax.tree.map(
    lambda half, whole: np.testing.assert_allclose(2 * half, whole, atol=1e-6),
    moved[0.5],
    moved[1.0],
  )


def test_loss_and_gradient_norm_of_the_batch(plain):
  step, start, batch = plain
  model = model_of(dropout={"block": 0.0, "pooled": 0.0, "embedding": 0.0})
  state = jax.device_get(start())
  after, measured = step(start(), batch, 1.0)
  apply = jax.jit(
    lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"])[0],
    compiler_options=FAST_COMPILE,
  )
  log_mel = (float_batch()["log_mel"] + 40) / NORMALISER.deviation
  logits = apply(state.variables, log_mel)
  scores, labels = 1 / (1 + np.exp(-np.float64(logits))), float_batch()["labels"]
  by_hand = -np.where(labels, np.log(scores), np.log(1 - scores)).mean()
  assert float(measured["loss"]) == pytest.approx(by_hand, rel=1e-5)
  assert float(binary_cross_entropy(logits, labels)) == pytest.approx(by_hand, rel=1e-5)
  # Adam's first moment is 0.1 times the first gradient.
  moment = norm(optax.tree.get(after.opt_state, "mu"))
  assert float(measured["gradient_norm"]) == pytest.approx(10 * moment, rel=1e-4)


@pytest.mark.parametrize("encoder", ["vectors", slow("cnn10")])
def test_bfloat16_from_bytes_with_everything_on(encoder):
  model = model_of(encoder, dtype="bfloat16")
  state, adam = fresh_state(model, 1e-3)
  step, state, batch = compiled_step(
    model, adam, state, byte_batch(), Augmentation("authors", 0.2, 2, 8, 2, 4)
  )
  losses = []
  for _ in range(5):
    state, measured = step(state, batch, 1.0)
    losses.append(float(measured["loss"]))
  assert np.isfinite(losses).all()
  assert len(set(losses)) == 5  # different random numbers at every step
  leaves = jax.tree.leaves(state.variables)
  assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
  assert all(np.isfinite(x).all() for x in leaves)


def test_bytes_decode_within_half_a_step():
  normalised = jax.jit(lambda batch: normalised_log_mel(batch, NORMALISER))
  exact, coarse = (normalised(batch) for batch in (float_batch(), byte_batch()))
  assert coarse.dtype == jnp.float32
  difference = np.abs(np.asarray(exact) - np.asarray(coarse)) * NORMALISER.deviation
  assert 0.1 < difference.max() <= 0.16  # dB
  expected = (float_batch()["log_mel"] + 40) / NORMALISER.deviation
  np.testing.assert_allclose(exact, expected, rtol=1e-5, atol=1e-6)


def test_scores_are_sigmoids_of_the_logits():
  model = model_of("cnn10")
  random = np.random.default_rng(2)
  variables = jax.tree.map(
    lambda x: (1 + random.random(x.shape)) / np.prod(x.shape[:-1]),
    jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, FRAMES, BANDS)))),
  )
  mesh = data_mesh()
  score = make_score_step(model, mesh, normaliser=NORMALISER)
  clips = {name: x for name, x in byte_batch().items() if name != "labels"}
  scores = score(jax.device_put(variables, replicated(mesh)), place(clips, mesh))
  assert scores.shape == (BATCH, LABELS)
  assert len(scores.sharding.device_set) == 8
  assert not scores.is_fully_replicated
  logits = jax.jit(
    lambda variables, clips: model.apply(variables, normalised_log_mel(clips, NORMALISER))
  )(variables, clips)
  assert 0.1 < np.abs(logits).max() < 15
  np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.float64(logits))), rtol=1e-4, atol=1e-7)


def test_initial_state_depends_on_the_seed():
  model = model_of()
  adam = optimiser(optax.constant_schedule(1e-3))
  make = jax.jit(
    lambda seed: initial_state(model, adam, seed, (FRAMES, BANDS)), compiler_options=FAST_COMPILE
  )
  first, again, other = make(0), make(0), make(1)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kernel = ("encoder", "clip1", "kernel")
  a, b = (np.asarray(_at(state.params, kernel)) for state in (first, other))
  assert np.abs(a - b).max() > 0.1
  assert int(first.step) == 0
  restarted = jax.jit(lambda variables: start_state(variables, adam))(first.variables)
  jax.tree.map(np.testing.assert_array_equal, first, restarted)


def _at(tree, path):
  for key in path:
    tree = tree[key]
  return tree
