"""The config of a run that starts from another run, with other clips and labels."""

from __future__ import annotations

import os
from typing import Any

from atgcn_jax.errors import UserError
from atgcn_jax.labels.embeddings import WITHOUT_FILE
from atgcn_jax.runs.config import config_with_overrides
from atgcn_jax.runs.config_defaults import DEFAULTS, SOUNDSCAPES
from atgcn_jax.runs.label_graph import embeddings_path, ontology_path
from atgcn_jax.runs.load import find_checkpoints, read_run, sound_step
from atgcn_jax.runs.safetensors_folder import is_safetensors_export, read_export
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.processes import first_only

# Replacements for values of the source config, which are meant for training from scratch. The peak
# learning rate is not replaced: with a lower one, fine-tuning is worse than training from scratch
# (docs/finetune.md).
CHANGES: dict[str, Any] = {
  "optim": {
    "steps": 1000,
    "passes": 0.0,
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
  """Return the config with which `train` fine-tunes `source` in `workdir`.

  It is the config of the source with `CHANGES`, other clips, another graph and `start` set to the
  source. The label vectors and the ontology are those of the source.

  Args:
    source: The run directory or export to start from.
    step: The checkpoint of the source: a step number, `latest` or `best`.
    store: The store of the clips to train on. Its vocabulary may differ from that of the source.
    workdir: The run directory to train in.
    graph: An .npz file of counts or of `atgcn graph`. If empty, the labels of the training clips
      are counted.
    frozen: Whether the encoder is frozen.
    overrides: Arguments such as `--config.optim.steps=100`.

  Raises:
    UserError: If the source cannot be used, one of its files is not found, or `workdir` has a run
      that started from another run.
  """
  number, config = saved_config(source, step)
  embeddings = embeddings_path(config.data.root, config.graph.embeddings)
  ontology = ontology_path(config.data.root, config.graph.ontology)
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
      relative = "" if os.path.isabs(path) else ", relative to the folder where training ran"
      raise UserError(
        f"graph.{key}: {path} not found; the run {source} was trained with a file of that name"
        f"{relative}; give its current path with --config.graph.{key}=PATH"
      )
  return changed


def saved_config(source: str | os.PathLike, step: str) -> tuple[int, Any]:
  """Return the step and the config of a checkpoint of a run or of an export to `huggingface`.

  Raises:
    UserError: If there is no such checkpoint.
  """
  if is_safetensors_export(source):
    exported = read_export(source)
    return exported.step, exported.run.config
  number = sound_step(source, step)
  return number, read_run(source, number).run.config  # called by all processes at once


def check_begun_with(source: str | os.PathLike, step: int, workdir: str | os.PathLike) -> None:
  """Refuse a folder whose run started from another run or step.

  The runs are only compared if the other run still exists. A run at step 0 is not refused, because
  training replaces it.

  Raises:
    UserError: If the run in `workdir` started from another run or step.
  """
  sound = first_only(lambda: find_checkpoints(workdir).sound)
  if not sound:
    return
  start = read_run(workdir, sound).run.config.start
  origin, number = start.run, start.step
  is_there = bool(origin) and os.path.isdir(origin)
  if is_there and (in_bucket(source) or not os.path.samefile(origin, source)):
    raise UserError(
      f"--workdir {workdir}: its run started from {origin}, not from {source}; use another folder"
    )
  if origin and number != str(step):
    raise UserError(
      f"--workdir {workdir}: its run started from step {number} of {origin}, not from step {step}; "
      f"use --step {number} or another folder"
    )
