"""Finding and loading what a run directory holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from atgcn_jax.errors import UserError
from atgcn_jax.runs.config import config_from_json
from atgcn_jax.runs.folds import warn_if_test_clips
from atgcn_jax.runs.run import NotFinite, Run, run_from_saved
from atgcn_jax.runtime.buckets import check_reachable, in_bucket
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import checkpoint, sharding
from atgcn_jax.training.checksums import Damaged, Unfinished
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.state import TrainState


class Loaded(NamedTuple):
  """A checkpoint: the run it belongs to, the evaluations so far, and the arrays asked for."""

  step: int
  run: Run
  history: list[dict[str, Any]]
  state: Any


class Found(NamedTuple):
  """The checkpoints of a run: all `steps`, the newest sound one, and what is wrong with others."""

  steps: list[int]
  sound: int | None
  faults: dict[int, str]


def find_checkpoints(workdir: str | os.PathLike) -> Found:
  """Verify all checkpoints of a run, by the files only; nothing is changed.

  Raises:
    UserError: If there are checkpoints, but none of them is sound.
  """
  steps = checkpoint.saved_steps(workdir)
  faults: dict[int, Damaged] = {}
  for step in reversed(steps):
    try:
      checkpoint.verify_checkpoint(workdir, step)
    except Damaged as error:
      faults[step] = error
  sound = max((step for step in steps if step not in faults), default=None)
  # The first save of a run, cut off, is no loss.
  lost = [step for step, fault in faults.items() if step or not isinstance(fault, Unfinished)]
  if sound is None and lost:
    raise UserError(
      f"{workdir}: none of its checkpoints is sound, {lost[0]} is damaged ({faults[lost[0]]}); "
      "train in another folder"
    )
  return Found(steps, sound, {step: str(fault) for step, fault in faults.items()})


def set_aside_damaged(workdir: str | os.PathLike, found: Found) -> None:
  """Move damaged checkpoints to `damaged/` in the run directory, each with a warning.

  One whose save was cut off before its checksums were written is moved as well.

  Raises:
    WorkFailed: If one cannot be moved.
  """
  for step, fault in found.faults.items():
    place = checkpoint.set_aside(workdir, step)
    passed_over = found.sound is not None and step > found.sound
    instead = f", step {found.sound} is used" if passed_over else ""
    warnings.warn(
      f"{workdir}: checkpoint {step} is damaged ({fault}); moved to {place}{instead}", stacklevel=2
    )


def make_way(workdir: str | os.PathLike, found: Found, *, replaced: bool) -> None:
  """Prepare a run directory that this process holds for its next checkpoint.

  Damaged checkpoints are moved aside.

  Args:
    replaced: Whether the run, of which `found` has step 0 only, gives way to another.

  Raises:
    UserError: If the checkpoints are no longer those that were found.
    WorkFailed: If one cannot be moved or deleted.
  """
  if checkpoint.saved_steps(workdir) != found.steps:
    raise UserError(
      f"{workdir}: another process has written checkpoints meanwhile; give the same command again"
    )
  set_aside_damaged(workdir, found)
  if replaced:
    warnings.warn(
      f"{workdir}: held a run of another config that had made no step; replaced", stacklevel=2
    )
    checkpoint.delete(workdir, 0)


def load_run(workdir: str | os.PathLike, step: str, mesh: jax.sharding.Mesh) -> Loaded:
  """A checkpoint for use, with its variables (params, batch_stats).

  Args:
    step: As `sound_step` takes it.

  Raises:
    UserError: For a folder without a run, a step that it lacks, or a checkpoint that is damaged.
  """
  saved = read_run(workdir, sound_step(workdir, step))
  target = _target(saved.run, sharding.Layout(mesh)).variables
  return _with_state(saved, workdir, checkpoint.read_variables, target)


def sound_step(workdir: str | os.PathLike, step: str) -> int:
  """The step that is meant, by the files alone; its checkpoint is sound.

  Args:
    step: A number, `latest` (a damaged one is passed over with a warning) or `best` (the highest
      validation mAP).

  Raises:
    UserError: For a folder without a run, a step that it lacks, or a checkpoint that is damaged.
  """
  steps = first_only(lambda: checkpoint.saved_steps(workdir))
  if not steps:
    raise UserError(f"{workdir}: no run with a checkpoint; give the --workdir of `atgcn train`")
  if step == "latest":
    return _first_sound(workdir, steps[::-1], steps)
  if step == "best":
    newest = _first_sound(workdir, steps[::-1], steps)
    description, _ = _guarded(checkpoint.read_description, workdir, newest)
    warn_if_test_clips(
      config_from_json(description["config"]),
      f"{workdir}: its best step is the one with the highest mAP",
    )
    best = best_step(description["history"], steps)
    if best is None:
      raise UserError(
        f"{workdir}: no checkpoint has a validation mAP, so none is best; use --step latest"
      )
    return _first_sound(workdir, [best], steps)
  return _first_sound(workdir, [_step_number(workdir, step, steps)], steps)


def _first_sound(workdir, candidates: list[int], steps: list[int]) -> int:
  return first_only(lambda: _verified(workdir, candidates, steps))


def _verified(workdir, candidates: list[int], steps: list[int]) -> int:
  for candidate in candidates:
    try:
      checkpoint.verify_checkpoint(workdir, candidate)
      return candidate
    except Damaged as error:
      if candidate == candidates[-1]:
        raise UserError(
          f"{workdir}: checkpoint {candidate} is damaged ({error}); use another --step, "
          f"there are {', '.join(map(str, steps))}"
        ) from error
      warnings.warn(
        f"{workdir}: checkpoint {candidate} is damaged ({error}); the one before it is used",
        stacklevel=4,
      )
  raise AssertionError("unreachable")


def read_run(workdir: str | os.PathLike, step: int) -> Loaded:
  """A checkpoint without its state, read by all processes at once; its `state` is None.

  Raises:
    UserError: If a checkpoint without checksums cannot be read, or one is not finite.
  """
  description, constants = _guarded(checkpoint.read_description, workdir, step)
  try:
    run = run_from_saved(description, constants)
  except NotFinite as error:
    raise _not_finite(workdir, step, str(error)) from None
  return Loaded(step, run, description["history"], None)


def with_training_state(
  saved: Loaded, workdir: str | os.PathLike, layout: sharding.Layout
) -> Loaded:
  """A checkpoint of `read_run` with its TrainState.

  Raises:
    UserError: As `read_run`.
  """
  target = _target(saved.run, layout)
  return _with_state(saved, workdir, checkpoint.read_state, target)


def _with_state(saved: Loaded, workdir: str | os.PathLike, read: Callable, target: Any) -> Loaded:
  """A checkpoint of `read_run` with what `read` gives.

  Raises:
    UserError: If it cannot be read or is not finite.
  """
  state = _guarded(read, workdir, saved.step, target)
  if name := first_not_finite(state):
    raise _not_finite(workdir, saved.step, name)
  return saved._replace(state=state)


def _target(run: Run, layout: sharding.Layout) -> TrainState:
  """The shapes, types and shardings of a run's state."""
  abstract = run.abstract_state()
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    abstract,
    sharding.where_kept(layout, abstract, len(run.vocabulary)),
  )


