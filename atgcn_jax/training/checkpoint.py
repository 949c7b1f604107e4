"""Orbax checkpoints with the complete state of a run, and checksums that verify them.

Each checkpoint has four items: `variables` (params, batch_stats), `optimiser` (step, opt_state),
`constants` (normaliser and, if the system has them, label graph and vectors) and `run` (JSON:
config, vocabulary, front end, history of evaluations). Saving is asynchronous. A checkpoint gets
its final name when all its files are written, and is valid once its checksums are written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from atgcn_jax.errors import WorkFailed
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.file_owners import accept_unnamed_owners
from atgcn_jax.runtime.tensorstore_counters import hidden_counters
from atgcn_jax.training import checksums
from atgcn_jax.training.saved_checkpoints import FOLDER, folder_of, newest_verified
from atgcn_jax.training.state import TrainState

accept_unnamed_owners()

MARK = {"checksums": "sha256"}  # in Orbax's metadata; older checkpoints have no checksums


class _Best(NamedTuple):
  """Orbax's policy to preserve the best checkpoint."""

  best: Callable[[list[int]], int | None]

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    step = self.best([checkpoint.step for checkpoint in checkpoints])
    return [checkpoint.step == step for checkpoint in checkpoints]


def no_best(steps: list[int]) -> None:
  """Return None: no step is known to be the best."""


@contextlib.contextmanager
def open_manager(
  workdir: str | os.PathLike,
  keep: int = 2,
  best: Callable[[list[int]], int | None] = no_best,
) -> Iterator[ocp.CheckpointManager]:
  """Open the manager of a run's checkpoints.

  Opening removes incomplete checkpoints of killed processes. Closing waits for the last save.

  Args:
    workdir: Run directory.
    keep: Number of newest checkpoints to preserve.
    best: Returns the best of some steps, or None. Its checkpoint is preserved too.

  Raises:
    WorkFailed: If the folder cannot be created or a save fails.
  """
  options = ocp.CheckpointManagerOptions(
    preservation_policy=preservation_policy.AnyPreservationPolicy(
      [preservation_policy.LatestN(keep), _Best(best)]
    ),
    cleanup_tmp_directories=True,
    enable_async_checkpointing=True,
    async_options=ocp.AsyncOptions(barrier_sync_fn=_barrier),
    temporary_path_class=_with_checksums(folder_of(workdir)),
  )
  with report_write_failures(workdir, "the folder of checkpoints"):
    manager = ocp.CheckpointManager(folder_of(workdir), options=options, item_handlers=_handlers())
  with hidden_counters():
    try:
      yield manager
    finally:
      try:
        wait_until_saved(manager)
      finally:
        reported = isinstance(sys.exception(), WorkFailed)  # Closing may report the save again.
        with contextlib.suppress(Exception) if reported else contextlib.nullcontext():
          manager.close()


def _handlers() -> dict[str, Any]:
  """Return the Orbax handler of each item.

  By default, Orbax compiles a program that slices replicated arrays, and each device writes a
  slice. Without this, models of tens of megabytes are written in half the time, and training
  continues earlier.
  """
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
  )
  arrays = ("variables", "optimiser", "constants")
  handlers = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in arrays}
  return {"run": ocp.JsonCheckpointHandler()} | handlers


def _with_checksums(folder: pathlib.Path) -> type:
  """Return Orbax's class that finalises a checkpoint in a folder, extended to write checksums.

  Process 0 finalises a checkpoint when all processes have written it, in the thread of the save. An
  error here makes the save fail. Older checkpoints are deleted only after this step.
  """
  whole: Any = ocp.path.atomicity_defaults.get_default_temporary_path_class(epath.Path(folder))

  class WithChecksums(whole):
    async def finalize(self) -> None:
      await super().finalize()
      final = self.get_final()
      if final.parent.name == FOLDER:  # a checkpoint, not an item within one
        checksums.write_checksums(final)

  return WithChecksums


