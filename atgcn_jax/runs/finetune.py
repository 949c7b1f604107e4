"""The config of a run that goes on from another run, on other clips and labels."""

from __future__ import annotations

import os
from typing import Any

from atgcn_jax.errors import UserError
from atgcn_jax.labels.embeddings import WITHOUT_FILE
from atgcn_jax.runs.config import (
  DEFAULTS,
  SOUNDSCAPES,
  config_from_json,
  config_with_overrides,
  data_path,
)
from atgcn_jax.runs.label_graph import ontology_path
from atgcn_jax.runs.load import sound_step
from atgcn_jax.runs.safetensors_folder import is_safetensors_export, read_export
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import checkpoint

# In place of the source's, whose length is that of a training from scratch. The peak learning rate
# stays the source's: a lower one loses to training from scratch (docs/finetune.md).
CHANGES: dict[str, Any] = {
  "optim": {
    "steps": 1000,
    "schedule": "cosine",
    "warmup_steps": 50,
    "final_factor": 0.01,
    "head_factor": 1.0,
    "plateau_factor": 1.0,
  },
  "evaluation": {"every": 100},
  "checkpoint": {"every": 100},
  "log": {"every": 20},
  "sharding": DEFAULTS["sharding"],
  "deterministic": False,
}


def finetuning_config(
  source: str | os.PathLike,
  step: str,
  store: str,
  workdir: str | os.PathLike,
  *,
  graph: str = "",
  frozen: bool = False,
  overrides: list[str],
):
  """The config with which `train` goes on from `source` in `workdir`.

  It is the source's config but for `CHANGES`, the clips, the graph and the start; label vectors and
  the ontology stay the source's.

  Args:
    step: Of the source: a number, `latest` or `best`.
    store: The clips to train on, with a vocabulary of their own.
    graph: .npz of counts or of `atgcn graph`; where empty, the labels of the clips are counted.
    frozen: Whether the encoder stays as it is.
    overrides: Arguments like `--config.optim.steps=100`.

  Raises:
    UserError: For a source that cannot be used or whose files are not found, or a folder with a run
      that began with another one.
  """
  number, config = saved_config(source, step)
  embeddings, ontology = config.graph.embeddings, ontology_path(config)
  if embeddings not in WITHOUT_FILE:
    embeddings = data_path(config, embeddings)
  config.update(CHANGES)
  config.data.update({"root": "", "store": store, "vocabulary": "", "placement": "host"})
  config.data.allow_test_overlap = False
  config.graph.update(
    {"source": graph or "store", "counts_set": "", "embeddings": embeddings, "ontology": ontology}
  )
  config.model.freeze_encoder = frozen
  config.start.update({"run": os.fspath(source), "step": str(number)})
  check_begun_with(source, number, workdir)
  changed = config_with_overrides(config, overrides)
  for key, path in (("embeddings", embeddings), ("ontology", ontology)):
    is_file = path and path not in (*WITHOUT_FILE, SOUNDSCAPES) and not in_bucket(path)
    if is_file and changed.graph[key] == path and not os.path.exists(path):
      relative = "" if os.path.isabs(path) else ", relative to the folder that it was trained from"
      raise UserError(
        f"graph.{key}: {path} not found; the run {source} was trained with a file of that name"
        f"{relative}; give the file's path now with --config.graph.{key}=PATH"
      )
  return changed


def saved_config(source: str | os.PathLike, step: str) -> tuple[int, Any]:
  """Step and config of a checkpoint, of a run or of an export to `huggingface`.

  Raises:
    UserError: If there is none.
  """
  if is_safetensors_export(source):
    exported = read_export(source)
    return exported.step, exported.run.config
  number = sound_step(source, step)
  description, _ = checkpoint.read_description(source, number)  # by all processes at once
  return number, config_from_json(description["config"])


def check_begun_with(source: str | os.PathLike, step: int, workdir: str | os.PathLike) -> None:
  """Refuse a folder whose run began with another one, as far as that is still there.

  A run that has made no step is not refused: the training replaces it.

  Raises:
    UserError: Naming both.
  """
  steps = first_only(lambda: checkpoint.saved_steps(workdir))
  if not steps or steps == [0]:
    return
  ours = checkpoint.read_description(workdir, steps[-1])[0]["config"].get("start", {})
  began, number = ours.get("run", ""), ours.get("step", "")
  if began and os.path.isdir(began) and not os.path.samefile(began, source):
    raise UserError(f"--workdir {workdir}: its run began with {began}, not {source}; name another")
  if began and number != str(step):
    raise UserError(
      f"--workdir {workdir}: its run began with step {number} of {began}, not {step}; give "
      f"--step {number}, or another folder"
    )
