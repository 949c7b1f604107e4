"""Directives that write reference pages from the code: settings, verbs, modules."""

from __future__ import annotations

import argparse
import io
import pathlib
import pkgutil
import tokenize

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import atgcn_jax
from atgcn_jax import cli
from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.labels.adjacency import METHODS
from atgcn_jax.models import ENCODERS
from atgcn_jax.models.pooling import POOLINGS
from atgcn_jax.runs import config, config_defaults
from atgcn_jax.runs.config_defaults import DEFAULTS, flat
from atgcn_jax.runs.config_values import RANGES

# The values of keys whose comment names a constant instead.
CHOICES = {
  "model.encoder": ENCODERS,
  "model.pooling": POOLINGS,
  "graph.method": METHODS,
  "data.frontend": tuple(FRONTENDS),
}


def module_names() -> list[str]:
  """Every module of the package, itself first, without those that start with an underscore."""
  folder = str(pathlib.Path(atgcn_jax.__file__).parent)
  found = sorted(module.name for module in pkgutil.walk_packages([folder], "atgcn_jax."))
  return ["atgcn_jax", *(name for name in found if "._" not in name)]


def comments_of_keys(source: str) -> dict[str, str]:
  """The comments of DEFAULTS by `section.key`: beside the key, or in lines of their own above it.

  Args:
    source: text of a module that assigns a literal of nested dicts to DEFAULTS.
  """
  found: dict[str, str] = {}
  path: list[str] = []
  above: list[str] = []
  key, inside = "", False
  tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
  for i, token in enumerate(tokens):
    if token.type == tokenize.NAME and token.string == "DEFAULTS":
      inside = True
    if not inside:
      continue
    following = tokens[i + 1].string if i + 1 < len(tokens) else ""
    if token.type == tokenize.STRING and following == ":":
      key = ".".join([*path, token.string.strip("'\"")])
      if above:
        found[key], above = " ".join(above), []
    elif token.type == tokenize.COMMENT:
      text = token.string.lstrip("# ")
      if token.line.lstrip().startswith("#"):
        above.append(text)
      else:
        found[key] = f"{found[key]} {text}" if key in found else text
    elif token.string == "{":
      path = key.split(".") if key else []
    elif token.string == "}":
      if not path:
        break
      path = path[:-1]
  return found


def config_lines() -> list[str]:
  """Markdown: a table a section of the config, with default, range or choices, and comment."""
  source = pathlib.Path(config_defaults.__file__).read_text(encoding="utf-8")
  comments = comments_of_keys(source)
  limits = {key: rule for keys, rule, _ in RANGES for key in keys}
  lines: list[str] = []
  top = {key: value for key, value in DEFAULTS.items() if not isinstance(value, dict)}
  sections = {key: value for key, value in DEFAULTS.items() if isinstance(value, dict)}
  for section, values in {"": top, **sections}.items():
    lines += ["", f"## {section or 'Top'}", ""]
    lines.append("| key | default | range or choices | may change | what it is |")
    lines.append("|---|---|---|---|---|")
    for key, value in flat(values, f"{section}." if section else "").items():
      free = "yes" if config._is_free(key) else "no"
      choices = ", ".join(f"`{choice}`" for choice in CHOICES.get(key, ()))
      limit = limits.get(key, choices)
      lines.append(f"| `{key}` | `{value!r}` | {limit} | {free} | {_cell(comments[key])} |")
  return lines


def command_lines() -> list[str]:
  """Markdown: each verb of the parser with its usage, options and closing text."""
  verbs = next(
    action
    for action in cli.command_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
  )
  lines: list[str] = []
  for name, parser in verbs.choices.items():
    # Python decides by its version whether usage is coloured and how wide it is; this is neither.
    parser.formatter_class = type(
      "Wide", (parser.formatter_class,), {"__init__": _wide(parser.formatter_class)}
    )
    lines += ["", f"## atgcn {name}", "", f"{parser.description}.", ""]
    lines += ["```text", *parser.format_usage().strip().splitlines(), "```", ""]
    lines += ["| argument | default | what it is |", "|---|---|---|"]
    for action in parser._actions:
      if isinstance(action, argparse._HelpAction):
        continue
      names = ", ".join(f"`{option}`" for option in action.option_strings)
      names = names or f"`{action.metavar or action.dest}`"
      known = ", ".join(map(str, action.choices or ()))
      what = "; ".join(text for text in (action.help, known and f"one of {known}") if text)
      default = "needed" if action.required else _default(action.default)
      lines.append(f"| {names} | {default} | {_cell(what)} |")
    if parser.epilog:
      lines += ["", "```text", *parser.epilog.strip("\n").splitlines(), "```"]
  return lines


def module_lines() -> list[str]:
  """Markdown: a heading and an `automodule` for each module."""
  lines: list[str] = []
  for name in module_names():
    lines += ["", f"## {name}", "", "```{eval-rst}", f".. automodule:: {name}"]
    if name == "atgcn_jax":  # its names are imported when asked for, from where they are told
      lines += ["   :no-members:"]
    lines += ["```"]
  return lines


def _wide(base):
  def start(self, *args, **kwargs):
    base.__init__(self, *args, **{**kwargs, "width": 90})

  return start


def _default(value) -> str:
  return "" if value in (None, False, "", argparse.SUPPRESS) or value == [] else f"`{value}`"


def _cell(text: str) -> str:
  """Text for a table's cell: no bars, and no letters that Markdown takes for markup."""
  return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


class FromCode(SphinxDirective):
  """`{from-code} config`, `commands` or `modules`: that reference, as part of the page."""

  required_arguments = 1

  def run(self) -> list[nodes.Node]:
    """The nodes of the reference."""
    makers = {"config": config_lines, "commands": command_lines, "modules": module_lines}
    made = makers[self.arguments[0]]()
    for path in pathlib.Path(atgcn_jax.__file__).parent.rglob("*.py"):
      self.env.note_dependency(str(path))
    return self.parse_text_to_nodes("\n".join(made), allow_section_headings=True)


def setup(app):
  """Called by Sphinx."""
  app.add_directive("from-code", FromCode)
  return {"parallel_read_safe": True}
