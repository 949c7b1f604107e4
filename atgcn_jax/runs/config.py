"""The configuration of a run: keys and defaults, config files, overrides, checks on resume."""

from __future__ import annotations

import copy
import json
import math
import os
import runpy
from collections.abc import Callable
from typing import Any

from atgcn_jax.errors import PART, UserError, printable, reason
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.labels.vocabulary import AUDIOSET

SOUNDSCAPES = "soundscapes"  # stands for the built-in data in place of a path

# All keys and their defaults. A config file may omit keys that it does not change. The comments
# are the configuration reference in the documentation.
DEFAULTS: dict[str, Any] = {
  "seed": 0,  # Random seed of the initial parameters, clip order, augmentation and dropout.
  "model": {
    "encoder": "cnn10",  # Acoustic encoder; CONTRIBUTING.md explains how to add one.
    "depth": 50,  # Number of layers of the encoder `deepres`, 34 or 50.
    "frame_units": (),  # Units of each layer on frames, of the encoder `vectors`.
    "clip_units": (1024, 1024),  # Units of each layer after pooling, of the encoder `vectors`.
    # Pooling of frame scores, for encoders with frame outputs; or of features (`max_mean`,
    # `feature_attention`), for `vectors`. Empty selects the default of the encoder.
    "pooling": "",
    "head": "graph",  # `graph` (AT-GCN) or `linear` (CNN10).
    # Train only the head. The encoder runs in inference mode and keeps its parameters.
    "freeze_encoder": False,
    "width": 1.0,  # Multiplier of the channels of the encoder and of the hidden graph layers.
    "dtype": "float32",  # Compute type, float32 or bfloat16. Parameters are float32 with both.
    # Batch norm statistics in training: `global` over the batch, `local` over each device's clips.
    "batch_norm": "global",
    "dropout": {
      "block": 0.2,  # Dropout rate after each convolution block.
      "pooled": 0.5,  # Dropout rate after pooling over time, of `cnn10` and `cnn14`.
      "embedding": 0.5,  # Dropout rate of the input of the head.
    },
    "layers": 2,  # Number of graph convolutions.
    "hidden": 256,  # Number of channels of the hidden graph layers, before `width`.
    "activation": "leaky_relu",  # Activation of the graph layers: leaky_relu, prelu or relu.
    "negative_slope": 0.2,  # Slope of leaky_relu below 0; initial slope of prelu.
  },
  "graph": {
    "method": "paper",  # Construction of the graph; see labels.adjacency.propagation_matrix.
    "threshold": 0.3,  # Threshold τ of Eq. 6, from 0 to 1.
    "neighbour_weight": 0.2,  # Total weight p of the neighbours in Eq. 7, from 0 to 1.
    # `store` (count the labels of the training clips), an .npz file of counts, or an .npz file
    # written by `atgcn graph`.
    "source": "store",
    "counts_set": "",  # `balanced`, `unbalanced` or `full`, if the .npz file has several counts.
    # Path of an ontology.json file, or `soundscapes`. Required by the method `ontology` and by
    # loss.hierarchy.
    "ontology": "",
    # Label vectors: `builtin`, `random`, `one_hot`, a GloVe text file or an .npz file.
    "embeddings": "builtin",
    # Length of the label vectors. Must match that of a file. Ignored for `one_hot`.
    "embedding_size": 300,
  },
  "data": {
    # Folder that relative paths in the sections data and graph start from. Empty stands for the
    # current folder of each command.
    "root": "",
    # File of `atgcn prepare`, folder of `atgcn tfds`, or `soundscapes` (built-in data).
    "store": "soundscapes",
    "soundscape_clips": 2000,  # Number of clips of the built-in data.
    # CSV file of the labels to train on, or `audioset` for AudioSet's 527. The store must have all
    # of them; its other labels are ignored. Empty stands for all labels of the store.
    "vocabulary": "",
    # Whether clips are trained with the labels above their own in graph.ontology.
    "ontology_targets": False,
    # Share of all labels of clips that are removed at random before training (a study of noise).
    "forgotten_positives": 0.0,
    # Front end. Only used by `import-torch`; empty stands for `talnet`. If set, the store must have
    # the same front end.
    "frontend": "",
    "train_folds": ("train",),  # Names of the folds to train on.
    "validation_folds": ("validation",),  # Names of the folds to validate on.
    "test_folds": ("test",),  # Names of the folds to test on.
    # Share of the clips of the training folds that validates instead, chosen by a hash of the id.
    "validation_share": 0.0,
    "allow_test_overlap": False,  # Allow the same fold in train_folds and in test_folds.
    # `balanced` (all classes equally often; clips without a label in proportion to their number,
    # at most half) or `shuffled` (passes over all clips; required for TFRecord data on the host).
    "sampling": "balanced",
    "batch_size": 64,  # Number of examples per step, over all devices.
    # `host` (the host reads each batch) or `device` (training clips stay in device memory).
    "placement": "host",
  },
  "augment": {
    "form": "authors",  # Order of mixup and SpecAugment, `authors` or `panns`.
    "mixup_alpha": 0.2,  # Parameter of the Beta distribution of mixup weights. 0 disables mixup.
    "time_stripes": 2,  # Number of SpecAugment stripes over time.
    "time_width": 64,  # Maximum width of a time stripe, in frames.
    "band_stripes": 2,  # Number of SpecAugment stripes over frequency.
    "band_width": 8,  # Maximum width of a frequency stripe, in mel bands.
  },
  "optim": {
    "steps": 600_000,  # Number of training steps.
    # Minimum number of passes over the training clips. Above 0, there are more steps than
    # optim.steps where that many passes need them.
    "passes": 0.0,
    "learning_rate": 1e-3,  # Peak learning rate of Adam.
    "head_factor": 1.0,  # Multiplier of the learning rate of the head's parameters.
    # Learning rate after warm-up: `constant`, `cosine`, `linear` or `exponential`.
    "schedule": "constant",
    "warmup_steps": 0,  # Number of steps of linear warm-up.
    # Learning rate at the last step, as a fraction of the peak. Ignored by `constant`.
    "final_factor": 0.0,
    "b1": 0.9,  # Decay rate of Adam's first moment.
    "b2": 0.999,  # Decay rate of Adam's second moment.
    "eps": 1e-8,  # Term that Adam adds to the denominator.
    "clip_norm": 0.0,  # Maximum global norm of the gradients. 0 disables clipping.
    # Multiplier of the learning rate each time that validation mAP stops improving. 1 disables
    # the rule.
    "plateau_factor": 1.0,
    "plateau_patience": 3,  # Number of evaluations without improvement before the rule applies.
  },
  "loss": {
    # Weight of a penalty on different scores of labels that the graph links
    # (training.losses.laplacian_penalty).
    "laplacian": 0.0,
    # Weight of the loss of the categories above the labels (training.losses.hierarchical_loss).
    # Requires graph.ontology.
    "hierarchy": 0.0,
    # Weight of training.losses.neighbour_penalty, which draws a label's vector to those of labels
    # that make it likely.
    "neighbours": 0.0,
  },
  "sharding": {
    # Shard parameters and optimiser state over the devices instead of replicating them.
    "fsdp": False,
    "label_parts": 1,  # Number of shards of the label axis of logits and head.
  },
  "start": {
    # Run whose parameters of equal name and shape initialise this run. Empty for none.
    "run": "",
    "step": "best",  # Checkpoint of start.run: a step number, `latest` or `best`.
  },
  "evaluation": {
    "every": 2000,  # Number of steps between validations.
    "batch_size": 64,  # Number of clips per batch in validation and scoring.
  },
  "checkpoint": {
    "every": 2000,  # Number of steps between checkpoints.
    "keep": 2,  # Number of newest checkpoints to keep, in addition to the best one.
  },
  "log": {
    "every": 100,  # Number of steps between training records in the log.
  },
  # Make results on a GPU reproducible bit for bit, at lower speed. On CPU and TPU they always are.
  "deterministic": False,
}

