"""Losses, gradients and scores of extreme logits, labels, clips and graphs are finite."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
import scipy.sparse
from test_step import FAST_COMPILE, NORMALISER, fresh_state

from atgcn_jax import models
from atgcn_jax.labels.adjacency import METHODS, propagation_matrix
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.training import augment
from atgcn_jax.training.losses import loss_of
from atgcn_jax.training.sharding import data_mesh
from atgcn_jax.training.step import make_score_step, make_train_step

FRAMES, BANDS = 32, 16
LOGITS = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "f")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("positive", [0.0, 1.0, 0.5])
def test_loss_of_extreme_logits(dtype, positive):
  relations = {"similarity": np.ones((3, 3), "f"), "members": np.array([[0, 0, 1], [0, 1, 2]])}
  loss = loss_of(relations, laplacian=1.0, hierarchy=1.0)
  plain = loss_of({})
  logits, labels = jnp.asarray(LOGITS, dtype), np.full(LOGITS.shape, positive, "f")
  for one in (loss, plain):
    value, gradient = jax.jit(jax.value_and_grad(one))(logits, labels, None)
    assert np.isfinite(value)
    assert np.isfinite(gradient.astype("f")).all()
    assert np.abs(gradient.astype("f")).max() <= 2
  # log(1 + exp(x)) - x y, which is max(x, 0) - x y for such x, and log 2 at 0.
  by_hand = (np.maximum(LOGITS, 0) - LOGITS * labels + (LOGITS == 0) * np.log(2)).mean()
  np.testing.assert_allclose(
    np.asarray(plain(logits, labels, None), "f"), by_hand, rtol=1e-6 if dtype == "float32" else 0.01
  )


def counts(kind, labels):
  """Return label counts: of separate labels, of a hub that is with every label, or of no clip."""
  occurrences, pairs = np.full(labels, 5), np.zeros((labels, labels), int)
  if kind == "hub":
    occurrences[0] = 5 * labels
    pairs[0, 1:] = pairs[1:, 0] = 5
  if kind == "never":
    occurrences[:] = 0
  return occurrences, pairs


def system(kind, labels, dtype="float32", head="graph"):
  """Return a narrow AT-GCN on such a graph; `isolated` has no self loops either."""
  graph = propagation_matrix(*counts(kind, labels), method="paper")
  if kind == "isolated":
    graph = np.zeros((labels, labels), "f")
  config = DEFAULTS["model"] | {"width": 1 / 32, "dtype": dtype, "head": head}
  vectors = np.random.default_rng(0).standard_normal((labels, 5)).astype("f")
  return models.build(
    ml_collections.ConfigDict(config),
    num_classes=labels,
    propagation=graph,
    label_embeddings=vectors,
  )


def clips(kind, count, labels):
  random = np.random.default_rng(1)
  log_mel = {
    "noise": random.uniform(-70, -10, (count, FRAMES, BANDS)),
    "silence": np.full((count, FRAMES, BANDS), -100.0),
    "loudest": np.full((count, FRAMES, BANDS), 240.0),  # samples of 1e12
  }[kind]
  return log_mel.astype("f"), np.ones((count, labels), bool)


CASES = [
  # clips, their number, labels, share of positives, graph, type, head
  ("silence", 1, 1, 1, "isolated", "float32", "graph"),
  ("loudest", 4, 40, 0, "hub", "bfloat16", "graph"),
  ("noise", 8, 1, 1, "paper", "float32", "graph"),
  ("noise", 1, 4, 1, "paper", "float32", "graph"),
  ("silence", 4, 4, 0, "isolated", "float32", "graph"),
  ("silence", 4, 4, 1, "never", "bfloat16", "graph"),
  ("loudest", 1, 1, 0, "never", "float32", "linear"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count", "labels", "positive", "graph", "dtype", "head"), CASES)
def test_training_and_scoring(kind, count, labels, positive, graph, dtype, head):
  model = system(graph, labels, dtype, head)
  state, adam = fresh_state(model, 1e-2)
  mesh = data_mesh(jax.devices()[:1])
  state = jax.device_put(state, jax.devices()[0])
  log_mel, present = clips(kind, count, labels)
  batch = {"log_mel": log_mel, "labels": present * bool(positive)}
  settings = augment.Augmentation("authors", 0.2, 2, 8, 2, 4)
  step = make_train_step(model, adam, mesh, normaliser=NORMALISER, augmentation=settings, seed=0)
  step = step.lower(state, batch, 1.0).compile(FAST_COMPILE)
  for _ in range(3):
    state, measured = step(state, batch, 1.0)
    assert all(np.isfinite(value) for value in measured.values())
  leaves = jax.tree.leaves((state.params, state.batch_stats, optax.tree.get(state, "opt_state")))
  assert all(np.isfinite(x).all() for x in leaves)
  scores = make_score_step(model, mesh, normaliser=NORMALISER)(
    state.variables, {"log_mel": log_mel}
  )
  assert scores.shape == (count, labels)
  assert np.isfinite(scores).all()
  assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_propagation_over_a_giant_hub(method, form):
  """Rows stay finite and positive on the diagonal where one label is with 999 others."""
  occurrences, pairs = counts("hub", 1000)
  edges = pairs > 0
  matrix = propagation_matrix(
    occurrences, form(pairs), method=method, threshold=0.0, edges=form(edges)
  )
  dense = matrix.toarray() if scipy.sparse.issparse(matrix) else matrix
  assert np.isfinite(dense).all()
  assert (dense >= 0).all()
  assert (dense.diagonal() > 0).all()
  product = dense @ np.ones(1000, "f")
  assert product.max() < 1000
