"""Verbs that create or train a run: train, finetune, import-torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atgcn_jax.cli.arguments import CONFIG_HELP, AddVerb, add_training


def add_training_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  _add_train(verb)
  _add_finetune(verb)
  _add_import_torch(verb)


def _add_train(verb: AddVerb) -> None:
  train = verb(
    "train",
    _train,
    "train a new run, or resume the run in a directory",
    CONFIG_HELP,
    takes_config=True,
  )
  train.add_argument(
    "--config", metavar="FILE", required=True, help="Python file that defines get_config()"
  )
  add_training(train)


def _add_finetune(verb: AddVerb) -> None:
  finetune = verb(
    "finetune",
    _finetune,
    "fine-tune a trained run on other clips and labels",
    "The config is that of RUN, changed to 1000 steps with a cosine schedule. "
    + CONFIG_HELP
    + " After an interruption the same command resumes.",
    takes_config=True,
  )
  finetune.add_argument(
    "--from",
    dest="source",
    metavar="RUN",
    required=True,
    help="directory of the run to start from, or of its export to huggingface",
  )
  finetune.add_argument(
    "--step",
    default="latest",
    help="checkpoint of RUN to start from: a step number, latest or best (default: latest)",
  )
  finetune.add_argument(
    "--store", metavar="STORE", required=True, help="clip store or TFDS dataset to train on"
  )
  finetune.add_argument(
    "--graph",
    metavar="FILE",
    help=".npz file of label counts, or of `atgcn graph` (default: count the training clips)",
  )
  finetune.add_argument(
    "--frozen", action="store_true", help="train only the head and keep the encoder unchanged"
  )
  add_training(finetune)


def _add_import_torch(verb: AddVerb) -> None:
  torch = verb(
    "import-torch",
    _import_torch,
    "create a run from PyTorch weights",
    CONFIG_HELP,
    takes_config=True,
  )
  torch.add_argument(
    "state", help="weights: .npz file of tensors by name, or .pt or .pth file of a state dict"
  )
  torch.add_argument(
    "--config", metavar="FILE", required=True, help="Python file that defines get_config()"
  )
  torch.add_argument("--workdir", metavar="DIR", required=True, help="directory of the new run")
  torch.add_argument(
    "--frontend",
    default="",
    choices=("talnet", "panns", "efficientat"),
    help="front end that the weights were trained with (default: data.frontend of the config, or "
    "talnet)",
  )


def _train(options) -> int:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  return _trained(options, config.deterministic, lambda: config)


def _finetune(options) -> int:
  from atgcn_jax.runs.config import config_with_overrides, default_config

  # All processes read the source's config together, after they have joined. The flag of
  # `deterministic` must be set before that, so it is read from the overrides.
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
  from atgcn_jax.runtime.process_setup import (
    compute_reproducibly,
    keep_compiled_programs,
    keep_freed_memory,
  )

  if deterministic:
    compute_reproducibly()
  from atgcn_jax.runs.training_loop import train
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
  print(f"{options.workdir}: run at step 0 with the weights of {options.state}")
