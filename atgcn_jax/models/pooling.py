"""From the scores of frames to those of a clip."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, parameter_dtype

POOLINGS = (
  "max",
  "average",
  "linear_softmax",
  "exp_softmax",
  "attention",
  "sigmoid_attention",
)
FLOOR = 1e-7  # probabilities keep this far from 0 and 1


def frame_probabilities(frame_logits: Array) -> Array:
  """Sigmoids, kept FLOOR away from 0 and 1."""
  return jnp.clip(jax.nn.sigmoid(frame_logits), FLOOR, 1 - FLOOR)


def logit(probabilities: Array) -> Array:
  """log p - log(1 - p), p kept FLOOR away from 0 and 1."""
  p = jnp.clip(probabilities, FLOOR, 1 - FLOOR)
  return jnp.log(p) - jnp.log1p(-p)


class Pooling(nn.Module):
  """Clip logits from the logits of frames (or patches) and the features these were made of.

  With the probability y of a frame, a clip's is: `max` the largest; `average` the mean;
  `linear_softmax` Σy²/Σy; `exp_softmax` Σy·exp(y)/Σexp(y); `attention` Σa·y, where a is the softmax
  over frames of an output of its own; `sigmoid_attention` Σa·y/Σa, where a is that output's
  sigmoid.

  Source: Wang, Li and Metze, A comparison of five multiple instance learning pooling functions for
    sound event detection with weak labeling, ICASSP 2019; Ford et al., Interspeech 2019, for the
    last.
  """

  kind: str
  num_classes: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, frame_logits_BxTxK: Array, frames_BxTxC: Array) -> Array:
    """Returns clip logits [B, K].

    Raises:
      ValueError: for an unknown kind.
    """
    y = frame_probabilities(frame_logits_BxTxK)
    if self.kind == "max":
      return logit(y.max(axis=1))
    if self.kind == "average":
      return logit(y.mean(axis=1))
    if self.kind == "linear_softmax":
      weights = y
    elif self.kind == "exp_softmax":
      weights = jnp.exp(y)
    elif self.kind in ("attention", "sigmoid_attention"):
      attention = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.xavier_uniform(),
        param_dtype=parameter_dtype(self.dtype),
        name="attention",
      )(frames_BxTxC)
      if self.kind == "attention":
        weights = jax.nn.softmax(attention, axis=1)
      else:
        weights = frame_probabilities(attention)
    else:
      raise ValueError(f"model.pooling {self.kind!r}: one of {', '.join(POOLINGS)}")
    return logit((weights * y).sum(axis=1) / weights.sum(axis=1))
