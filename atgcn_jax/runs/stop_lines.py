"""The lines of a training that is asked to stop. Process 0 prints them, the others nothing."""

from __future__ import annotations

import os

from atgcn_jax.runtime.processes import is_first
from atgcn_jax.training.saved_checkpoints import has_checksums, saved_steps


def after_this_step(name: str) -> str:
  """Return the line after the first signal.

  Args:
    name: The name of the signal.
  """
  if not is_first():
    return ""
  again = "a second Ctrl-C" if name == "SIGINT" else "Ctrl-C"
  return (
    f"{name}: stops after this step and saves it; {again} ends at once and loses the steps since "
    "the last save"
  )


def at_once(workdir: str | os.PathLike) -> str:
  """Return the line after a forced stop, with the step from which the run in `workdir` resumes."""
  if not is_first():
    return ""
  try:
    step = max(step for step in saved_steps(workdir) if has_checksums(workdir, step))
  except Exception:  # no step, or a folder or bucket that cannot be read
    where = "the newest saved step"
  else:
    where = f"step {step}, the newest saved"
  return f"ended at once; repeat the same command to resume from {where}"
