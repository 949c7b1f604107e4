"""The saved checkpoints of a run directory: which there are, which are intact, and their contents.

A checkpoint has a final name when all its files are written, and is valid once its checksums are
written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from atgcn_jax.runtime.buckets import check_utf8, in_bucket, path_of
from atgcn_jax.runtime.file_owners import accept_unnamed_owners
from atgcn_jax.training import checksums
from atgcn_jax.training.checksums import Damaged
from atgcn_jax.training.state import TrainState

accept_unnamed_owners()

FOLDER = "checkpoints"


def folder_of(workdir: str | os.PathLike) -> pathlib.Path:
  """Return the absolute path of a run's checkpoints.

  Raises:
    UserError: If the path is not UTF-8, which Orbax does not support.
  """
  path = path_of(workdir)
  if in_bucket(workdir):
    return path / FOLDER
  path = pathlib.Path(os.path.realpath(path))  # `resolve` raises at a link to itself
  check_utf8(path)
  return path / FOLDER


def saved_steps(workdir: str | os.PathLike) -> list[int]:
  """Return the steps of all checkpoints in a run directory, intact or damaged, oldest first."""
  paths = [path for path in folder_of(workdir).glob("*") if path.name.isdigit()]
  if in_bucket(workdir):  # In a bucket, incomplete checkpoints have their final names too.
    paths = [path for path in paths if ocp.utils.is_checkpoint_finalized(path)]
  return sorted(int(path.name) for path in paths)


def verify_checkpoint(workdir: str | os.PathLike, step: int) -> None:
  """Verify a checkpoint by its checksums. Checkpoints of older versions without them are accepted.

  Raises:
    Damaged: If a file is missing or changed. The message names the file and the fault.
  """
  folder = folder_of(workdir) / str(step)
  try:
    checksums.verify_files(folder)
  except checksums.Unfinished:
    if not _is_from_before(folder):
      raise


def _is_from_before(folder: pathlib.Path) -> bool:
  """Return whether a checkpoint was saved by a version that wrote no checksums."""
  try:
    return not json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
  except (OSError, ValueError, LookupError, TypeError):
    return False


def has_checksums(workdir: str | os.PathLike, step: int) -> bool:
  """Return whether a checkpoint can be verified."""
  return (folder_of(workdir) / str(step) / checksums.NAME).exists()


def newest_verified(workdir: str | os.PathLike) -> int | None:
  """Return the newest step whose checkpoint is intact; None if there is none.

  Damaged checkpoints are neither moved nor reported.
  """
  for step in reversed(saved_steps(workdir)):
    with contextlib.suppress(Damaged):
      verify_checkpoint(workdir, step)
      return step
  return None


def read_description(
  workdir: str | os.PathLike, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Read the items `run` and `constants` (NumPy arrays) of a checkpoint.

  Raises:
    Exception: If a file of the checkpoint is damaged. The type varies.
  """
  items = _read(workdir, step, run=ocp.args.JsonRestore(), constants=ocp.args.StandardRestore())
  return items["run"], items["constants"]


def shapes_of_variables(workdir: str | os.PathLike, step: int) -> dict[str, Any]:
  """Return the item `variables` of a checkpoint as a tree of ShapeDtypeStructs, from its metadata.

  Raises:
    Exception: If a file of the checkpoint is damaged. The type varies.
  """
  folder = epath.Path(folder_of(workdir) / str(step) / "variables")
  saved = ocp.PyTreeCheckpointHandler().metadata(folder).tree
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)


def read_variables(workdir: str | os.PathLike, step: int, target: Any) -> Any:
  """Read the item `variables` of a checkpoint.

  Args:
    workdir: Run directory.
    step: Step of the checkpoint.
    target: Tree of ShapeDtypeStructs with the shardings of the result.
  """
  return _read(workdir, step, variables=ocp.args.StandardRestore(target))["variables"]


def read_state(workdir: str | os.PathLike, step: int, target: TrainState) -> TrainState:
  """Read the training state of a checkpoint.

  Args:
    workdir: Run directory.
    step: Step of the checkpoint.
    target: State of ShapeDtypeStructs with the shardings of the result.
  """
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
  """Silence Orbax's log messages about damaged files. The caller reports the exception."""
  loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels):
      logger.setLevel(level)
