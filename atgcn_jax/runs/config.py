"""A run's configuration: keys and their defaults, files, overrides, contradictions."""

from __future__ import annotations

import json
import math
import os
import runpy
from collections.abc import Callable
from typing import Any

from atgcn_jax.errors import UserError

SOUNDSCAPES = "soundscapes"  # in place of a path: the built-in ones

# Every key there is. A config file may leave out what it does not change.
DEFAULTS: dict[str, Any] = {
  "seed": 0,
  "model": {
    "encoder": "cnn10",  # one of models.ENCODERS
    "depth": 50,  # or 34: of the encoder deepres
    "pooling": "",  # of encoders that give frames: one of models.pooling.POOLINGS, or their own
    "head": "graph",  # graph (AT-GCN) or linear (CNN10)
    "freeze_encoder": False,  # trains the head alone; the encoder works as in scoring
    "width": 1.0,  # multiplies the channels of the encoder and of the graph's hidden layers
    "dtype": "float32",  # compute type; parameters stay float32 under bfloat16
    "batch_norm": "global",  # or local: in training, statistics of each device's own clips
    "dropout": {"block": 0.2, "pooled": 0.5, "embedding": 0.5},
    "layers": 2,  # graph convolutions
    "hidden": 256,
    "activation": "leaky_relu",  # leaky_relu, prelu or relu
    "negative_slope": 0.2,
  },
  "graph": {
    "method": "paper",  # see labels.adjacency.propagation_matrix
    "threshold": 0.3,
    "neighbour_weight": 0.2,
    "source": "store",  # the training clips' labels, or an .npz of counts or of `atgcn graph`
    "counts_set": "",  # balanced, unbalanced or full, where the .npz holds several
    "ontology": "",  # ontology.json, for the method `ontology` and loss.hierarchy, or soundscapes
    "embeddings": "builtin",  # or random, one_hot, a GloVe text file, or an .npz
    "embedding_size": 300,
  },
  "data": {
    "root": "",  # paths of the sections data and graph are relative to this folder
    # A file of `atgcn prepare`, a folder of `atgcn tfds`, or the built-in soundscapes.
    "store": "soundscapes",
    "soundscape_clips": 2000,
    "vocabulary": "",  # CSV; only needed where there is no store to take it from
    "train_folds": ("train",),
    "validation_folds": ("validation",),
    "test_folds": ("test",),
    "validation_share": 0.0,  # of the training folds, by a hash of the clip id
    "allow_test_overlap": False,  # trains although a fold is in train_folds and in test_folds
    # balanced: a queue per class and one for clips without a label, which make up their share of
    # the training clips, at most half; or shuffled: passes over all clips (TFRecord data too).
    "sampling": "balanced",
    "batch_size": 64,
    "placement": "host",  # or device: the training clips lie in the devices' memory
  },
  "augment": {
    "form": "authors",  # authors or panns
    "mixup_alpha": 0.2,
    "time_stripes": 2,
    "time_width": 64,
    "band_stripes": 2,
    "band_width": 8,
  },
  "optim": {
    "steps": 600_000,
    "learning_rate": 1e-3,
    "head_factor": 1.0,  # multiplies the rate of the head's parameters
    "schedule": "constant",  # constant, cosine, linear or exponential
    "warmup_steps": 0,
    "final_factor": 0.0,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "clip_norm": 0.0,
    "plateau_factor": 1.0,  # below 1: multiplies the rate when validation mAP stands still
    "plateau_patience": 3,
  },
  "loss": {
    "laplacian": 0.0,  # weight of training.losses.laplacian_penalty
    "hierarchy": 0.0,  # weight of training.losses.hierarchical_loss; needs graph.ontology
  },
  "sharding": {
    "fsdp": False,  # parameters and optimiser state in parts, one a device, not whole on each
    "label_parts": 1,  # into so many fall the labels, and with them the logits and the head
  },
  "start": {
    "run": "",  # a run whose parameters of the same name and shape this one begins with
    "step": "best",
  },
  "evaluation": {"every": 2000, "batch_size": 64},
  "checkpoint": {"every": 2000, "keep": 2},
  "log": {"every": 100},
  "deterministic": False,  # the same bits on a GPU, slower; CPU and TPU always give them
}

# What may differ when a run is resumed: how long, where from, how often it is saved or logged.
# The content behind the paths is compared instead of the paths, but for start.run, which is only
# read before the first step.
PATHS = (
  "data.root",
  "data.store",
  "data.vocabulary",
  "graph.source",
  "graph.ontology",
  "graph.embeddings",
  "start.run",
)
FREE_ON_RESUME = (
  *PATHS,
  "optim.steps",
  "data.allow_test_overlap",
  "data.placement",
  "sharding",
  "checkpoint",
  "log",
)


AT_LEAST_1 = (
  "model.layers",
  "model.hidden",
  "graph.embedding_size",
  "data.soundscape_clips",
  "data.batch_size",
  "optim.steps",
  "optim.plateau_patience",
  "sharding.label_parts",
  "evaluation.every",
  "evaluation.batch_size",
  "checkpoint.every",
  "checkpoint.keep",
  "log.every",
)
ABOVE_0 = (
  "model.width",
  "optim.learning_rate",
  "optim.eps",
  "optim.plateau_factor",
  "optim.head_factor",
)
NOT_NEGATIVE = (
  "seed",
  "augment.mixup_alpha",
  "augment.time_stripes",
  "augment.time_width",
  "augment.band_stripes",
  "augment.band_width",
  "optim.warmup_steps",
  "optim.final_factor",
  "optim.clip_norm",
  "loss.laplacian",
  "loss.hierarchy",
)
SHARES = (
  "model.dropout.block",
  "model.dropout.pooled",
  "model.dropout.embedding",
  "data.validation_share",
  "optim.b1",
  "optim.b2",
)


RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
  (AT_LEAST_1, "at least 1", lambda x: x >= 1),
  (ABOVE_0, "finite and above 0", lambda x: 0 < x < math.inf),
  (NOT_NEGATIVE, "at least 0 and below 2**32", lambda x: 0 <= x < 2**32),
  (SHARES, "at least 0 and below 1", lambda x: 0 <= x < 1),
)


def check_ranges(config) -> None:
  """Refuse numbers that no run can have.

  Raises:
    UserError: with the key and what it may be.
  """
  values = flat(config.to_dict())
  for keys, rule, fits in RANGES:
    for key in keys:
      if not fits(values[key]):
        raise UserError(f"{key}: {values[key]} cannot be, it must be {rule}")


def default_config():
  """A `ConfigDict` of every key with its default."""
  import ml_collections

  return ml_collections.ConfigDict(DEFAULTS)


def load_config(path: str | os.PathLike, overrides: list[str] | None = None):
  """The `ConfigDict` of a config file, filled up with the defaults and overridden.

  Args:
    path: a Python file with `get_config()`; in FILE:ARGUMENT, the argument is passed to it.
    overrides: arguments like `--config.optim.steps=100`.
  Raises:
    UserError: for a file that cannot be run, an unknown key, or a value of another type or out of
      range.
  """
  import ml_collections

  file, arguments = os.fspath(path), []
  if not os.path.isfile(file) and ":" in os.path.basename(file):
    file, argument = file.rsplit(":", 1)
    arguments = [argument]
  if not os.path.isfile(file):
    raise UserError(f"{path}: no such config file; give a file with get_config() to --config")
  try:
    given = runpy.run_path(file)["get_config"](*arguments)
    given = ml_collections.ConfigDict(given).to_dict()
  except (Exception, SystemExit) as error:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    raise UserError(f"{path}: get_config() of the config file fails ({reason}); mend it") from error
  config = ml_collections.ConfigDict(DEFAULTS)
  if unknown := sorted(flat(given).keys() - flat(DEFAULTS).keys()):
    raise UserError(
      f"{path}: unknown config key {', '.join(unknown)}; known are {_known(unknown[0])}"
    )
  try:
    config.update(given)
  except (TypeError, ValueError) as error:
    raise UserError(f"{path}: {' '.join(str(error).split())}; give a value of that type") from error
  return config_with_overrides(config, overrides or [])


def config_with_overrides(config, overrides: list[str]):
  """The config with `--config.KEY=VALUE` arguments applied, as ml_collections parses them."""
  from absl import flags
  from ml_collections import config_flags

  for argument in overrides:
    key = argument.removeprefix("--config.").partition("=")[0]
    if key not in flat(DEFAULTS):
      raise UserError(f"--config.{key}: unknown config key; known are {_known(key)}")
  values = flags.FlagValues()
  argv = ["atgcn", *overrides]
  try:
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    rest = values(argv)
  except (flags.Error, TypeError, ValueError, SyntaxError, AttributeError) as error:
    raise UserError(
      f"{' '.join(overrides)}: {' '.join(str(error).split())}; write --config.KEY=VALUE"
    ) from error
  if len(rest) > 1:
    raise UserError(f"{rest[1]}: not an option; write --config.KEY=VALUE")
  check_ranges(values.config)
  return values.config


def config_from_json(saved: dict[str, Any]):
  """The config that a checkpoint holds; keys that came later take their defaults."""
  import ml_collections

  config = ml_collections.ConfigDict(DEFAULTS)
  config.update({key: value for key, value in saved.items() if key in DEFAULTS})
  return config


def plain_config(config) -> dict[str, Any]:
  """The config as JSON would give it back."""
  return json.loads(json.dumps(config.to_dict()))


def without_paths(config) -> dict[str, Any]:
  """The config's values by key, but for paths, which may differ from host to host."""
  return {key: value for key, value in flat(plain_config(config)).items() if key not in PATHS}


def contradictions(saved: dict[str, Any], config) -> list[str]:
  """`key: saved value → new value` of keys that must not differ when a run is resumed."""
  old, new = flat(saved), flat(plain_config(config))
  return [
    f"{key}: {json.dumps(old.get(key))} → {json.dumps(new.get(key))}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not _is_free(key)
  ]


def data_path(config, path: str) -> str:
  """A path of the sections data and graph, taken from `data.root` unless it is whole."""
  return path if "://" in path else os.path.join(config.data.root, path)


def _is_free(key: str) -> bool:
  return any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested keys as `section.key`."""
  values: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      values |= flat(value, f"{prefix}{key}.")
    else:
      values[prefix + key] = value
  return values


def _known(key: str) -> str:
  """The keys of the section that a mistaken key names, or of the top."""
  section: dict[str, Any] = DEFAULTS
  for part in key.split(".")[:-1]:
    inner = section.get(part)
    if not isinstance(inner, dict):
      break
    section = inner
  return ", ".join(section)
