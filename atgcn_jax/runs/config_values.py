"""The types and ranges of the values that each key of a config may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from atgcn_jax.errors import PART, UserError, printable
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.runs.config_defaults import DEFAULTS, flat

AT_LEAST_1 = (
  "model.layers",
  "model.hidden",
  "graph.embedding_size",
  "data.soundscape_clips",
  "data.batch_size",
  "optim.steps",
  "optim.plateau_patience",
  "sharding.label_parts",
  "evaluation.every",
  "evaluation.batch_size",
  "checkpoint.every",
  "checkpoint.keep",
  "log.every",
)
ABOVE_0 = (
  "optim.learning_rate",
  "optim.eps",
  "optim.plateau_factor",
  "optim.head_factor",
)
NOT_NEGATIVE = (
  "seed",
  "augment.mixup_alpha",
  "augment.time_stripes",
  "augment.time_width",
  "augment.band_stripes",
  "augment.band_width",
  "optim.passes",
  "optim.warmup_steps",
  "optim.final_factor",
  "optim.clip_norm",
  "loss.laplacian",
  "loss.hierarchy",
  "loss.neighbours",
)
SHARES = (
  "model.dropout.block",
  "model.dropout.pooled",
  "model.dropout.embedding",
  "data.validation_share",
  "data.forgotten_positives",
  "optim.b1",
  "optim.b2",
)
WITHIN_1 = ("graph.threshold", "graph.neighbour_weight")

RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
  (AT_LEAST_1, "at least 1 and below 2**32", lambda x: 1 <= x < 2**32),
  (("model.layers",), "at most 1000", lambda x: x <= 1000),
  # Parameters and arithmetic are float32, whose range ends near 1e38.
  (ABOVE_0, "from 1e-30 to 1e30", lambda x: 1e-30 <= x <= 1e30),
  (("model.width",), "above 0 and at most 1000", lambda x: 0 < x <= 1000),
  (("model.negative_slope",), "from -1000 to 1000", lambda x: -1000 <= x <= 1000),
  (("model.prior",), "from 1e-6 to 0.999999", lambda x: 1e-6 <= x <= 0.999999),
  (NOT_NEGATIVE, "at least 0 and below 2**32", lambda x: 0 <= x < 2**32),
  (SHARES, "at least 0 and below 1", lambda x: 0 <= x < 1),
  (WITHIN_1, "from 0 to 1", lambda x: 0 <= x <= 1),
)


def check_values(config) -> None:
  """Refuse values of another type than their defaults, and numbers out of range.

  `ConfigDict` accepts None and True for a number, and tuples of anything.

  Raises:
    UserError: If there is one. The message names the key and what the value may be.
  """
  values, defaults = flat(config.to_dict()), flat(DEFAULTS)
  for key, value in values.items():
    name, fits = kind_of(key, defaults[key])
    if not fits(value):
      raise UserError(f"{key} must be {name}, got {_shown(value)}")
  for keys, rule, fits in RANGES:
    for key in keys:
      if not fits(values[key]):
        raise UserError(f"{key} must be {rule}, got {_shown(values[key])}")


def kind_of(key: str, default: Any) -> tuple[str, Callable[[Any], bool]]:
  """Return what the value of a key must be, and a function that returns whether a value is that."""
  if isinstance(default, tuple):
    item, fits = (
      ("integers of at least 1", _is_count) if key.endswith("_units") else ("texts", _is_text)
    )
    least = 1 if key == "data.train_folds" else 0
    name = f"a tuple of {item}" + (", at least one" if least else "")
    return name, lambda x: isinstance(x, tuple) and len(x) >= least and all(map(fits, x))
  if isinstance(default, bool):
    return "True or False", lambda x: isinstance(x, bool)
  if isinstance(default, str):
    return "a text without control characters", _is_text
  if isinstance(default, float):
    return "a finite number", lambda x: isinstance(x, float) and math.isfinite(x)
  return "an integer", lambda x: isinstance(x, int) and not isinstance(x, bool)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and not has_controls(value)


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32


def _shown(value: Any) -> str:
  # Large integers cannot be converted to decimal digits.
  is_large = isinstance(value, int) and abs(value) >= 2**63
  return "an integer of more than 64 bits" if is_large else printable(value, PART)
