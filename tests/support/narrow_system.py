"""A narrow AT-GCN with all random parts enabled, to compare training steps between layouts."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from atgcn_jax import models
from atgcn_jax.data.pipeline import Share
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.parts import optimiser_of
from atgcn_jax.training.augment import Augmentation, clips_per_example
from atgcn_jax.training.sharding import Layout, place, replicate, where_kept
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, make_train_step

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
LABELS, BATCH, FRAMES, BANDS = 6, 16, 48, 64
NORMALISER = Normaliser(np.full(BANDS, 0.3, "f"), np.full(BANDS, 1.7, "f"))
FAST_COMPILE = {"xla_backend_optimization_level": 0}
FASTER_STEPS = {"xla_backend_optimization_level": 1}

# An optimiser that stores the last gradients in its state and does not change the parameters.
RECORDER = optax.GradientTransformation(
  lambda params: jax.tree.map(jnp.zeros_like, params),
  lambda gradients, state, params=None: (jax.tree.map(jnp.zeros_like, gradients), gradients),
)


def setting(form: str, dtype: str, head: str = "graph") -> Any:
  """Return a config and a model, with mixup, SpecAugment and all dropouts enabled."""
  config = load_config(
    CONFIGS / "atgcn_audioset.py",
    [
      "--config.model.width=0.03125",
      f"--config.model.dtype={dtype}",
      f"--config.augment.form={form}",
      f"--config.model.head={head}",
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


def batch_of(config: Any, step: int) -> dict[str, np.ndarray]:
  """Return the slice of a random batch for this process."""
  random = np.random.default_rng(step)
  clips = BATCH * clips_per_example(Augmentation(**config.augment))
  batch = {
    "log_mel": random.standard_normal((clips, FRAMES, BANDS)).astype("f"),
    "labels": random.random((clips, LABELS)) < 0.3,
  }
  share = Share(jax.process_index(), jax.process_count())
  return {name: share.of(array) for name, array in batch.items()}


def trained(layout: Layout, steps: int, form: str, dtype: str, *, record: bool, head="graph"):
  """Train for some steps on these devices.

  Args:
    layout: The layout.
    steps: The number of steps.
    form: The form of the augmentation.
    dtype: The compute type.
    record: Whether to store the gradients of the last step in the state of the optimiser, instead
      of changing the parameters.
    head: The head.

  Returns:
    The first loss, the initial parameters and the final TrainState, on the host.
  """
  config, model = setting(form, dtype, head)
  mesh = layout.mesh
  change = RECORDER if record else optimiser_of(config.optim)

  def first_state():
    silence = jnp.zeros((1, FRAMES, BANDS))
    return start_state(dict(model.init(jax.random.key(0), silence)), change)

  kept = where_kept(layout, jax.eval_shape(first_state), LABELS)
  state = jax.jit(first_state, out_shardings=kept, compiler_options=FAST_COMPILE)()
  if layout.fsdp:
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
  step = make_train_step(
    model,
    change,
    mesh,
    normaliser=NORMALISER,
    augmentation=Augmentation(**config.augment),
    seed=3,
    kept=kept if layout.in_parts else None,
  )
  batches = [place(batch_of(config, t), mesh) for t in range(steps)]
  assert len(batches[0]["log_mel"].sharding.device_set) == mesh.size
  options = FAST_COMPILE if steps == 1 else FASTER_STEPS
  compiled = step.lower(state, batches[0], 1.0).compile(options)
  if (parts := mesh.shape["label"]) > 1:  # each device only has the logits of its own labels
    own = f"[{len(batches[0]['labels']) * parts // mesh.size},{LABELS // parts}]"
    assert own in compiled.as_text()
  before, losses = on_host(state.params, layout), []
  for batch in batches:
    state, metrics = compiled(state, batch, 1.0)
    losses.append(float(metrics["loss"]))
  return losses[0], before, on_host(state, layout)


def on_host(tree: Any, layout: Layout) -> Any:
  """Return sharded arrays as NumPy arrays, in every process."""
  return jax.device_get(replicate(tree, layout.mesh))


def norm(tree: Any) -> float:
  """Return the Euclidean norm of all arrays of a tree, in float64 and without JAX."""
  return float(np.sqrt(sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(tree))))


def assert_same_first_step(one: Any, other: Any) -> None:
  """Assert that loss, gradients and batch statistics agree to a relative 1e-5.

  Gradients are compared per tensor: the norm of the difference is relative to the norm of the
  tensor. For a tensor whose gradient nearly cancels (a scale that the next batch norm undoes), it
  is relative to 1/100 of the norm of all gradients.
  """
  (loss, _, state), (other_loss, _, other_state) = one, other
  np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
  whole = norm(state.opt_state)
  assert whole > 0

  def close(where, one, other):
    relative = np.linalg.norm(other - one) / max(np.linalg.norm(one), whole / 100)
    assert relative < 1e-5, f"{jax.tree_util.keystr(where)}: {relative}"

  jax.tree.map_with_path(close, state.opt_state, other_state.opt_state)
  for a, b in zip(*map(jax.tree.leaves, (state.batch_stats, other_state.batch_stats))):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def assert_same_in_float64(one: Any, other: Any, steps: int) -> None:
  """Assert that parameters agree to 1e-9, and batch statistics to a relative 1e-9."""
  (_, before, state), (_, _, other_state) = one, other
  assert state.step == steps
  for start, a, b in zip(*map(jax.tree.leaves, (before, state.params, other_state.params))):
    assert a.dtype == np.float64
    assert np.abs(a - start).max() > 1e-4  # the parameters have changed
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-9)
  for a, b in zip(*map(jax.tree.leaves, (state.batch_stats, other_state.batch_stats))):
    assert a.dtype == np.float64
    np.testing.assert_allclose(b, a, rtol=1e-9)
