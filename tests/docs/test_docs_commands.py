"""Tests that the parser accepts all commands of the pages, and that their links exist."""

import re

import pytest
from pages import ELSEWHERE, PAGES, commands, name_of, run_elsewhere
from runs_support import REPOSITORY

from atgcn_jax import cli
from atgcn_jax.runs.config import config_with_overrides, default_config, load_config


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_valid(page):
  for words in commands(page):
    options, rest = cli.command_parser().parse_known_args(words)
    assert options.run, words
    unknown = [word for word in rest if not word.startswith("--config.")]
    assert not unknown, words
    config = REPOSITORY / getattr(options, "config", None) if hasattr(options, "config") else None
    if config and config.suffix == ".py":
      load_config(config, rest)
    else:
      config_with_overrides(default_config(), rest)


def test_pages_have_commands():
  assert sum(len(commands(page)) for page in PAGES) > 100


def test_scripts_of_the_pages_exist():
  for page in PAGES:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
      for name in re.findall(r"(?:^|[ /])launch/[\w.]+\.sh", block, re.MULTILINE):
        assert (REPOSITORY / name.strip(" /")).is_file(), name


def test_links_between_pages_exist():
  for page in PAGES:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
      assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_that_run_elsewhere_are_on_a_page():
  every = [words for page in PAGES for words in commands(page)]
  assert {pattern for words in every for pattern in run_elsewhere(words)} == set(ELSEWHERE)
  assert all((REPOSITORY / "tests" / name).is_file() for name in ELSEWHERE.values())
