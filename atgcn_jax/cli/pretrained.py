"""Verb for published networks: models."""

from __future__ import annotations

import json

from atgcn_jax.cli.arguments import JSON_HELP, AddVerb, add_fetching
from atgcn_jax.errors import UserError


def add_pretrained_verb(verb: AddVerb) -> None:
  """Add the verb to the parser."""
  models = verb(
    "models",
    _models,
    "list the pretrained models, or write one as a run directory",
    "`atgcn models get NAME --out DIR` writes a run directory for all verbs that take one.",
  )
  models.add_argument(
    "action",
    nargs="?",
    default="list",
    choices=("list", "get"),
    help="list the models, or get one (default: list)",
  )
  models.add_argument("name", nargs="?", metavar="NAME", help="for get, name of the model")
  models.add_argument("--out", metavar="DIR", help="for get, run directory to create")
  add_fetching(models)
  models.add_argument("--json", action="store_true", help=JSON_HELP)


def _models(options) -> None:
  wanted = options.action == "get"
  for name, value in (("NAME", options.name), ("--out", options.out)):
    if (value is not None) != wanted:
      advice = "give one" if wanted else "give it with `atgcn models get`"
      raise UserError(f"{name}: {'missing' if wanted else value}; {advice}")
  if not wanted:
    from atgcn_jax.pretrained.listing import model_list, model_table

    print(json.dumps(model_list()) if options.json else model_table())
    return
  from atgcn_jax.pretrained.cache import write_pretrained_run

  record = write_pretrained_run(
    options.name, options.out, offline=options.offline, mirror=options.mirror
  )
  print(
    json.dumps(record)
    if options.json
    else f"{options.out}: run of {options.name}, from {record['url']}, SHA-256 {record['sha256']}"
  )
