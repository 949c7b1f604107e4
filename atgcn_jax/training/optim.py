"""Adam, learning-rate schedules, and the plateau rule on validation mAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax

SCHEDULES = ("constant", "cosine", "linear", "exponential")


def learning_rate_schedule(config: Any) -> optax.Schedule:
  """Return the learning-rate schedule: linear warm-up, then decay to `final_factor` of the peak.

  Args:
    config: `optim` section of a config, with `learning_rate`, `schedule`, `warmup_steps`, `steps`,
      `final_factor`.

  Raises:
    ValueError: If the schedule is unknown.
  """
  peak, decay_steps = config.learning_rate, max(1, config.steps - config.warmup_steps)
  if config.schedule == "constant":
    decay = optax.constant_schedule(peak)
  elif config.schedule == "cosine":
    decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final_factor)
  elif config.schedule == "linear":
    decay = optax.linear_schedule(peak, peak * config.final_factor, decay_steps)
  elif config.schedule == "exponential":
    decay = optax.exponential_decay(peak, decay_steps, max(config.final_factor, 1e-12))
  else:
    raise ValueError(f"optim.schedule {config.schedule!r}: must be one of {', '.join(SCHEDULES)}")
  if not config.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
  return optax.join_schedules([warmup, decay], [config.warmup_steps])


def optimiser(config: Any, head_alone: bool = False) -> optax.GradientTransformation:
  """Return Adam with the settings of an `optim` section.

  Args:
    config: `optim` section of a config. A `clip_norm` above 0 limits the global norm of the
      gradients. `head_factor` multiplies the learning rate of the head's parameters.
    head_alone: Whether to store moments only for the parameters of the head. The gradients of all
      other parameters must be 0.
  """
  adam = optax.adam(learning_rate_schedule(config), b1=config.b1, b2=config.b2, eps=config.eps)
  parts = [adam]
  if config.clip_norm > 0:
    parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.head_factor != 1:
    parts.append(optax.masked(optax.scale(config.head_factor), of_head))
  whole = optax.chain(*parts) if len(parts) > 1 else parts[0]
  return optax.masked(whole, of_head) if head_alone else whole


def of_head(params: dict[str, Any]) -> dict[str, bool]:
  """Return a mask over the modules of a system that is true only for the head."""
  return {name: name == "head" for name in params}


def plateau_factor(history: Sequence[float], *, factor: float, patience: int) -> float:
  """Return the factor of the learning rate after a history of validation mAPs.

  After `patience` consecutive evaluations without a new best value, the rate is multiplied by
  `factor` and the count restarts. With a `factor` of 1 the result is always 1.

  Args:
    history: Validation mAP at each evaluation, oldest first.
    factor: Factor of each reduction.
    patience: Number of evaluations without improvement before a reduction.

  Source:
    Schedule in the authors' code for Wang et al., IEEE SPL 2020 (factor 0.9, patience 3).
  """
  best, waited, scale = float("-inf"), 0, 1.0
  for value in history:
    if value > best:
      best, waited = value, 0
      continue
    waited += 1
    if waited >= patience:
      scale, waited = scale * factor, 0
  return scale
