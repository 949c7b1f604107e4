"""Gradients and losses on the device of the tests, compared with float64 and with bfloat16.

`launch/gpu_check.sh` runs them on a GPU: with JAX_PLATFORMS=cuda,cpu.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from atgcn_jax import models
from atgcn_jax.models.layers import Placement
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.sharding import data_mesh
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, loss_and_gradients, make_train_step

LABELS, FRAMES, BANDS = 12, 32, 64
NORMALISER = Normaliser(np.zeros(BANDS, "f"), np.ones(BANDS, "f"))
NO_DROPOUT = {"block": 0.0, "pooled": 0.0, "embedding": 0.0}
WIDTHS = pytest.mark.parametrize("width", [1 / 8, 1 / 2])


def model_of(width, dtype):
  random = np.random.default_rng(0)
  section = DEFAULTS["model"] | {"head": "graph", "width": width, "dtype": dtype}
  return models.build(
    ml_collections.ConfigDict(section | {"dropout": NO_DROPOUT}),
    num_classes=LABELS,
    propagation=0.6 * np.eye(LABELS) + 0.4 * np.roll(np.eye(LABELS), 1, axis=1),
    label_embeddings=random.standard_normal((LABELS, 20)),
  )


def variables_of(width):
  """Return the initial variables on the host."""
  first = jnp.zeros((1, FRAMES, BANDS))
  with jax.default_device(jax.devices("cpu")[0]):
    return jax.device_get(model_of(width, "float32").init(jax.random.key(0), first))


def batch_of(clips):
  """Return clips in which each label has a band of its own."""
  random = np.random.default_rng(1)
  labels = random.random((clips, LABELS)) < 0.3
  log_mel = random.standard_normal((clips, FRAMES, BANDS))
  log_mel[:, :, : 5 * LABELS] += np.repeat(labels, 5, axis=1)[:, None]
  return {"log_mel": log_mel.astype("f"), "labels": labels}


def gradients(device, variables, width, dtype):
  """Return the loss and the gradients, in the form for any number of devices of a platform."""

  class State:
    step = 0
    params, batch_stats = (
      jax.device_put(jax.tree.map(lambda x: x.astype(dtype), variables[kind]), device)
      for kind in ("params", "batch_stats")
    )

  def of(params, batch):
    State.params = params
    return loss_and_gradients(
      model_of(width, dtype),
      State,
      batch,
      normaliser=NORMALISER,
      augmentation=Augmentation(),
      seed=0,
      placement=Placement(2, device.platform),
    )[:2]

  return jax.device_get(jax.jit(of)(State.params, jax.device_put(batch_of(4), device)))


def error(found, expected):
  """Return the Euclidean norm of the error of all gradients, relative to the gradients' norm."""
  pairs = list(zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1])))
  size = sum(float(np.sum(np.square(b))) for _, b in pairs)
  return float(np.sqrt(sum(float(np.sum(np.square(a - b))) for a, b in pairs) / size))


@pytest.mark.slow
@WIDTHS
def test_gradients_follow_float64(record_property, width):
  variables = variables_of(width)
  with jax.enable_x64(True):
    expected = gradients(jax.devices("cpu")[0], variables, width, "float64")
  with jax.default_matmul_precision("highest"):
    found = gradients(jax.devices()[0], variables, width, "float32")
  record_property("error at highest precision", error(found, expected))
  if jax.default_backend() != "cpu":  # the CPU has one precision
    with jax.default_matmul_precision("default"):
      usual = gradients(jax.devices()[0], variables, width, "float32")
    record_property("error at default precision", error(usual, expected))
  assert error(found, expected) < 1e-4
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def losses(variables, width, dtype, steps):
  """Return the loss before each update of the training step."""
  adam = optimiser(optax.constant_schedule(1e-3))
  step = make_train_step(
    model_of(width, dtype),
    adam,
    data_mesh(jax.devices()[:1]),
    normaliser=NORMALISER,
    augmentation=Augmentation(),
    seed=0,
  )
  state, batch, found = start_state(variables, adam), batch_of(16), []
  for _ in range(steps):
    state, metrics = step(state, batch, 1.0)
    found.append(float(metrics["loss"]))
  return np.array(found)


@pytest.mark.slow
@WIDTHS
def test_losses_in_bfloat16_follow_float32(record_property, width):
  variables = variables_of(width)
  plain, half = (losses(variables, width, dtype, 10) for dtype in ("float32", "bfloat16"))
  ratio = half / plain
  record_property("mean of bfloat16 / float32", float(ratio.mean()))
  record_property("largest deviation", float(np.abs(ratio - 1).max()))
  record_property("float32, first and last", [float(plain[0]), float(plain[-1])])
  assert plain[-1] < 0.9 * plain[0]
  assert np.abs(ratio - 1).max() < 0.1
  assert not np.array_equal(plain, half)