# Keys whose values may change when a run resumes. For paths, the content that they point to is
# compared instead. start.run is not compared: it is only read before the first step.
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

# What Python's and ml_collections' parsers raise for values that are not of a key's type.
OF_PARSING = (
  *(TypeError, ValueError, SyntaxError, AttributeError, LookupError, ArithmeticError),
  *(MemoryError, RecursionError),
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
  "optim.passes",
  "optim.warmup_steps",
  "optim.final_factor",
  "optim.clip_norm",
  "loss.laplacian",
  "loss.hierarchy",
  "loss.neighbours",
)
SHARES = (
  "model.dropout.block",
  "model.dropout.pooled",
  "model.dropout.embedding",
  "data.validation_share",
  "data.forgotten_positives",
  "optim.b1",
  "optim.b2",
)
WITHIN_1 = ("graph.threshold", "graph.neighbour_weight")

RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
  (AT_LEAST_1, "at least 1 and below 2**32", lambda x: 1 <= x < 2**32),
  (("model.layers",), "at most 1000", lambda x: x <= 1000),
  # Parameters and arithmetic are float32, whose range ends near 1e38.
  (ABOVE_0, "from 1e-30 to 1e30", lambda x: 1e-30 <= x <= 1e30),
  (("model.width",), "above 0 and at most 1000", lambda x: 0 < x <= 1000),
  (("model.negative_slope",), "from -1000 to 1000", lambda x: -1000 <= x <= 1000),
  (NOT_NEGATIVE, "at least 0 and below 2**32", lambda x: 0 <= x < 2**32),
  (SHARES, "at least 0 and below 1", lambda x: 0 <= x < 1),
  (WITHIN_1, "from 0 to 1", lambda x: 0 <= x <= 1),
)


