"""Orbax checkpoints that hold everything a run needs, and checksums by which they are known sound.

Each checkpoint has four items: `variables` (params, batch_stats), `optimiser` (step, opt_state),
`constants` (normaliser and, where the system has one, the label graph and vectors) and `run`
(JSON: config, vocabulary, front end, history of evaluations). Saving is asynchronous; a checkpoint
appears under its final name when all its files are there, and counts once its checksums are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from atgcn_jax.errors import WorkFailed
from atgcn_jax.runtime.buckets import check_utf8, in_bucket, path_of
from atgcn_jax.training import checksums
from atgcn_jax.training.checksums import Damaged
from atgcn_jax.training.state import TrainState

FOLDER = "checkpoints"
BEST_METRIC = "mAP"
MARK = {"checksums": "sha256"}  # in Orbax's metadata; checkpoints of before have no checksums


@contextlib.contextmanager
def open_manager(workdir: str | os.PathLike, keep: int = 2) -> Iterator[ocp.CheckpointManager]:
  """The manager of a run's checkpoints; the newest `keep` and the best are preserved.

  Opening removes what a killed process left of a checkpoint that it had not finished; at the end
  the last save is waited for.

  Raises:
    WorkFailed: if the folder cannot be made, or a save fails.
  """
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
    async_options=ocp.AsyncOptions(barrier_sync_fn=_barrier),
    temporary_path_class=_with_checksums(folder_of(workdir)),
  )
  with report_write_failures(workdir, "the folder of checkpoints"):
    manager = ocp.CheckpointManager(folder_of(workdir), options=options, item_handlers=_handlers())
  try:
    yield manager
  finally:
    try:
      wait_until_saved(manager)
    finally:
      told = isinstance(sys.exception(), WorkFailed)  # closing may tell of more of the same save
      with contextlib.suppress(Exception) if told else contextlib.nullcontext():
        manager.close()


def _handlers() -> dict[str, Any]:
  """What writes each item.

  By default each device writes a slice, cut by a program of its own, of what all hold alike. Models
  of tens of megabytes are written in half the time, and training goes on sooner, without.
  """
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
  )
  arrays = ("variables", "optimiser", "constants")
  handlers = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in arrays}
  return {"run": ocp.JsonCheckpointHandler()} | handlers


def folder_of(workdir: str | os.PathLike) -> pathlib.Path:
  """The absolute path of a run's checkpoints, as Orbax needs it.

  Raises:
    UserError: for a path that is not UTF-8, which Orbax cannot use.
  """
  path = path_of(workdir)
  if in_bucket(workdir):
    return path / FOLDER
  path = path.resolve()
  check_utf8(path)
  return path / FOLDER


def _with_checksums(folder: pathlib.Path) -> type:
  """Orbax's way to make a checkpoint final in this folder, after which its checksums are written.

  Process 0 does this once all processes have written, in the thread of the save: what fails here
  makes the save fail, and only after it are older checkpoints deleted.
  """
  whole: Any = ocp.path.atomicity_defaults.get_default_temporary_path_class(epath.Path(folder))

  class WithChecksums(whole):
    async def finalize(self) -> None:
      await super().finalize()
      final = self.get_final()
      if final.parent.name == FOLDER:  # and not an item within a checkpoint
        checksums.write_checksums(final)

  return WithChecksums


def _barrier(*, key: str, timeout_ms: int) -> None:
  """Wait for the other processes, but not on the way out of a save that failed in this one.

  They wait for this one to write: it would learn of its own failure when their time is out.
  """
  if sys.exception() is None:
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def report_write_failures(workdir: str | os.PathLike, what: str) -> Iterator[None]:
  """Within, what cannot be written ends the work.

  Raises:
    WorkFailed: naming the folder, what was to be written, the fault, and the newest sound
      checkpoint.
  """
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:  # TensorStore's are of the latter kinds
    fault = _fault(error)
    if fault is None:
      raise
    sound = newest_verified(workdir)
    kept = "there is no sound checkpoint" if sound is None else f"step {sound} is saved and sound"
    raise WorkFailed(
      f"{workdir}: {what} could not be written: {fault}; {kept}; make room or mend the folder, "
      "then give the same command again"
    ) from error


def _fault(error: BaseException) -> str | None:
  """What the system says of a failed write; None for errors that are not of its making."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  # TensorStore tells the status of a file or a bucket in words, for files with the system's number.
  status = re.match(r"[A-Z_]{5,}: ", text := " ".join(str(error).split()))
  number = re.search(r"os_error_code='(\d+)'|OS error (\d+)", text)
  if number:
    return os.strerror(int(number[1] or number[2]))
  return f"{text:.200}" if status else None


