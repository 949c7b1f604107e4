"""Pooling of frame scores to clip scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from atgcn_jax.models.layers import Array, maximum, parameter_dtype

POOLINGS = (
  "max",
  "average",
  "linear_softmax",
  "exp_softmax",
  "attention",
  "sigmoid_attention",
)
FLOOR = 1e-7  # minimum distance of probabilities from 0 and 1


def frame_probabilities(frame_logits: Array) -> Array:
  """Return the sigmoids, at least FLOOR away from 0 and 1."""
  return jnp.clip(jax.nn.sigmoid(frame_logits), FLOOR, 1 - FLOOR)


def logit(probabilities: Array) -> Array:
  """Return log p - log(1 - p), with p at least FLOOR away from 0 and 1."""
  p = jnp.clip(probabilities, FLOOR, 1 - FLOOR)
  return jnp.log(p) - jnp.log1p(-p)


class Pooling(nn.Module):
  """Pooling of the logits of frames (or patches) to clip logits.

  The probability of a clip follows from the probabilities y of its frames. `max`: the maximum.
  `average`: the mean. `linear_softmax`: Σy²/Σy. `exp_softmax`: Σy·exp(y)/Σexp(y). `attention`:
  Σa·y, where a is the softmax over frames of a separate output. `sigmoid_attention`: Σa·y/Σa, where
  a is the sigmoid of that output.

  Source:
    Wang, Li and Metze, A comparison of five multiple instance learning pooling functions for sound
    event detection with weak labeling, ICASSP 2019; Ford et al., Interspeech 2019
    (`sigmoid_attention`).
  """

  kind: str
  num_classes: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, frame_logits_BxTxK: Array, frames_BxTxC: Array) -> Array:
    """Return the clip logits [B, K].

    Args:
      frame_logits_BxTxK: The logits of the frames.
      frames_BxTxC: The vectors of the frames, from which the attention is computed.

    Raises:
      ValueError: The kind is unknown.
    """
    y = frame_probabilities(frame_logits_BxTxK)
    if self.kind == "max":
      return logit(maximum(y))
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
      raise ValueError(f"model.pooling must be one of {', '.join(POOLINGS)}, got {self.kind!r}")
    return logit((weights * y).sum(axis=1) / weights.sum(axis=1))
