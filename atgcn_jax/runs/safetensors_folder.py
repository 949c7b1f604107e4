"""Runs in safetensors folders written by `atgcn export --to huggingface`."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from atgcn_jax.errors import UserError, reason
from atgcn_jax.runs.run import Loaded, NotFinite, Run, run_from_saved
from atgcn_jax.runs.saved_form import checked_export
from atgcn_jax.training import checksums
from atgcn_jax.training.finite import first_not_finite

FILE = "model.safetensors"
CONSTANTS = "constants"


def is_safetensors_export(folder: str | os.PathLike) -> bool:
  """Return whether a folder is an export to `huggingface`."""
  return pathlib.Path(folder, FILE).is_file()


def load_either(folder: str | os.PathLike, step: str, mesh: jax.sharding.Mesh) -> Loaded:
  """Return a checkpoint of a run directory or of an export, with its variables.

  Args:
    folder: The run directory or the export to `huggingface`.
    step: A number, `latest` or `best`. An export has only one step.
    mesh: The mesh on which the variables of a run are replicated.

  Raises:
    UserError: If there is no such run or checkpoint, or it cannot be read.
  """
  if not is_safetensors_export(folder):
    # Importing Orbax takes as long as tagging a file.
    from atgcn_jax.runs.load import load_run

    return load_run(folder, step, mesh)
  exported = read_export(folder)
  if step not in ("latest", "best", str(exported.step)):
    raise UserError(
      f"--step {step}: {folder} is an export of step {exported.step}; use --step {exported.step}"
    )
  return exported


def read_export(folder: str | os.PathLike) -> Loaded:
  """Return the checkpoint that was exported to a folder, bit for bit.

  Raises:
    UserError: If a file is missing or damaged, or does not match the other files.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    text = pathlib.Path(folder, "config.json").read_text(encoding="utf-8")
    config = checked_export(json.loads(text))
    tree = unflatten_dict(load_file(pathlib.Path(folder, FILE)), sep=".")
    if not isinstance(constants := tree.pop(CONSTANTS, None), dict):
      raise ValueError(f"{FILE} has no {CONSTANTS}")
    run = run_from_saved(config["run"], constants)
  except NotFinite as error:
    raise _not_finite(folder, f"{CONSTANTS}.{error}") from None
  except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
    raise UserError(f"{folder}: cannot be read ({reason(error)}); export the run again") from error
  if not _is_as_written(folder) and _expected_shapes(folder, run) != _shapes(tree):
    raise UserError(f"{folder}: {FILE} does not match config.json; export the run again")
  if name := first_not_finite(tree):
    raise _not_finite(folder, name)
  history: Any = config["history"]
  return Loaded(config["step"], run, history, jax.device_put(tree))


def _expected_shapes(folder: str | os.PathLike, run: Run) -> dict[str, Any]:
  """Return the shapes and types of the variables of a run.

  Raises:
    UserError: If the config describes no system.
  """
  try:
    return _shapes(run.abstract_state().variables)
  except Exception as error:  # settings that do not fit raise many types of errors in a module
    raise UserError(
      f"{folder}: config.json describes no system ({reason(error)}); export the run again"
    ) from error


def _is_as_written(folder: str | os.PathLike) -> bool:
  """Return whether a folder has checksums and all its files are unchanged."""
  try:
    checksums.verify_files(pathlib.Path(folder))
  except checksums.Damaged:
    return False
  return True


def _not_finite(folder: str | os.PathLike, name: str) -> UserError:
  return UserError(
    f"{folder}: {FILE} holds values in {name} that are NaN or infinite; export the run again"
  )


def _shapes(variables: dict[str, Any]) -> dict[str, Any]:
  return {name: (x.shape, x.dtype) for name, x in flatten_dict(variables, sep=".").items()}
