"""Verbs that make a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from atgcn_jax.cli.arguments import CONFIG_HELP, AddVerb, add_training


def add_training_verbs(verb: AddVerb) -> None:
  """Give the parser these verbs."""
  train = verb(
    "train",
    _train,
    "train a run, or go on with the one in a folder",
    CONFIG_HELP,
    takes_config=True,
  )
  train.add_argument("--config", required=True, help="Python file with get_config()")
  add_training(train)

  finetune = verb(
    "finetune",
    _finetune,
    "train a run on other clips and labels from here on",
    "The config is that of RUN, for 1000 steps at a lower rate; " + CONFIG_HELP + ". The same "
    "command goes on after an interruption.",
    takes_config=True,
  )
  finetune.add_argument("--from", dest="source", metavar="RUN", required=True, help="the run")
  finetune.add_argument("--step", default="latest", help="of RUN: a step, latest (default) or best")
  finetune.add_argument("--store", required=True, help="clip store or TFDS dataset to train on")
  finetune.add_argument(
    "--graph",
    metavar="FILE",
    help=".npz of counts or of `atgcn graph` (default: the clips' labels)",
  )
  finetune.add_argument("--frozen", action="store_true", help="train the head alone")
  add_training(finetune)

  torch = verb(
    "import-torch", _import_torch, "a run from PyTorch weights", CONFIG_HELP, takes_config=True
  )
  torch.add_argument("state", help=".npz of tensors by name, or .pt")
  torch.add_argument("--config", required=True, help="Python file with get_config()")
  torch.add_argument("--workdir", required=True, help="folder of the new run")
  torch.add_argument("--frontend", default="talnet", choices=("talnet", "panns"))


def _train(options) -> int:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  return _trained(options, config.deterministic, lambda: config)


def _finetune(options) -> int:
  from atgcn_jax.runs.config import config_with_overrides, default_config

  # That of the source can only be read once the processes have found each other.
  deterministic = config_with_overrides(default_config(), options.overrides).deterministic

  def config():
    from atgcn_jax.runs.finetune import finetuning_config

    return finetuning_config(
      options.source,
      options.step,
      options.store,
      options.workdir,
      graph=options.graph or "",
      frozen=options.frozen,
      overrides=options.overrides,
    )

  return _trained(options, deterministic, config)


def _trained(options, deterministic: bool, config_of: Callable[[], Any]) -> int:
  from atgcn_jax.runs.telemetry import parsed_profile

  profile = parsed_profile(options.profile) if options.profile else None
  if deterministic:
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
  from atgcn_jax.runs.training_loop import train
  from atgcn_jax.runtime.process_setup import keep_compiled_programs, keep_freed_memory
  from atgcn_jax.runtime.processes import join
  from atgcn_jax.runtime.signals import Stopped

  keep_compiled_programs()
  keep_freed_memory()
  join(options.coordinator, options.processes, options.process_id)

  try:
    train(config_of(), options.workdir, profile=profile)
  except Stopped as stopped:
    return 128 + stopped.signal_number
  return 0


def _import_torch(options) -> None:
  from atgcn_jax.interop.importing import import_torch
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  import_torch(options.state, config, options.workdir, options.frontend)
  print(f"{options.workdir}: a run at step 0 with the weights of {options.state}")
