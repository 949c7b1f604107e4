"""Readers of configs and of overrides on the command line."""

from __future__ import annotations

import pathlib
from typing import Any

import mutations
from fuzzing import Random, Reader, change_text


def make_override(path: pathlib.Path) -> None:
  path.write_text("--config.seed=1")


def change_override(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.runs.config_defaults import DEFAULTS, flat

  keys = sorted(flat(DEFAULTS))
  key = keys[rng.integers(len(keys))]
  if rng.random() < 0.1:
    key = mutations.change_text(key.encode(), rng).decode("utf-8", "replace")
  words = (
    *mutations.ODD_WORDS,
    "1e99",
    "(1,)",
    "()",
    "[1, 2]",
    "{}",
    "None",
    "True",
    "1.5",
    "-inf",
  )
  words += (str(2**63), "1e-400", "'a'", "('a',)", "('x',) * 10**9", "lambda: 0", "('\\x1b[31m',)")
  path.write_text(f"--config.{key}={words[rng.integers(len(words))]}")


def read_override(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.config import config_with_overrides, default_config

  with path.open(newline="") as file:
    return config_with_overrides(default_config(), [file.read()])


def make_config(path: pathlib.Path) -> None:
  from atgcn_jax.runs.config_defaults import DEFAULTS

  path.write_text(f"def get_config():\n  return {DEFAULTS!r}\n")


def change_config(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.runs.config_defaults import DEFAULTS

  if rng.random() < 0.2:
    change_text(path, rng)
  else:
    changed = repr(mutations.change_json(DEFAULTS, rng))
    path.write_text(f"from math import inf, nan\ndef get_config():\n  return {changed}\n")


def read_config(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.config import load_config

  return load_config(path)


def config_faults(config: Any) -> str:
  from atgcn_jax.runs.config_defaults import DEFAULTS, flat

  defaults = flat(DEFAULTS)
  for key, value in flat(config.to_dict()).items():
    default = defaults[key]
    kinds = (int, float) if type(default) is float else (type(default),)
    if type(value) not in kinds:
      return f"{key} is {str(value)[:40]!r}"
    if type(value) in (int, float) and not abs(value) < 1e300:
      return f"{key} is {value}"
    if type(value) is str and not value.isprintable():
      return f"{key} is {value[:40]!r}"
    for item in value if type(value) is tuple else ():
      kind = int if key.endswith("units") else str
      if type(item) is not kind:
        return f"{key} has the item {str(item)[:40]!r}"
  return ""


READERS = {
  "override": Reader(make_override, change_override, read_override, config_faults),
  "config.py": Reader(make_config, change_config, read_config, config_faults),
}
