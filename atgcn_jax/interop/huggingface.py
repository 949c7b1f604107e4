"""A folder as model hubs keep them: safetensors, `config.json` and a model card; and back."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from atgcn_jax.errors import UserError
from atgcn_jax.interop.model_card import model_card
from atgcn_jax.runs.assemble import run_from_saved
from atgcn_jax.runs.config import PATHS
from atgcn_jax.runs.restore import Loaded, load
from atgcn_jax.runs.thresholds import NAME as THRESHOLDS
from atgcn_jax.runs.thresholds import read_thresholds

FILE = "model.safetensors"
CONSTANTS = "constants"


def write(folder: pathlib.Path, loaded: Loaded, workdir: pathlib.Path) -> dict[str, Any]:
  """Write `model.safetensors` and `README.md`; returns what `config.json` must hold besides.

  Tensors are named by their path, `params.encoder.fc1.kernel`; the normaliser and the label graph
  are `constants.NAME`. Thresholds that were tuned at this step go along.

  Args:
    workdir: of the run, for the figures of its evaluations.
  """
  from safetensors.numpy import save

  tree = {**jax.device_get(loaded.state), CONSTANTS: loaded.run.constants()}
  tensors = {name: np.ascontiguousarray(x) for name, x in flatten_dict(tree, sep=".").items()}
  (folder / FILE).write_bytes(save(tensors, metadata={"format": "np"}))
  (folder / "README.md").write_text(model_card(loaded, workdir), encoding="utf-8")
  thresholds = read_thresholds(workdir)
  if thresholds is not None and thresholds.step == loaded.step:
    (folder / THRESHOLDS).write_bytes((workdir / THRESHOLDS).read_bytes())
  description = loaded.run.description()
  without_folders(description["config"])
  return {"library_name": "atgcn_jax", "history": loaded.history, "run": description}


def without_folders(config: dict[str, Any]) -> None:
  """Leave of each path in a config its last name: folders of this machine are not for others."""
  for key in PATHS:
    section, name = key.split(".")
    path = config.get(section, {}).get(name)
    if path:
      config[section][name] = os.path.basename(os.path.normpath(path))


def is_one(folder: str | os.PathLike) -> bool:
  """Whether this folder holds what `write` wrote."""
  return pathlib.Path(folder, FILE).is_file()


def load_either(folder: str | os.PathLike, step: str, mesh: jax.sharding.Mesh) -> Loaded:
  """A checkpoint for use, of a run directory or of a folder that `write` made.

  Args:
    step: a number, `latest` or `best`; what `write` made has one step.
  Raises:
    UserError: if there is no such run or checkpoint, or it cannot be read.
  """
  if not is_one(folder):
    return load(folder, step, mesh)
  exported = read(folder)
  if step not in ("latest", "best", str(exported.step)):
    raise UserError(f"--step {step}: {folder} is an export of step {exported.step} alone")
  return exported


def read(folder: str | os.PathLike) -> Loaded:
  """The checkpoint that such a folder was made of, to the bit.

  Raises:
    UserError: if a file is missing, damaged, or does not fit the others.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load_file

  try:
    config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
    tree = unflatten_dict(load_file(pathlib.Path(folder, FILE)), sep=".")
    run = run_from_saved(config["run"], tree.pop(CONSTANTS))
    step, history = config["step"], config["history"]
  except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    raise UserError(f"{folder}: cannot be read ({text:.120}); export it again") from error
  wanted = run.abstract_state().variables
  if _shapes(wanted) != _shapes(tree):
    raise UserError(f"{folder}: {FILE} is not of the system in config.json; export it again")
  return Loaded(step, run, history, jax.tree.map(jax.numpy.asarray, tree))


def _shapes(variables: dict[str, Any]) -> dict[str, Any]:
  return {name: (x.shape, x.dtype) for name, x in flatten_dict(variables, sep=".").items()}
