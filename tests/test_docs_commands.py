"""Every command of the pages is understood by the parser, and their links lead somewhere."""

import pathlib
import re
import shlex

import pytest
from runs_support import REPOSITORY

from atgcn_jax import cli
from atgcn_jax.runs.config import config_with_overrides, default_config, load_config

PAGES = [REPOSITORY / "README.md", REPOSITORY / "launch/README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
OMITTED = "…"  # a command with something left out


def commands(page: pathlib.Path) -> list[list[str]]:
  """The words of each `atgcn` command in a page's blocks of shell."""
  blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
  lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
  words = [shlex.split(line, comments=True) for line in lines if OMITTED not in line]
  return [words for words in words if words and words[0].split("/")[-1] == "atgcn"]


def name_of(page):
  return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page):
  for _, *words in commands(page):
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
  assert sum(len(commands(page)) for page in PAGES) > 60


def test_scripts_of_the_pages_are_there():
  for page in PAGES:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
      for name in re.findall(r"(?:^|[ /])launch/[\w.]+\.sh", block, re.MULTILINE):
        assert (REPOSITORY / name.strip(" /")).is_file(), name


def test_links_between_pages_lead_somewhere():
  for page in PAGES:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
      assert (page.parent / target).exists(), f"{page.name}: {target}"
