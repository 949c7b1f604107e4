"""Calibrations of estimated labels, and their file in a run directory."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.estimates import Calibration
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.schema import checked
from atgcn_jax.runtime.whole_files import write_whole

NAME = "added-labels.json"
# What an estimate comes from, the most reliable first.
COUNTS, RELATIONS, PARENTS, WORDS = "counts", "relations", "parents", "words"


class Calibrations(NamedTuple):
  """The calibration of each kind of estimate, and the checkpoint that they were fitted on.

  `step` is None for `DEFAULTS`. `checkpoint` is the hash of `scoring_identity`, empty in files of
  earlier versions.
  """

  step: int | None
  by_kind: Mapping[str, Calibration]
  checkpoint: str = ""

  def fit(self, step: int, checkpoint: str) -> bool:
    """Return whether they were fitted on this checkpoint."""
    return self.step == step and self.checkpoint in ("", checkpoint)

  def check_checkpoint(self, step: int, checkpoint: str) -> None:
    """Warn if the scores come from another checkpoint. `DEFAULTS` are for all checkpoints."""
    if self.step is not None and not self.fit(step, checkpoint):
      which = f"this is step {step}" if step != self.step else "the run was trained again"
      warnings.warn(
        f"the estimates were calibrated at step {self.step}, but {which}; calibrate them again "
        "with `atgcn evaluate --add-labels`",
        stacklevel=3,
      )


# Fitted on held-out training clips of AudioSet's features with the linear head of docs/results.md.
DEFAULTS = Calibrations(
  None,
  {
    COUNTS: Calibration(-1.417, 0.869),
    RELATIONS: Calibration(-1.008, 1.027),
    PARENTS: Calibration(-2.270, 1.215),
    WORDS: Calibration(0.891, 1.971),
  },
)


def write_calibrations(workdir: str | os.PathLike, calibrations: Calibrations) -> None:
  """Write the calibrations to `added-labels.json` in a run directory."""
  by_kind = {kind: list(line) for kind, line in calibrations.by_kind.items()}
  of = {"step": calibrations.step, "checkpoint": calibrations.checkpoint}
  text = json.dumps({**of, "calibrations": by_kind}, indent=2)
  write_whole(path_of(workdir) / NAME, f"{text}\n".encode())


class _Needed(TypedDict):
  step: int
  calibrations: dict[str, list[float]]


class _Stored(_Needed, total=False):
  checkpoint: str


def read_calibrations(workdir: str | os.PathLike) -> Calibrations:
  """Return the calibrations stored with a run, or `DEFAULTS`.

  Raises:
    UserError: If the file has other content.
  """
  path = path_of(workdir) / NAME
  if not path.exists():
    return DEFAULTS
  try:
    stored = checked(json.loads(path.read_bytes()), _Stored, "calibrations")
    lines = stored["calibrations"]
    if lines.keys() != DEFAULTS.by_kind.keys() or {len(line) for line in lines.values()} != {2}:
      raise ValueError("it has other kinds of estimates")
    by_kind = {kind: Calibration(*line) for kind, line in lines.items()}
    return Calibrations(stored["step"], by_kind, stored.get("checkpoint", ""))
  except (OSError, ValueError, RecursionError) as error:
    text = f"{path}: cannot be read as calibrations ({reason(error)})"
    raise UserError(f"{text}; move it away, and they are fitted again") from error
