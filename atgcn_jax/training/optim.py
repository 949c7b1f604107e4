"""Adam, its learning-rate schedules, and the plateau rule on validation mAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax

SCHEDULES = ("constant", "cosine", "linear", "exponential")


def learning_rate_schedule(config: Any) -> optax.Schedule:
  """The learning rate at a step: a linear warm-up, then the named decay to `final_factor` of it.

  Args:
    config: an `optim` section with `learning_rate`, `schedule`, `warmup_steps`, `steps`,
      `final_factor`.
  Raises:
    ValueError: for an unknown schedule.
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
    raise ValueError(f"optim.schedule {config.schedule!r}: one of {', '.join(SCHEDULES)}")
  if not config.warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
  return optax.join_schedules([warmup, decay], [config.warmup_steps])


def optimiser(config: Any, head_alone: bool = False) -> optax.GradientTransformation:
  """Adam as an `optim` section says.

  A `clip_norm` above 0 bounds the gradients' global norm; `head_factor` multiplies the learning
  rate of the parameters of the head. With `head_alone` no moments are kept of the other parameters,
  whose gradients are taken to be 0.
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
  """Which of a system's modules is its head."""
  return {name: name == "head" for name in params}


def plateau_factor(history: Sequence[float], *, factor: float, patience: int) -> float:
  """What the learning rate is multiplied by after these validation mAPs.

  Whenever `patience` evaluations in a row have brought nothing better than the best so far, the
  rate is multiplied by `factor` and the count begins anew. With `factor` 1 this is always 1.

  Args:
    history: validation mAP at each evaluation, oldest first.
  Source: the schedule of the authors' code for Wang et al., IEEE SPL 2020 (factor 0.9, patience 3).
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