def check_values(config) -> None:
  """Refuse values of another type than their defaults, and numbers out of range.

  `ConfigDict` accepts None and True for a number, and tuples of anything.

  Raises:
    UserError: If there is one. The message names the key and what the value may be.
  """
  values, defaults = flat(config.to_dict()), flat(DEFAULTS)
  for key, value in values.items():
    name, fits = _kind(key, defaults[key])
    if not fits(value):
      raise UserError(f"{key} must be {name}, got {_shown(value)}")
  for keys, rule, fits in RANGES:
    for key in keys:
      if not fits(values[key]):
        raise UserError(f"{key} must be {rule}, got {_shown(values[key])}")


def _kind(key: str, default: Any) -> tuple[str, Callable[[Any], bool]]:
  """Return what the value of a key must be, and a function that returns whether a value is that."""
  if isinstance(default, tuple):
    item, fits = ("numbers above 0", _is_count) if key.endswith("_units") else ("texts", _is_text)
    least = 1 if key == "data.train_folds" else 0
    name = f"a tuple of {item}" + (", at least one" if least else "")
    return name, lambda x: isinstance(x, tuple) and len(x) >= least and all(map(fits, x))
  if isinstance(default, bool):
    return "True or False", lambda x: isinstance(x, bool)
  if isinstance(default, str):
    return "a text without control characters", _is_text
  if isinstance(default, float):
    return "a finite number", lambda x: isinstance(x, float) and math.isfinite(x)
  return "an integer", lambda x: isinstance(x, int) and not isinstance(x, bool)


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and not has_controls(value)


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32


def _shown(value: Any) -> str:
  # Large integers cannot be converted to decimal digits.
  is_large = isinstance(value, int) and abs(value) >= 2**63
  return "an integer of more than 64 bits" if is_large else printable(value, PART)


def default_config():
  """Return a `ConfigDict` of all keys with their defaults."""
  import ml_collections

  return ml_collections.ConfigDict(DEFAULTS)


def load_config(path: str | os.PathLike, overrides: list[str] | None = None):
  """Return the `ConfigDict` of a config file, completed with the defaults, with overrides applied.

  Args:
    path: A Python file with a function `get_config()`. In FILE:ARGUMENT, the argument is passed to
      the function.
    overrides: Arguments such as `--config.optim.steps=100`.

  Raises:
    UserError: If the file cannot be run, a key is unknown, or a value has the wrong type or is out
      of range.
  """
  import ml_collections

  file, arguments = os.fspath(path), []
  if not os.path.isfile(file) and ":" in os.path.basename(file):
    file, argument = file.rsplit(":", 1)
    arguments = [argument]
  if not os.path.isfile(file):
    raise UserError(f"{path}: no such config file; give --config a file with get_config()")
  try:
    returned = runpy.run_path(file)["get_config"](*arguments)
    values = ml_collections.ConfigDict(returned).to_dict()
  except (Exception, SystemExit) as error:
    text = f"{type(error).__name__}: {reason(error)}"
    raise UserError(f"{path}: get_config() failed ({text}); fix the config file") from error
  config = ml_collections.ConfigDict(DEFAULTS)
  if unknown := sorted(flat(values).keys() - flat(DEFAULTS).keys()):
    raise UserError(
      f"{path}: unknown config key {printable(unknown[0], 60)}; known keys: {_known(unknown[0])}"
    )
  try:
    config.update(values)
  except (TypeError, ValueError, AttributeError, KeyError) as error:
    raise UserError(f"{path}: {reason(error)}; give a value of that type") from error
  return config_with_overrides(config, overrides or [])


