"""Orbax checkpoints that hold everything a run needs.

Each checkpoint has four items: `variables` (params, batch_stats), `optimiser` (step, opt_state),
`constants` (normaliser and, where the system has one, the label graph and vectors) and `run`
(JSON: config, vocabulary, front end, history of evaluations). Saving is asynchronous; a checkpoint
appears under its final name only when it is whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from atgcn_jax.buckets import in_bucket, path_of
from atgcn_jax.training.state import TrainState

FOLDER = "checkpoints"
BEST_METRIC = "mAP"


def open_manager(workdir: str | os.PathLike, keep: int = 2) -> ocp.CheckpointManager:
  """The manager of a run's checkpoints; the newest `keep` and the best are preserved.

  Opening removes what a killed process left of a checkpoint that it had not finished.
  """
  for step in saved_steps(workdir):
    _drop_damaged_metrics(folder_of(workdir) / str(step) / "metrics" / "metrics")
  best = preservation_policy.BestN(
    get_metric_fn=lambda metrics: metrics[BEST_METRIC], n=1, keep_checkpoints_without_metrics=False
  )
  options = ocp.CheckpointManagerOptions(
    preservation_policy=preservation_policy.AnyPreservationPolicy(
      [preservation_policy.LatestN(keep), best]
    ),
    best_fn=lambda metrics: metrics[BEST_METRIC],
    cleanup_tmp_directories=True,
    enable_async_checkpointing=True,
  )
  return ocp.CheckpointManager(folder_of(workdir), options=options)


def folder_of(workdir: str | os.PathLike) -> pathlib.Path:
  """Where the checkpoints of a run lie; Orbax wants it absolute."""
  path = path_of(workdir)
  return (path if in_bucket(workdir) else path.resolve()) / FOLDER


def _drop_damaged_metrics(path: pathlib.Path) -> None:
  """The manager reads all metrics when it opens, and fails over those that it cannot read."""
  with contextlib.suppress(FileNotFoundError):
    try:
      float(json.loads(path.read_text())[BEST_METRIC])
    except (ValueError, TypeError, KeyError):
      path.unlink()


def save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  constants: dict[str, Any],
  run: dict[str, Any],
  validation_map: float | None,
) -> None:
  """Begin saving this state; returns once the arrays are copied off the device."""
  args = ocp.args.Composite(
    variables=ocp.args.StandardSave(state.variables),
    optimiser=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
    constants=ocp.args.StandardSave(constants),
    run=ocp.args.JsonSave(run),
  )
  metrics = None if validation_map is None else {BEST_METRIC: validation_map}
  manager.save(int(state.step), args=args, metrics=metrics, force=True)


def saved_steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the whole checkpoints in a run directory, oldest first."""
  paths = [path for path in folder_of(workdir).glob("*") if path.name.isdigit()]
  if in_bucket(workdir):  # where they have their names from the first
    paths = [path for path in paths if ocp.utils.is_checkpoint_finalized(path)]
  return sorted(int(path.name) for path in paths)


def read_description(
  workdir: str | os.PathLike, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The items `run` and `constants` (NumPy arrays) of a checkpoint.

  Raises:
    Exception: of many kinds, if a file of the checkpoint is damaged.
  """
  items = _read(workdir, step, run=ocp.args.JsonRestore(), constants=ocp.args.StandardRestore())
  return items["run"], items["constants"]


def read_variables(workdir: str | os.PathLike, step: int, target: Any) -> Any:
  """The item `variables`, placed as `target` (a tree of ShapeDtypeStructs with shardings) says."""
  return _read(workdir, step, variables=ocp.args.StandardRestore(target))["variables"]


def read_state(workdir: str | os.PathLike, step: int, target: TrainState) -> TrainState:
  """The training state of a checkpoint, placed as `target` says."""
  items = _read(
    workdir,
    step,
    variables=ocp.args.StandardRestore(target.variables),
    optimiser=ocp.args.StandardRestore({"step": target.step, "opt_state": target.opt_state}),
  )
  return TrainState(**items["optimiser"], **items["variables"])


def _read(workdir: str | os.PathLike, step: int, **items: Any) -> Any:
  path = folder_of(workdir) / str(step)
  with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
    return checkpointer.restore(path, args=ocp.args.Composite(**items))


@contextlib.contextmanager
def _quiet():
  """Orbax logs what a damaged file makes fail; the exception says it, and the caller tells."""
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)


def set_aside(workdir: str | os.PathLike, step: int) -> pathlib.Path:
  """Move a damaged checkpoint out of the manager's way; returns where it now lies."""
  folder = path_of(workdir) / "damaged"
  folder.mkdir(exist_ok=True)
  number = sum(path.name.startswith(f"{step}-") for path in folder.iterdir())
  target = folder / f"{step}-{number}"
  (folder_of(workdir) / str(step)).rename(target)
  return target
