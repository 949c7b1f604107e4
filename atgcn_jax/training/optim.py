"""Adam, learning-rate schedules, and the plateau rule on validation mAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optax

SCHEDULES = ("constant", "cosine", "linear", "exponential")


def learning_rate_schedule(
  peak: float, *, schedule: str, steps: int, warmup_steps: int, final_factor: float
) -> optax.Schedule:
  """Return the learning-rate schedule: linear warm-up, then decay to `final_factor` of the peak.

  Args:
    peak: Learning rate after the warm-up.
    schedule: Form of the decay, one of SCHEDULES.
    steps: Number of steps, including the warm-up.
    warmup_steps: Number of steps of the warm-up.
    final_factor: Learning rate at the last step, as a fraction of the peak. Ignored by `constant`,
      above 0 for `exponential`.

  Raises:
    ValueError: If the schedule is unknown, or falls exponentially to 0.
  """
  decay_steps = max(1, steps - warmup_steps)
  if schedule == "constant":
    decay = optax.constant_schedule(peak)
  elif schedule == "cosine":
    decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=final_factor)
  elif schedule == "linear":
    decay = optax.linear_schedule(peak, peak * final_factor, decay_steps)
  elif schedule == "exponential":
    if final_factor <= 0:
      raise ValueError("optim.final_factor must be above 0 with optim.schedule='exponential'")
    decay = optax.exponential_decay(peak, decay_steps, final_factor)
  else:
    raise ValueError(f"optim.schedule {schedule!r}: must be one of {', '.join(SCHEDULES)}")
  if not warmup_steps:
    return decay
  warmup = optax.linear_schedule(0.0, peak, warmup_steps)
  return optax.join_schedules([warmup, decay], [warmup_steps])


def optimiser(
  rate: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  clip_norm: float = 0.0,
  head_factor: float = 1.0,
  frozen_encoder: bool = False,
) -> optax.GradientTransformation:
  """Return Adam, optionally with clipped gradients and another learning rate for the head.

  Args:
    rate: Learning rate of each step.
    b1: Decay rate of the first moment.
    b2: Decay rate of the second moment.
    eps: Term that is added to the denominator.
    clip_norm: Maximum global norm of the gradients. 0 disables clipping.
    head_factor: Multiplier of the learning rate of the head's parameters.
    frozen_encoder: Whether to store no moments for the parameters of the encoder. Their gradients
      must be 0.
  """
  parts = [optax.adam(rate, b1=b1, b2=b2, eps=eps)]
  if clip_norm > 0:
    parts.insert(0, optax.clip_by_global_norm(clip_norm))
  if head_factor != 1:
    parts.append(optax.masked(optax.scale(head_factor), of_head))
  whole = optax.chain(*parts) if len(parts) > 1 else parts[0]
  return optax.masked(whole, not_of_encoder) if frozen_encoder else whole


def of_head(params: dict[str, Any]) -> dict[str, bool]:
  """Return a mask over the modules of a system that is true only for the head."""
  return {name: name == "head" for name in params}


def not_of_encoder(params: dict[str, Any]) -> dict[str, bool]:
  """Return a mask over the modules of a system that is false only for the encoder."""
  return {name: name != "encoder" for name in params}


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
