"""Poolings of frame probabilities compared with their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.special import logit as scipy_logit

from atgcn_jax.models.pooling import FLOOR, POOLINGS, Pooling

RANDOM = np.random.default_rng(0)
LOGITS = (2 * RANDOM.standard_normal((3, 7, 5))).astype("f")
FRAMES = RANDOM.standard_normal((3, 7, 4)).astype("f")


def by_definition(kind, y, attention):
  """Return the clip probabilities [B, K] from frame probabilities [B, T, K]."""
  if kind == "max":
    return y.max(axis=1)
  weights = {
    "average": np.ones_like(y),
    "linear_softmax": y,
    "exp_softmax": np.exp(y),
    "attention": softmax(attention, axis=1),
    "sigmoid_attention": expit(attention),
  }[kind]
  return (weights * y).sum(axis=1) / weights.sum(axis=1)


def pooled(kind, logits=LOGITS, frames=FRAMES):
  module = Pooling(kind, logits.shape[-1])
  variables = module.init(jax.random.key(0), logits, frames)
  return module, variables, module.apply(variables, logits, frames)


@pytest.mark.parametrize("kind", POOLINGS)
def test_poolings_agree_with_their_definitions(kind):
  _, variables, found = pooled(kind)
  attention = np.zeros_like(LOGITS)
  if "attention" in kind:
    dense = variables["params"]["attention"]
    attention = FRAMES.astype(np.float64) @ dense["kernel"] + np.asarray(dense["bias"])
  expected = by_definition(kind, expit(LOGITS.astype(np.float64)), attention)
  assert np.abs(expit(np.asarray(found, np.float64)) - expected).max() < 1e-6


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_clip_of_equal_frames_has_their_score(kind):
  same = np.repeat(LOGITS[:, :1], 7, axis=1)
  _, _, found = pooled(kind, same)
  assert np.abs(found - same[:, 0]).max() < 2e-4


@pytest.mark.parametrize("kind", POOLINGS)
def test_extreme_logits_give_finite_scores_and_gradients(kind):
  extreme = np.stack([np.full((7, 5), 200.0), np.full((7, 5), -200.0), LOGITS[0]]).astype("f")
  extreme[2, 0] = 1e30
  module, variables, found = pooled(kind, extreme)
  limit = scipy_logit(1 - FLOOR)
  assert np.abs(found).max() <= limit * 1.02  # 1 - FLOOR is rounded to float32
  assert (found[0] > 15).all()
  assert (found[1] < -15).all()
  gradient = jax.grad(lambda x: module.apply(variables, x, FRAMES).sum())(jnp.asarray(extreme))
  assert np.isfinite(gradient).all()


def test_an_unknown_pooling_is_refused():
  with pytest.raises(ValueError, match=r"model\.pooling must be .* got 'sum'"):
    pooled("sum")
