"""Tests that docs/paper.md covers the whole paper and names only code that exists."""

import importlib
import pathlib
import re
import shlex

import pytest

from atgcn_jax.cli import command_parser
from atgcn_jax.runs.config import config_with_overrides, default_config

ROWS = [
  [cell.strip() for cell in line.strip("|\n").split(" | ")]
  for line in (pathlib.Path(__file__).parents[2] / "docs/paper.md").read_text().splitlines()
  if line.startswith("| ") and not line.startswith("| in the paper")
]
NAMED = [code for row in ROWS for code in re.findall(r"`([^`]+)`", row[-1])]
COMMANDS = [code for code in NAMED if code.startswith("atgcn ") and " --" in code]
FUNCTIONS = [code for code in NAMED if re.fullmatch(r"[a-z_]+(\.\w+)+", code)]


def test_the_page_covers_the_paper():
  places = ", ".join(row[0] for row in ROWS)
  wanted = [f"Eq. {k}" for k in range(1, 8)] + [f"Fig. {k}" for k in range(1, 5)]
  assert not [
    name for name in [*wanted, "Table I", "Table II", "Algorithm 1"] if name not in places
  ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_exists(name):
  module, _, attribute = f"atgcn_jax.{name}".rpartition(".")
  try:
    importlib.import_module(f"{module}.{attribute}")
  except ImportError:
    found = getattr(importlib.import_module(module), attribute)
    assert callable(found)
    assert found.__doc__


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_valid(command):
  options, rest = command_parser().parse_known_args(shlex.split(command)[1:])
  assert options.run
  config_with_overrides(default_config(), rest)


def test_a_missing_function_is_detected():
  with pytest.raises(AttributeError):
    test_function_exists("labels.adjacency.nothing")