def raise_if_save_failed(manager: ocp.CheckpointManager) -> None:
  """Tell of a save that has failed meanwhile; costs microseconds, and does not wait for one.

  Raises:
    WorkFailed: naming the folder and the fault.
  """
  if not manager.is_saving_in_progress():
    wait_until_saved(manager)


def wait_until_saved(manager: ocp.CheckpointManager) -> None:
  """Wait until the last save has ended.

  Raises:
    WorkFailed: if it failed, naming the folder and the fault.
  """
  with report_write_failures(
    manager.directory.parent, f"the checkpoint of step {manager.latest_step()}"
  ):
    manager.wait_until_finished()


def start_save(
  manager: ocp.CheckpointManager,
  state: TrainState,
  constants: dict[str, Any],
  run: dict[str, Any],
  validation_map: float | None,
) -> None:
  """Begin saving this state; returns once the arrays are copied off the device.

  Raises:
    WorkFailed: if the save before has failed, or this one cannot begin.
  """
  wait_until_saved(manager)
  args = ocp.args.Composite(
    variables=ocp.args.PyTreeSave(state.variables),
    optimiser=ocp.args.PyTreeSave({"step": state.step, "opt_state": state.opt_state}),
    constants=ocp.args.PyTreeSave(constants),
    run=ocp.args.JsonSave(run),
  )
  metrics = None if validation_map is None else {BEST_METRIC: validation_map}
  step = int(state.step)
  with report_write_failures(manager.directory.parent, f"the checkpoint of step {step}"):
    manager.save(step, args=args, metrics=metrics, force=True, custom_metadata=MARK)


def saved_steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the checkpoints in a run directory, sound or not, oldest first."""
  paths = [path for path in folder_of(workdir).glob("*") if path.name.isdigit()]
  if in_bucket(workdir):  # where they have their names from the first
    paths = [path for path in paths if ocp.utils.is_checkpoint_finalized(path)]
  return sorted(int(path.name) for path in paths)


def verify_checkpoint(workdir: str | os.PathLike, step: int) -> None:
  """Compare a checkpoint with its checksums, byte for byte; those of before have none.

  Raises:
    Damaged: naming the file and what is wrong with it.
  """
  folder = folder_of(workdir) / str(step)
  try:
    checksums.verify_files(folder)
  except checksums.Unfinished:
    if not _is_from_before(folder):
      raise


def _is_from_before(folder: pathlib.Path) -> bool:
  """Whether a checkpoint was saved by a version that wrote no checksums."""
  try:
    return not json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
  except (OSError, ValueError, LookupError, TypeError):
    return False


def has_checksums(workdir: str | os.PathLike, step: int) -> bool:
  """Whether a checkpoint can be verified."""
  return (folder_of(workdir) / str(step) / checksums.NAME).exists()


def newest_verified(workdir: str | os.PathLike) -> int | None:
  """The newest step whose checkpoint is sound; nothing is moved, and nothing told."""
  for step in reversed(saved_steps(workdir)):
    with contextlib.suppress(Damaged):
      verify_checkpoint(workdir, step)
      return step
  return None


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
  with report_write_failures(workdir, folder.name):
    folder.mkdir(exist_ok=True)
    number = sum(path.name.startswith(f"{step}-") for path in folder.iterdir())
    target = folder / f"{step}-{number}"
    (folder_of(workdir) / str(step)).rename(target)
  return target


def delete(workdir: str | os.PathLike, step: int) -> None:
  """Delete a checkpoint, its checksums first, without which it does not count.

  Raises:
    WorkFailed: if it cannot be deleted.
  """
  folder = folder_of(workdir) / str(step)
  with report_write_failures(workdir, f"the new run in place of {FOLDER}/{step}"):
    (folder / checksums.NAME).unlink(missing_ok=True)
    epath.Path(folder).rmtree()