def _not_finite(workdir, step: int, name: str) -> UserError:
  return UserError(
    f"{workdir}: checkpoint {step} holds values in {name} that are NaN or infinite; use another "
    f"--step, or move {checkpoint.FOLDER}/{step} away to resume from the one before it"
  )


def _guarded(read, workdir, step: int, *target):
  """What `read` gives.

  Raises:
    UserError: If a checkpoint from before there were checksums cannot be read.
  """
  try:
    return read(workdir, step, *target)
  except Exception as error:  # each damaged file fails in a way of its own
    if in_bucket(workdir):
      check_reachable(workdir)  # what cannot be fetched now is not damaged
    if checkpoint.has_checksums(workdir, step):
      raise
    text = " ".join(str(error).split()) or type(error).__name__
    raise UserError(
      f"{workdir}: checkpoint {step} has no checksums and cannot be read ({text:.120}); move "
      f"{checkpoint.FOLDER}/{step} away to use the one before it"
    ) from error


def best_step(history: list[dict[str, Any]], steps: list[int]) -> int | None:
  """The step among these with the highest validation mAP, the earliest of equals."""
  evaluated = [r for r in history if r["step"] in steps and r["mAP"] is not None]
  return max(evaluated, key=lambda record: record["mAP"])["step"] if evaluated else None


def _step_number(workdir, step: str, steps: list[int]) -> int:
  if step.isdecimal() and int(step) in steps:
    return int(step)
  raise UserError(
    f"--step {step}: {workdir} has no such checkpoint; there are {', '.join(map(str, steps))}, "
    "latest and best"
  )
