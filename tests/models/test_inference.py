"""Precomputed constants of inference: folded batch norms, and label vectors without the graph."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from marks import slow
from narrow_system import norm

from atgcn_jax import models
from atgcn_jax.models.layers import Placement
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, loss_and_gradients

LABELS, FRAMES, BANDS = 527, 32, 16
ONE, TWO = Placement(1, "cpu"), Placement(2, "cpu")
QUICK = {"xla_backend_optimization_level": 0}


def model_of(head):
  rng = np.random.default_rng(0)
  section = DEFAULTS["model"] | {"head": head, "width": 1 / 4}
  return models.build(
    ml_collections.ConfigDict(section),
    num_classes=LABELS,
    propagation=rng.dirichlet(np.ones(LABELS), LABELS).astype("f"),
    label_embeddings=rng.standard_normal((LABELS, 30)).astype("f"),
  )


@pytest.fixture(scope="module", params=[slow("linear"), "graph"])
def tagger(request):
  """Return a model and variables with random values."""
  model = model_of(request.param)
  shape = jnp.zeros((1, FRAMES, BANDS))
  variables = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0), shape)
  rng = np.random.default_rng(1)

  def stirred(x):
    return x + 0.1 * rng.standard_normal(x.shape).astype("f") ** 2

  return model, jax.tree.map(stirred, jax.device_get(variables))


def log_mels(clips):
  return np.random.default_rng(2).standard_normal((clips, FRAMES, BANDS)).astype("f")


def test_scores_are_the_same_in_every_form(tagger):
  model, variables = tagger
  x = log_mels(3)
  expected = jax.jit(functools.partial(model.apply, placement=TWO))(variables, x)
  for placement in (ONE, TWO):
    known = models.with_constants(model, (FRAMES, BANDS), placement)(variables)
    assert known["params"] is variables["params"]
    assert placement == TWO or known["constants"]
    actual = jax.jit(functools.partial(model.apply, placement=placement))(known, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_the_same_in_every_form(tagger):
  model, variables = tagger
  state = start_state(variables, optax.sgd(1.0))
  batch = {"log_mel": log_mels(4), "labels": np.arange(4 * LABELS).reshape(4, LABELS) % 7 == 0}

  def of(placement):
    compute = functools.partial(
      loss_and_gradients,
      model,
      normaliser=Normaliser(np.zeros(BANDS, "f"), np.ones(BANDS, "f")),
      augmentation=Augmentation(),
      seed=5,
      placement=placement,
    )
    return jax.device_get(jax.jit(compute, compiler_options=QUICK)(state, batch))

  (loss, gradients, statistics), (loss_2, gradients_2, statistics_2) = of(ONE), of(TWO)
  np.testing.assert_allclose(loss, loss_2, rtol=1e-6)
  whole = norm(gradients_2)

  def close(a, b):
    assert np.linalg.norm(a - b) < 1e-5 * max(np.linalg.norm(b), whole / 100)

  jax.tree.map(close, gradients, gradients_2)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), statistics, statistics_2
  )


@pytest.mark.parametrize("placement", [slow(ONE), TWO])
def test_inference_does_not_compute_the_graph(placement):
  def compiled(head):
    model = model_of(head)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, FRAMES, BANDS)))
    known = jax.eval_shape(models.with_constants(model, (FRAMES, BANDS), placement), variables)
    apply = jax.jit(functools.partial(model.apply, placement=placement))
    return apply.lower(known, log_mels(2)).compile()

  linear, graph = compiled("linear"), compiled("graph")
  flops = [program.cost_analysis()["flops"] for program in (linear, graph)]
  assert abs(flops[1] / flops[0] - 1) < 1e-3
  graph_shape = rf"f32\[{LABELS},{LABELS}\]"
  assert not re.search(graph_shape, graph.as_text())
