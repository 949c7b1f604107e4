"""The schedule of a training: what is due at which step, and the learning rate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import optax

from atgcn_jax.runs.parts import rate_of
from atgcn_jax.training.optim import plateau_factor

History = list[dict[str, Any]]  # the evaluations so far: step, mAP, mAUC, d_prime


class Schedule(NamedTuple):
  """The schedule of a training.

  Attributes:
    steps: The number of steps.
    evaluate_every: The number of steps between evaluations.
    save_every: The number of steps between checkpoints.
    log_every: The number of steps between records in the log.
    rate: The learning rate of each step, without the plateau rule.
    plateau_factor: The factor of `training.optim.plateau_factor`.
    plateau_patience: The patience of `training.optim.plateau_factor`.
  """

  steps: int
  evaluate_every: int
  save_every: int
  log_every: int
  rate: optax.Schedule
  plateau_factor: float
  plateau_patience: int

  def is_boundary(self, step: int) -> bool:
    """Return whether an evaluation or a checkpoint is due before this step."""
    return step % self.evaluate_every == 0 or step % self.save_every == 0

  def evaluation_is_due(self, step: int, history: History) -> bool:
    """Return whether this step must be evaluated and is not yet. The last step always must be."""
    scheduled = step % self.evaluate_every == 0 or step == self.steps
    return scheduled and all(record["step"] != step for record in history)

  def is_logged(self, step: int) -> bool:
    """Return whether a record is due at this step. At the last step, one always is."""
    return step % self.log_every == 0 or step == self.steps

  def rate_factor(self, history: History) -> float:
    """Return the factor of the learning rate from the plateau rule.

    An extra evaluation at the end of a shorter run does not count. So a run that is extended equals
    a run that had the final length from the start.
    """
    scheduled = [record for record in history if record["step"] % self.evaluate_every == 0]
    return plateau_factor(
      [record["mAP"] for record in scheduled if record["mAP"] is not None],
      factor=self.plateau_factor,
      patience=self.plateau_patience,
    )


def with_passes(config, clips: int):
  """Return the config with as many steps as `optim.passes` over the training clips need.

  Args:
    config: The config. `optim.steps` is the minimum.
    clips: The number of training clips.
  """
  config = config.copy_and_resolve_references()
  config.optim.steps = steps_of(config.optim, clips, config.data.batch_size)
  return config


def steps_of(optim: Any, clips: int, batch: int) -> int:
  """Return the number of steps: `optim.steps`, or more if `optim.passes` needs them.

  Args:
    optim: The section of the config.
    clips: The number of training clips.
    batch: The number of clips per step.
  """
  return max(optim.steps, math.ceil(optim.passes * clips / batch))


def schedule_of(config) -> Schedule:
  """Return the schedule of a config."""
  return Schedule(
    steps=config.optim.steps,
    evaluate_every=config.evaluation.every,
    save_every=config.checkpoint.every,
    log_every=config.log.every,
    rate=rate_of(config.optim),
    plateau_factor=config.optim.plateau_factor,
    plateau_patience=config.optim.plateau_patience,
  )
