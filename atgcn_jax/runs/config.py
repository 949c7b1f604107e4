"""The config of a run: files, overrides, the comparison on resume, and the paths of its data."""

from __future__ import annotations

import copy
import json
import os
import runpy
from typing import Any

from atgcn_jax.errors import PART, UserError, printable, reason
from atgcn_jax.labels.vocabulary import AUDIOSET
from atgcn_jax.runs.config_defaults import DEFAULTS, flat
from atgcn_jax.runs.config_values import check_values, kind_of

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
    raise UserError(
      f"{path}: no such config file; config files are in the folder `configs` of the source "
      "checkout, which is not part of the installed package; give the path of one"
    )
  try:
    returned = runpy.run_path(file)["get_config"](*arguments)
    values = ml_collections.ConfigDict(returned).to_dict()
  except (Exception, SystemExit) as error:
    if arguments and isinstance(error, ValueError):  # for the argument, as configs/own_data.py
      raise UserError(f"--config {path}: {reason(error)}") from error
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
      name, _ = kind_of(key, defaults[key])
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


def _known(key: str) -> str:
  """Return the known keys of the section that a wrong key names, or the top-level keys."""
  section: dict[str, Any] = DEFAULTS
  for part in key.split(".")[:-1]:
    inner = section.get(part)
    if not isinstance(inner, dict):
      break
    section = inner
  return ", ".join(section)
