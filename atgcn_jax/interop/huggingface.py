"""Export in the form of model hubs: safetensors, `config.json` and a model card."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from atgcn_jax.interop.model_card import model_card
from atgcn_jax.runs.calibrations import read_calibrations, write_calibrations
from atgcn_jax.runs.config import PATHS
from atgcn_jax.runs.run import Loaded
from atgcn_jax.runs.safetensors_folder import CONSTANTS, FILE
from atgcn_jax.runs.scoring_identity import checkpoint_hash
from atgcn_jax.runs.thresholds import NAME as THRESHOLDS
from atgcn_jax.runs.thresholds import read_thresholds


def write_huggingface(
  folder: pathlib.Path, loaded: Loaded, workdir: pathlib.Path
) -> dict[str, Any]:
  """Write `model.safetensors` and `README.md`, and return further entries of `config.json`.

  Tensors are named by their path, such as `params.encoder.fc1.kernel`; the normaliser and the label
  graph are named `constants.NAME`. Thresholds that were tuned at this step, and calibrations of
  added labels that were fitted on this checkpoint, are copied.

  Args:
    folder: Existing folder to write to.
    loaded: The checkpoint.
    workdir: Run directory, from which the model card takes the results of evaluations.
  """
  from safetensors.numpy import save

  tree = {**jax.device_get(loaded.state), CONSTANTS: loaded.run.constants()}
  tensors = {name: np.ascontiguousarray(x) for name, x in flatten_dict(tree, sep=".").items()}
  (folder / FILE).write_bytes(save(tensors, metadata={"format": "np"}))
  (folder / "README.md").write_text(model_card(loaded, workdir), encoding="utf-8")
  thresholds = read_thresholds(workdir)
  if thresholds is not None and thresholds.step == loaded.step:
    (folder / THRESHOLDS).write_bytes((workdir / THRESHOLDS).read_bytes())
  calibrations = read_calibrations(workdir)
  if calibrations.step is not None and calibrations.fit(
    loaded.step, checkpoint_hash(loaded.run, loaded.state)
  ):
    write_calibrations(folder, calibrations)
  description = loaded.run.description()
  without_folders(description["config"])
  return {"library_name": "atgcn_jax", "history": loaded.history, "run": description}


def without_folders(config: dict[str, Any]) -> None:
  """Reduce each path in a config to its last component, to leave out folders of this machine."""
  for key in PATHS:
    section, name = key.split(".")
    path = config.get(section, {}).get(name)
    if path:
      config[section][name] = os.path.basename(os.path.normpath(path))
