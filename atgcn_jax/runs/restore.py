"""Finding and loading what a run directory holds."""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple

import jax

from atgcn_jax.buckets import check_reachable, in_bucket
from atgcn_jax.errors import UserError
from atgcn_jax.runs.assemble import Run, run_from_saved
from atgcn_jax.training import checkpoint, sharding
from atgcn_jax.training.state import TrainState


class Damaged(Exception):  # noqa: N818 (a state of a file)
  """A checkpoint whose files cannot be read."""


class Loaded(NamedTuple):
  """A checkpoint: the run it belongs to, the evaluations so far, and the arrays asked for."""

  step: int
  run: Run
  history: list[dict[str, Any]]
  state: Any


def newest_sound(workdir: str | os.PathLike, layout: sharding.Layout) -> Loaded | None:
  """The newest checkpoint that can be read, with its TrainState; None where there is none.

  A damaged checkpoint is passed over with a warning and moved to `damaged/` in the run directory.

  Raises:
    UserError: if there are checkpoints, but none of them can be read.
  """
  steps = checkpoint.saved_steps(workdir)
  for step in reversed(steps):
    try:
      return _load(workdir, step, layout, whole_state=True)
    except Damaged as error:
      place = checkpoint.set_aside(workdir, step)
      warnings.warn(
        f"{workdir}: checkpoint {step} is damaged ({error}); moved to {place}, "
        "the one before it is used",
        stacklevel=2,
      )
  if steps:
    raise UserError(f"{workdir}: none of its checkpoints can be read; train in another folder")
  return None


def load(workdir: str | os.PathLike, step: str, mesh: jax.sharding.Mesh) -> Loaded:
  """A checkpoint for use, with its variables (params, batch_stats).

  Args:
    step: a number, `latest` (a damaged one is passed over with a warning) or `best` (the highest
      validation mAP).
  Raises:
    UserError: for a folder without a run, a step that it lacks, or a checkpoint that is damaged.
  """
  steps = checkpoint.saved_steps(workdir)
  if not steps:
    raise UserError(f"{workdir}: no run with a checkpoint; give the --workdir of `atgcn train`")
  if step == "latest":
    candidates = list(reversed(steps))
  elif step == "best":
    candidates = [_best_step(workdir, steps)]
  else:
    candidates = [_step_number(workdir, step, steps)]
  for candidate in candidates:
    try:
      return _load(workdir, candidate, sharding.Layout(mesh), whole_state=False)
    except Damaged as error:
      if candidate == candidates[-1]:
        raise UserError(
          f"{workdir}: checkpoint {candidate} is damaged ({error}); use another --step, "
          f"there are {', '.join(map(str, steps))}"
        ) from error
      warnings.warn(
        f"{workdir}: checkpoint {candidate} is damaged ({error}); the one before it is used",
        stacklevel=2,
      )
  raise AssertionError("unreachable")


def _load(workdir, step: int, layout: sharding.Layout, *, whole_state: bool) -> Loaded:
  # Only reading is guarded: a mistake of ours must not pass for a damaged file.
  description, constants = _guarded(checkpoint.read_description, workdir, step)
  run = run_from_saved(description, constants)
  abstract = run.abstract_state()
  target: TrainState = jax.tree.map(
    lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    abstract,
    sharding.where_kept(layout, abstract, len(run.vocabulary)),
  )
  if whole_state:
    state = _guarded(checkpoint.read_state, workdir, step, target)
  else:
    state = _guarded(checkpoint.read_variables, workdir, step, target.variables)
  return Loaded(step, run, description["history"], state)


def _guarded(read, workdir, *args):
  try:
    return read(workdir, *args)
  except Exception as error:  # each damaged file fails in a way of its own
    if in_bucket(workdir):
      check_reachable(workdir)  # what cannot be fetched now is not damaged
    text = " ".join(str(error).split()) or type(error).__name__
    raise Damaged(text if len(text) <= 120 else text[:117] + "...") from error


def best_step(history: list[dict[str, Any]], steps: list[int]) -> int | None:
  """The step among these with the highest validation mAP, the earliest of equals."""
  evaluated = [r for r in history if r["step"] in steps and r["mAP"] is not None]
  return max(evaluated, key=lambda record: record["mAP"])["step"] if evaluated else None


def _best_step(workdir, steps: list[int]) -> int:
  for step in reversed(steps):
    try:
      description, _ = _guarded(checkpoint.read_description, workdir, step)
    except Damaged:
      continue
    if (best := best_step(description["history"], steps)) is not None:
      return best
    break
  raise UserError(
    f"{workdir}: no checkpoint has a validation mAP, so none is best; use --step latest"
  )


def _step_number(workdir, step: str, steps: list[int]) -> int:
  if step.isdecimal() and int(step) in steps:
    return int(step)
  raise UserError(
    f"--step {step}: {workdir} has no such checkpoint; there are {', '.join(map(str, steps))}, "
    "latest and best"
  )
