"""Discovery, verification and loading of the checkpoints in a run directory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from atgcn_jax.errors import UserError, reason
from atgcn_jax.runs.folds import splits_of, warn_if_test_clips
from atgcn_jax.runs.records import logged_evaluation
from atgcn_jax.runs.run import Loaded, NotFinite, run_from_saved
from atgcn_jax.runs.saved_form import checked_history
from atgcn_jax.runtime.buckets import check_reachable, in_bucket
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import checkpoint, saved_checkpoints, sharding
from atgcn_jax.training.checksums import Damaged, Unfinished
from atgcn_jax.training.finite import first_not_finite


class Found(NamedTuple):
  """The checkpoints of a run.

  Attributes:
    steps: The steps of all checkpoints.
    sound: The step of the newest valid checkpoint, or None.
    faults: The fault of each damaged checkpoint, by step.
  """

  steps: list[int]
  sound: int | None
  faults: dict[int, str]


def find_checkpoints(workdir: str | os.PathLike) -> Found:
  """Verify all checkpoints of a run by their files, without changing anything.

  Raises:
    UserError: If there are checkpoints, but none of them is valid.
  """
  steps = saved_checkpoints.saved_steps(workdir)
  faults: dict[int, Damaged] = {}
  for step in reversed(steps):
    try:
      saved_checkpoints.verify_checkpoint(workdir, step)
    except Damaged as error:
      faults[step] = error
  sound = max((step for step in steps if step not in faults), default=None)
  # An unfinished save at step 0 loses nothing.
  lost = [step for step, fault in faults.items() if step or not isinstance(fault, Unfinished)]
  if sound is None and lost:
    raise UserError(
      f"{workdir}: has no valid checkpoint; checkpoint {lost[0]} is damaged ({faults[lost[0]]}); "
      "train in another folder"
    )
  return Found(steps, sound, {step: str(fault) for step, fault in faults.items()})


def set_aside_damaged(workdir: str | os.PathLike, found: Found) -> None:
  """Move damaged checkpoints to `damaged/` in the run directory, with a warning for each.

  This includes checkpoints whose save was interrupted before their checksums were written.

  Raises:
    WorkFailed: If a checkpoint cannot be moved.
  """
  for step, fault in found.faults.items():
    place = checkpoint.set_aside(workdir, step)
    is_newer = found.sound is not None and step > found.sound
    instead = f"; step {found.sound} is used instead" if is_newer else ""
    warnings.warn(
      f"{workdir}: checkpoint {step} is damaged ({fault}); moved to {place}{instead}", stacklevel=2
    )


def make_way(workdir: str | os.PathLike, found: Found, *, replaced: bool) -> None:
  """Prepare a run directory, whose lock this process holds, for its next checkpoint.

  Damaged checkpoints are moved aside.

  Args:
    workdir: The run directory.
    found: Its checkpoints.
    replaced: Whether a new run replaces the one in the folder, which only has step 0.

  Raises:
    UserError: If the checkpoints have changed since they were found.
    WorkFailed: If a checkpoint cannot be moved or deleted.
  """
  if saved_checkpoints.saved_steps(workdir) != found.steps:
    raise UserError(
      f"{workdir}: another process wrote checkpoints in the meantime; repeat the same command"
    )
  set_aside_damaged(workdir, found)
  if replaced:
    warnings.warn(
      f"{workdir}: replaced a run with another config and no training step", stacklevel=2
    )
    checkpoint.delete(workdir, 0)


def load_run(workdir: str | os.PathLike, step: str, mesh: jax.sharding.Mesh) -> Loaded:
  """Return a checkpoint with its variables (params, batch_stats), ready for inference.

  Args:
    workdir: The run directory.
    step: The step; see `sound_step`.
    mesh: The mesh on which the variables are replicated.

  Raises:
    UserError: If the folder has no run, the step does not exist, or the checkpoint is damaged.
  """
  saved = read_run(workdir, sound_step(workdir, step))
  # The shapes are those of the checkpoint: deriving them from the system would take a second.
  shapes = _guarded(saved_checkpoints.shapes_of_variables, workdir, saved.step)
  target = _placed(shapes, sharding.Layout(mesh), len(saved.run.vocabulary))
  return _with_state(saved, workdir, saved_checkpoints.read_variables, target)


def sound_step(workdir: str | os.PathLike, step: str) -> int:
  """Return the number of a step whose checkpoint is valid, from the files only.

  Args:
    workdir: The run directory.
    step: A number, `latest` (damaged checkpoints are skipped with a warning) or `best` (the highest
      validation mAP).

  Raises:
    UserError: If the folder has no run, the step does not exist, or the checkpoint is damaged.
  """
  steps = first_only(lambda: saved_checkpoints.saved_steps(workdir))
  if not steps:
    raise UserError(f"{workdir}: no run with a checkpoint; give the --workdir of `atgcn train`")
  if step == "latest":
    return _first_sound(workdir, steps[::-1], steps)
  if step == "best":
    newest = _first_sound(workdir, steps[::-1], steps)
    saved = read_run(workdir, newest)
    warn_if_test_clips(
      splits_of(saved.run.config), f"{workdir}: the best step is the one with the highest mAP"
    )
    best = best_step(saved.history, steps)
    if best is None:
      raise UserError(
        f"{workdir}: no checkpoint has a validation mAP to select the best; use --step latest"
      )
    return _first_sound(workdir, [best], steps)
  return _first_sound(workdir, [_step_number(workdir, step, steps)], steps)


def _first_sound(workdir, candidates: list[int], steps: list[int]) -> int:
  return first_only(lambda: _verified(workdir, candidates, steps))


def _verified(workdir, candidates: list[int], steps: list[int]) -> int:
  for candidate in candidates:
    try:
      saved_checkpoints.verify_checkpoint(workdir, candidate)
      return candidate
    except Damaged as error:
      if candidate == candidates[-1]:
        raise UserError(
          f"{workdir}: checkpoint {candidate} is damaged ({error}); use another --step of "
          f"{', '.join(map(str, steps))}"
        ) from error
      warnings.warn(
        f"{workdir}: checkpoint {candidate} is damaged ({error}); the previous one is used",
        stacklevel=4,
      )
  raise AssertionError("unreachable")


def read_run(workdir: str | os.PathLike, step: int) -> Loaded:
  """Return a checkpoint without its state; `state` is None. All processes must call this.

  The history has the evaluation of this step also if it is only in the log.

  Raises:
    UserError: If the checkpoint cannot be read or has other content, or a value is not finite.
  """
  try:
    saved = _guarded(_described, workdir, step)
  except NotFinite as error:
    raise _not_finite(workdir, step, str(error)) from None
  logged = first_only(lambda: logged_evaluation(workdir, step, saved.history))
  return saved._replace(history=saved.history + logged)


def _described(workdir: str | os.PathLike, step: int) -> Loaded:
  """Return a checkpoint without its state.

  Raises:
    NotFinite: If one of the constants has invalid values.
    Exception: If the checkpoint is damaged. The type varies.
  """
  description, constants = saved_checkpoints.read_description(workdir, step)
  run = run_from_saved(description, constants)
  return Loaded(step, run, checked_history(description.get("history")), None)


def with_training_state(
  saved: Loaded, workdir: str | os.PathLike, layout: sharding.Layout
) -> Loaded:
  """Return a checkpoint of `read_run` with its TrainState.

  Raises:
    UserError: If the state cannot be read, or a value is not finite.
  """
  target = _placed(saved.run.abstract_state(), layout, len(saved.run.vocabulary))
  return _with_state(saved, workdir, saved_checkpoints.read_state, target)


def _with_state(saved: Loaded, workdir: str | os.PathLike, read: Callable, target: Any) -> Loaded:
  """Return a checkpoint of `read_run` with the arrays that `read` returns.

  Raises:
    UserError: If the arrays cannot be read, or a value is not finite.
  """
  state = _guarded(read, workdir, saved.step, target)
  if name := first_not_finite(state):
    raise _not_finite(workdir, saved.step, name)
  return saved._replace(state=state)


def _placed(shapes: Any, layout: sharding.Layout, classes: int) -> Any:
  """Return a tree of ShapeDtypeStructs with the shardings of a layout for this number of labels."""
  return jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    shapes,
    sharding.where_kept(layout, shapes, classes),
  )


def _not_finite(workdir, step: int, name: str) -> UserError:
  return UserError(
    f"{workdir}: checkpoint {step} holds values in {name} that are NaN or infinite; use another "
    f"--step, or move {saved_checkpoints.FOLDER}/{step} away to resume from the previous one"
  )


def _guarded(read, workdir, step: int, *target):
  """Return the result of `read`.

  Raises:
    NotFinite: As `read`.
    UserError: If a checkpoint cannot be read. One with checksums is as it was written, but not by
      this program or version.
  """
  try:
    return read(workdir, step, *target)
  except (NotFinite, UserError):
    raise
  except Exception as error:  # damaged files raise many types of errors
    if in_bucket(workdir):
      check_reachable(workdir)  # an unreachable file is not a damaged file
    if saved_checkpoints.has_checksums(workdir, step):
      raise UserError(
        f"{workdir}: checkpoint {step} has other content than expected ({reason(error)}); use the "
        "version that wrote it, or another --step"
      ) from error
    raise UserError(
      f"{workdir}: checkpoint {step} has no checksums and cannot be read ({reason(error)}); move "
      f"{saved_checkpoints.FOLDER}/{step} away to use the previous one"
    ) from error


def best_step(history: list[dict[str, Any]], steps: list[int]) -> int | None:
  """Return the one of `steps` with the highest validation mAP, the earliest of ties, or None."""
  evaluated = [r for r in history if r["step"] in steps and r["mAP"] is not None]
  return max(evaluated, key=lambda record: record["mAP"])["step"] if evaluated else None


def _step_number(workdir, step: str, steps: list[int]) -> int:
  if step.isdecimal() and int(step) in steps:
    return int(step)
  raise UserError(
    f"--step {step}: {workdir} has no such checkpoint; use one of {', '.join(map(str, steps))}, "
    "latest or best"
  )
