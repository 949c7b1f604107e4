"""What training changes: plain data."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


@flax.struct.dataclass
class TrainState:
  """`step` updates done so far, and what they led to."""

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What `module.apply` takes."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def initial_state(
  model: nn.Module,
  optimiser: optax.GradientTransformation,
  seed: int,
  log_mel_shape: tuple[int, int],
) -> TrainState:
  """The state before the first step, a pure function of the seed.

  Args:
    log_mel_shape: frames and bands of one clip.
  """
  variables = model.init(jax.random.key(seed), jnp.zeros((1, *log_mel_shape)))
  return start_state(dict(variables), optimiser)


def start_state(variables: dict[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
  """Step 0 with these variables and a fresh optimiser."""
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables["batch_stats"],
    opt_state=optimiser.init(params),
  )
