"""The first and the last lines of a training: what it trains, where, and the next command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping

import jax

from atgcn_jax.data.splits import Splits, split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.runs.parts import system_name
from atgcn_jax.runs.run import Run

SPLITS = ("train", "validation", "test")


def split_sizes(store: ClipStore, splits: Splits) -> dict[str, int]:
  """Return the number of clips of each split, 0 for a test split whose folds the store lacks."""
  sizes = dict.fromkeys(SPLITS, 0)
  for split in SPLITS:
    try:
      sizes[split] = len(split_clips(store, splits, split))
    except UserError:  # training does not need the test clips
      if split != "test":
        raise
  return sizes


def opening(
  run: Run,
  workdir: str | os.PathLike,
  clips: Mapping[str, int],
  *,
  start: int,
  steps: int,
  least_steps: int,
) -> str:
  """Return the lines at the start of a training.

  Args:
    run: The run.
    workdir: The run directory.
    clips: The number of clips of each split.
    start: The step at which training starts or resumes.
    steps: The last step.
    least_steps: `optim.steps`, which passes over the clips may exceed.
  """
  splits = ", ".join(f"{name} {count}" for name, count in clips.items())
  system = system_name(run.config.model)
  lines = [
    f"{system} with {len(run.vocabulary)} labels on {devices_text(jax.devices())}",
    f"clips: {splits}; {steps} steps of {run.config.data.batch_size} clips",
    f"results: {os.fspath(workdir)}",
  ]
  if steps > least_steps:
    lines.insert(
      2,
      f"steps: {run.config.optim.passes:g} passes over the clips (optim.passes) are more than "
      f"optim.steps, {least_steps}; --config.optim.passes=0 takes optim.steps",
    )
  if 0 < start < steps:
    lines.append(f"resumed from step {start} of {steps}")
  return "\n".join(lines)


def devices_text(devices: list[jax.Device]) -> str:
  """Return the number and the kinds of devices, such as `4 devices (NVIDIA H200)`."""
  kinds = ", ".join(sorted({device.device_kind for device in devices}))
  return f"{len(devices)} device{'s' if len(devices) > 1 else ''} ({kinds})"


def closing(workdir: str | os.PathLike, clips: Mapping[str, int]) -> str:
  """Return the last line of a complete training: the command that evaluates the run.

  Args:
    workdir: The run directory.
    clips: The number of clips of each split. Without test clips, the command names another split.
  """
  split = next((name for name in reversed(SPLITS) if clips[name]), "test")
  option = "" if split == "test" else f" --split {split}"
  return f"next: atgcn evaluate --workdir {shlex.quote(os.fspath(workdir))}{option}"
