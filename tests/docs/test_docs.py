"""Tests that the site builds without warnings and that its reference pages are complete."""

import html
import pathlib
import re
import subprocess
import sys

import pytest
from runs_support import REPOSITORY

from atgcn_jax.cli import command_parser
from atgcn_jax.runs.config_defaults import DEFAULTS, flat

pytestmark = pytest.mark.slow  # the site takes half a minute


@pytest.fixture(scope="module")
def site(tmp_path_factory):
  """Build the site and return its folder."""
  folder = tmp_path_factory.mktemp("site")
  done = subprocess.run(
    [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", folder],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return folder


def text(page: pathlib.Path) -> str:
  return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_key_is_listed_with_its_default(site):
  page = text(site / "config.html")
  for key, value in flat(DEFAULTS).items():
    assert re.search(rf"^{re.escape(key)}\n{re.escape(repr(value))}\n", page, re.MULTILINE), key


def test_every_verb_is_listed_with_its_options(site):
  page = text(site / "commands.html")
  verbs = next(action for action in command_parser()._actions if action.dest == "verb").choices
  for name, parser in verbs.items():
    assert f"atgcn {name}" in page
    for action in parser._actions:
      shown = [option for option in action.option_strings if option not in ("-h", "--help")]
      assert all(option in page for option in shown), (name, shown)


def test_every_module_is_listed(site):
  page = text(site / "api.html")
  package = REPOSITORY / "atgcn_jax"
  for path in set(package.rglob("*.py")) - set(package.rglob("__main__.py")):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    assert re.search(rf"^{re.escape(name)}\W?$", page, re.MULTILINE), name
  assert "the log-mel spectrogram" in page.lower()


def test_links_within_the_site_exist(site):
  pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
  for name, page in pages.items():
    for target, anchor in re.findall(r'href="([\w-]*(?:\.html)?)#([^"]+)"', page):
      assert f'id="{anchor}"' in pages[target or name], f"{name}: {target}#{anchor}"