def config_with_overrides(config, overrides: list[str]):
  """Return the config with `--config.KEY=VALUE` arguments applied, as ml_collections parses them.

  Raises:
    UserError: If a key is unknown, or a value has the wrong type or is out of range.
  """
  from absl import flags

  for argument in overrides:
    key = argument.removeprefix("--config.").partition("=")[0]
    if key not in flat(DEFAULTS):
      raise UserError(
        f"--config.{printable(key, 60)}: unknown config key; known keys: {_known(key)}"
      )
  try:
    changed, rest = _parsed(config, overrides)
  except (flags.Error, *OF_PARSING) as error:
    raise UserError(_fault(config, overrides, error)) from error
  if len(rest) > 1:
    raise UserError(f"{printable(rest[1], PART)}: not an option; write --config.KEY=VALUE")
  check_values(changed)
  return changed


def _parsed(config, overrides: list[str]):
  """Return the config with overrides applied, and the arguments that are no overrides."""
  from absl import flags
  from ml_collections import config_flags

  values, argv = flags.FlagValues(), ["atgcn", *overrides]
  # The overrides are applied in place.
  config_flags.DEFINE_config_dict(
    "config", copy.deepcopy(config), flag_values=values, sys_argv=argv
  )
  rest = values(argv)
  return values.config, rest


def _fault(config, overrides: list[str], error: Exception) -> str:
  """Return the message on overrides that cannot be parsed: the first key, and what it may be."""
  defaults = flat(DEFAULTS)
  for argument in overrides:
    key, equals, value = argument.removeprefix("--config.").partition("=")
    try:
      _parsed(config, [argument])
    except Exception:
      if not equals:
        return f"--config.{key}: has no value; write --config.{key}=VALUE"
      name, _ = _kind(key, defaults[key])
      return f"{key} must be {name}, got {printable(value, PART) or 'nothing'}"
  return f"{printable(' '.join(overrides), PART)}: {reason(error)}; write --config.KEY=VALUE"


def config_from_json(saved: dict[str, Any]):
  """Return the config stored in a checkpoint. Keys that it lacks take their defaults.

  Raises:
    ValueError: If a value has the wrong type or is out of range.
  """
  import ml_collections

  config = ml_collections.ConfigDict(DEFAULTS)
  try:
    config.update({key: value for key, value in saved.items() if key in DEFAULTS})
    check_values(config)
  except (TypeError, AttributeError, KeyError, UserError) as error:
    raise ValueError(f"config: {reason(error)}") from error
  return config


def plain_config(config) -> dict[str, Any]:
  """Return the config as a dict of JSON values."""
  return json.loads(json.dumps(config.to_dict()))


def without_paths(config) -> dict[str, Any]:
  """Return the config's values by `section.key`, without paths, which may differ between hosts."""
  return {key: value for key, value in flat(plain_config(config)).items() if key not in PATHS}


def contradictions(saved: dict[str, Any], config) -> list[str]:
  """Return `key: saved value → new value` for each changed key that must not change on resume."""
  old, new = flat(saved), flat(plain_config(config))
  return [
    f"{key}: {json.dumps(old.get(key))} → {json.dumps(new.get(key))}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not _is_free(key)
  ]


def data_path(root: str, path: str) -> str:
  """Return a path of the section data or graph, relative paths joined to `data.root`."""
  return path if "://" in path else os.path.join(root, path)


def vocabulary_path(root: str, named: str) -> str:
  """Return the path of `data.vocabulary`, or `audioset`, which `read_vocabulary` knows."""
  return named if named == AUDIOSET else data_path(root, named)


def _is_free(key: str) -> bool:
  return any(key == free or key.startswith(free + ".") for free in FREE_ON_RESUME)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Return a nested dict as a flat dict with keys such as `section.key`."""
  values: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      values |= flat(value, f"{prefix}{key}.")
    else:
      values[prefix + key] = value
  return values


def _known(key: str) -> str:
  """Return the known keys of the section that a wrong key names, or the top-level keys."""
  section: dict[str, Any] = DEFAULTS
  for part in key.split(".")[:-1]:
    inner = section.get(part)
    if not isinstance(inner, dict):
      break
    section = inner
  return ", ".join(section)
