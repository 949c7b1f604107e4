"""The checkpoints of a run that trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from atgcn_jax.errors import WorkFailed
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.schedule import History
from atgcn_jax.training import checkpoint
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.state import TrainState


class Checkpoints(NamedTuple):
  """The checkpoints of a run, in a directory whose lock this process holds.

  `check_lock` raises if another process has taken the directory.
  """

  run: Run
  manager: ocp.CheckpointManager
  check_lock: Callable[[], None]

  def ensure_writable(self) -> None:
    """Raise if the last save failed or another process has taken the directory.

    Raises:
      WorkFailed: In either case. The message names the directory and the fault.
    """
    checkpoint.raise_if_save_failed(self.manager)
    self.check_lock()

  def save(self, state: TrainState, history: History) -> None:
    """Start to save the state, unless its step has a checkpoint.

    Raises:
      WorkFailed: If a value of the state is not finite. Nothing is written in this case.
    """
    self.check_lock()
    save_checkpoint(self.manager, self.run, state, history)

  def wait(self) -> None:
    """Wait for the save that is in progress."""
    checkpoint.wait_until_saved(self.manager)

  def ensure_finite(self, step: int, metrics: dict[str, Any]) -> None:
    """Raise if a metric of this step is NaN or infinite.

    Raises:
      WorkFailed: If so. The message names the step and the last good checkpoint.
    """
    for name, value in metrics.items():
      if not math.isfinite(float(value)):
        fault = f"the {name.replace('_', ' ')} is {float(value)}"
        raise _not_finite(self.manager, step, fault)


def save_checkpoint(
  manager: ocp.CheckpointManager, run: Run, state: TrainState, history: History
) -> None:
  """Start to save a checkpoint, unless this step has one.

  Raises:
    WorkFailed: If a value of the state is not finite. Nothing is written in this case.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  if name := first_not_finite(state):
    raise _not_finite(manager, step, f"a value of {name} is NaN or infinite")
  description = run.description() | {"history": history}
  checkpoint.start_save(manager, state, run.constants(), description)


def _not_finite(manager: ocp.CheckpointManager, step: int, fault: str) -> WorkFailed:
  """Wait for the save in progress, and return the error to raise."""
  checkpoint.wait_until_saved(manager)
  return WorkFailed(
    f"step {step}: {fault}; stopped, the last good checkpoint is that of step "
    f"{manager.latest_step()} in {manager.directory.parent}; try a lower optim.learning_rate or "
    "an optim.clip_norm in another folder"
  )
