"""Training state."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn


@flax.struct.dataclass
class TrainState:
  """State of training after `step` updates."""

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """Variables for `module.apply`."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def initial_state(
  model: nn.Module,
  optimiser: optax.GradientTransformation,
  seed: int,
  log_mel_shape: tuple[int, int],
) -> TrainState:
  """Return the state before the first step, a pure function of the seed.

  Args:
    model: The model.
    optimiser: The optimiser.
    seed: Seed of the parameters.
    log_mel_shape: Number of frames and bands of a clip.
  """
  variables = model.init(jax.random.key(seed), jnp.zeros((1, *log_mel_shape)))
  return start_state(dict(variables), optimiser)


def start_state(variables: dict[str, Any], optimiser: optax.GradientTransformation) -> TrainState:
  """Return the state at step 0 with given variables and a newly initialised optimiser."""
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=variables["batch_stats"],
    opt_state=optimiser.init(params),
  )
