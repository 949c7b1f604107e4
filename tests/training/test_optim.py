"""Learning-rate schedules, Adam with clipping, and the plateau rule."""

import jax
import numpy as np
import optax
import pytest

from atgcn_jax.models.heads import GraphHead, LinearHead
from atgcn_jax.training.losses import binary_cross_entropy
from atgcn_jax.training.optim import SCHEDULES, learning_rate_schedule, optimiser, plateau_factor


def schedule_of(peak=1e-3, schedule="constant", steps=100, warmup_steps=0, final_factor=0.0):
  return learning_rate_schedule(
    peak,
    schedule=schedule,
    steps=steps,
    warmup_steps=warmup_steps,
    final_factor=final_factor,
  )


HALFWAY = {"constant": 1, "cosine": 0.55, "linear": 0.55, "exponential": 0.1**0.5}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules(schedule, warmup):
  rate = jax.jit(
    learning_rate_schedule(
      0.02, schedule=schedule, steps=100 + warmup, warmup_steps=warmup, final_factor=0.1
    )
  )
  if warmup:
    np.testing.assert_allclose([rate(0), rate(3), rate(5)], [0, 0.006, 0.01], rtol=1e-6)
  final = 0.02 if schedule == "constant" else 0.002
  reached = [rate(warmup), rate(50 + warmup), rate(100 + warmup)]
  np.testing.assert_allclose(reached, [0.02, 0.02 * HALFWAY[schedule], final], rtol=1e-5)
  falling = np.diff([float(rate(step)) for step in range(warmup, 100 + warmup, 9)])
  assert (falling == 0).all() if schedule == "constant" else (falling < 0).all()


def test_a_warmup_of_all_steps_and_a_decay_to_zero():
  rate = schedule_of(1.0, warmup_steps=8, steps=8)
  np.testing.assert_allclose([rate(0), rate(4), rate(8)], [0, 0.5, 1])
  for schedule in ("cosine", "linear"):
    rate = schedule_of(1.0, schedule=schedule, steps=8)
    assert 0 <= rate(8) < 1e-6
  with pytest.raises(ValueError, match="final_factor must be above 0"):
    schedule_of(1.0, schedule="exponential", steps=8)


def test_unknown_schedule():
  with pytest.raises(ValueError, match="step-wise"):
    schedule_of(schedule="step-wise")


def adam_by_hand(gradients, rates, b1=0.9, b2=0.999, eps=1e-8):
  """Return the parameter, starting from 0, after each gradient."""
  value = first = second = np.zeros_like(gradients[0])
  values = []
  for t, (g, rate) in enumerate(zip(gradients, rates), 1):
    first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
    value = value - rate * (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
    values.append(value)
  return values


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_adam_and_clipping(clip_norm):
  gradients = [np.array([3.0, -4.0, 12.0]), np.array([0.1, 0.2, -0.2]), np.array([0.0, 5.0, 0.0])]
  adam = optimiser(schedule_of(0.1, schedule="linear", steps=10), clip_norm=clip_norm)
  params = {"a": np.zeros(1, "f"), "b": np.zeros(2, "f")}  # the norm is over all leaves
  state, found = adam.init(params), []

  @jax.jit
  def update(tree, state, params):
    updates, state = adam.update(tree, state, params)
    return optax.apply_updates(params, updates), state

  for g in gradients:
    params, state = update({"a": np.float32(g[:1]), "b": np.float32(g[1:])}, state, params)
    found.append(np.concatenate([params["a"], params["b"]]))
  if clip_norm:
    gradients = [g * min(1, clip_norm / np.linalg.norm(g)) for g in gradients]
  np.testing.assert_allclose(found, adam_by_hand(gradients, [0.1, 0.09, 0.08]), rtol=1e-4)


@pytest.mark.parametrize(
  ("history", "scale"),
  [
    ([], 1),
    ([0.1, 0.2, 0.3, 0.4, 0.5], 1),
    ([0.5, 0.4, 0.4], 1),  # two consecutive values without a new best
    ([0.5, 0.4, 0.4, 0.4], 0.9),
    ([0.5, 0.5, 0.5, 0.5], 0.9),  # equal is not better
    ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], 0.9),
    ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], 0.81),
    ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5], 1),  # a new best restarts the count
    ([0.5, 0.4, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5], 0.81),
    ([0.5, 0.1, 0.2, 0.3], 0.9),  # better than the last value, but not than the best
    ([0.5, float("nan"), float("nan"), float("nan")], 0.9),
  ],
)
def test_plateau(history, scale):
  assert plateau_factor(history, factor=0.9, patience=3) == pytest.approx(scale)
  assert plateau_factor(history, factor=1.0, patience=3) == 1


def test_patience_of_one():
  assert plateau_factor([0.5, 0.5, 0.4], factor=0.5, patience=1) == 0.25


def test_a_frozen_encoder_leaves_all_other_modules_to_adam():
  """Attention and the norm of the logits belong neither to the encoder nor to the head."""
  params = {name: {"w": np.full(3, 0.5, "f")} for name in ("encoder", "pooling", "head")}
  gradients = {**params, "encoder": {"w": np.zeros(3, "f")}}
  updates = []
  for frozen in (False, True):
    adam = optimiser(schedule_of(0.1), head_factor=2.0, frozen_encoder=frozen)
    state = adam.init(params)
    updates.append(adam.update(gradients, state, params)[0])
  jax.tree.map(np.testing.assert_array_equal, *updates)
  moments = [x for x in jax.tree.leaves(state) if x.ndim]
  assert len(moments) == 4, "two for each of pooling and head"


def first_move(head, embedding, labels):
  """Return the mean length of the label vectors and of their first update by Adam."""
  adam = optimiser(schedule_of(2e-3))

  def loss(params):
    return binary_cross_entropy(head.apply({"params": params}, embedding)["logits"], labels)

  @jax.jit
  def label_vectors():
    """Return the label vectors before and after an update."""
    params = head.init(jax.random.key(0), embedding)["params"]
    updates, _ = adam.update(jax.grad(loss)(params), adam.init(params), params)
    return [
      head.apply({"params": p}, embedding)["label_vectors"]
      for p in (params, optax.apply_updates(params, updates))
    ]

  before, after = map(np.asarray, label_vectors())
  return np.linalg.norm(before, axis=1).mean(), np.linalg.norm(after - before, axis=1).mean()


def test_adam_moves_factored_label_vectors_much_further_than_free_ones():
  """About ten times at equal rates and lengths, which is the reason for `optim.head_factor`."""
  random = np.random.default_rng(0)
  labels = (random.random((16, 26)) < 0.3).astype("f")
  embedding = np.abs(random.standard_normal((16, 128))).astype("f") / 2
  vectors = 6 * random.standard_normal((26, 300)).astype("f") / 300**0.5
  free, free_step = first_move(LinearHead(26), embedding, labels)
  graph, graph_step = first_move(GraphHead(np.eye(26), vectors, hidden=64), embedding, labels)
  assert 0.8 < graph / free < 1.25
  assert 7 < graph_step / free_step < 14