def _barrier(*, key: str, timeout_ms: int) -> None:
  """Wait for the other processes, unless a save has failed in this process.

  The other processes still wait for this one to write. If it waited too, it would report its own
  failure only after their timeout.
  """
  if sys.exception() is None:
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def report_write_failures(workdir: str | os.PathLike, what: str) -> Iterator[None]:
  """Turn write errors in the context into WorkFailed.

  Args:
    workdir: Run directory.
    what: Description of what is written, for the message.

  Raises:
    WorkFailed: If a write fails. The message names the folder, what was written, the fault, and
      the newest intact checkpoint.
  """
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:  # TensorStore raises the last two.
    fault = _fault(error)
    if fault is None:
      raise
    step = newest_verified(workdir)
    saved = "there is no intact checkpoint" if step is None else f"step {step} is saved and intact"
    raise WorkFailed(
      f"{workdir}: {what} could not be written: {fault}; {saved}; free space or fix the folder, "
      "then run the same command again"
    ) from error


def _fault(error: BaseException) -> str | None:
  """Return the system's reason for a failed write; None for other errors."""
  if isinstance(error, OSError):
    return error.strerror or str(error)
  # TensorStore reports a status as text. For files, the text has the error number of the system.
  status = re.match(r"[A-Z_]{5,}: ", text := " ".join(str(error).split()))
  number = re.search(r"os_error_code='(\d+)'|OS error (\d+)", text)
  if number:
    return os.strerror(int(number[1] or number[2]))
  return f"{text:.200}" if status else None


def raise_if_save_failed(manager: ocp.CheckpointManager) -> None:
  """Raise the error of a save that has failed, without waiting for a save. Takes microseconds.

  Raises:
    WorkFailed: If the last save has failed. The message names the folder and the fault.
  """
  if not manager.is_saving_in_progress():
    wait_until_saved(manager)


def wait_until_saved(manager: ocp.CheckpointManager) -> None:
  """Wait until the last save has ended.

  Raises:
    WorkFailed: If the save has failed. The message names the folder and the fault.
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
) -> None:
  """Start saving a state, and return when the arrays are copied from the devices.

  Args:
    manager: Manager of the checkpoints.
    state: State to save.
    constants: Item `constants`.
    run: Item `run`.

  Raises:
    WorkFailed: If the previous save has failed, or this one cannot start.
  """
  wait_until_saved(manager)
  args = ocp.args.Composite(
    variables=ocp.args.PyTreeSave(state.variables),
    optimiser=ocp.args.PyTreeSave({"step": state.step, "opt_state": state.opt_state}),
    constants=ocp.args.PyTreeSave(constants),
    run=ocp.args.JsonSave(run),
  )
  step = int(state.step)
  with report_write_failures(manager.directory.parent, f"the checkpoint of step {step}"):
    manager.save(step, args=args, force=True, custom_metadata=MARK)


def set_aside(workdir: str | os.PathLike, step: int) -> pathlib.Path:
  """Move a damaged checkpoint to the folder `damaged` and return its new path."""
  folder = path_of(workdir) / "damaged"
  with report_write_failures(workdir, folder.name):
    folder.mkdir(exist_ok=True)
    targets = (folder / f"{step}-{number}" for number in itertools.count())
    target = next(target for target in targets if not target.exists())
    (folder_of(workdir) / str(step)).rename(target)
  return target


def delete(workdir: str | os.PathLike, step: int) -> None:
  """Delete a checkpoint. Its checksums are deleted first, so that a partial deletion is invalid.

  Raises:
    WorkFailed: If the checkpoint cannot be deleted.
  """
  folder = folder_of(workdir) / str(step)
  with report_write_failures(workdir, f"the new run in place of {FOLDER}/{step}"):
    (folder / checksums.NAME).unlink(missing_ok=True)
    epath.Path(folder).rmtree()
