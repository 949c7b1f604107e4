"""The verb that serves a local web page."""

from __future__ import annotations

import importlib.util
import os

from atgcn_jax.cli.arguments import AddVerb, add_tagger
from atgcn_jax.cli.taggers import tagger_of
from atgcn_jax.errors import UserError
from atgcn_jax.pretrained.catalogue import DEFAULT

NEEDED = ("starlette", "uvicorn")


def add_serve_verb(verb: AddVerb) -> None:
  """Add the verb to the parser."""
  serve = verb(
    "serve",
    _serve,
    "serve a local web page and a JSON API that show what sounds when in a recording",
    "Needs the extra serve. The page is for one user or a small group: there is no password.",
  )
  add_tagger(serve)
  serve.set_defaults(strict=False)
  serve.add_argument(
    "--host",
    metavar="HOST",
    default="127.0.0.1",
    help="name or address to listen at; 0.0.0.0 for all (default: 127.0.0.1, this machine only)",
  )
  serve.add_argument(
    "--port", metavar="N", type=int, default=8000, help="port; 0 for a free one (default: 8000)"
  )
  serve.add_argument(
    "--hop-seconds", metavar="SECONDS", type=float, help="score windows this far apart, see tag"
  )
  serve.add_argument(
    "--max-megabytes",
    metavar="MB",
    type=float,
    default=64.0,
    help="largest file that is accepted, in millions of bytes (default: 64)",
  )
  serve.add_argument(
    "--max-seconds",
    metavar="SECONDS",
    type=float,
    default=600.0,
    help="longest sound that is accepted (default: 600)",
  )
  serve.add_argument(
    "--max-waiting",
    metavar="N",
    type=int,
    default=16,
    help="number of files that may wait while another one is scored; the next one gets status 503 "
    "(default: 16)",
  )


def _serve(options) -> None:
  if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    raise UserError(f'{" and ".join(missing)} not installed; pip install "atgcn_jax[serve]"')
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.web import server
  from atgcn_jax.serving.web.app import make_app
  from atgcn_jax.serving.web.limits import Limits
  from atgcn_jax.serving.web.results import Analysis

  limits = Limits(options.max_megabytes, options.max_seconds, options.max_waiting)
  with server.listen(options.host, options.port) as listening:
    keep_compiled_programs()
    tagger = tagger_of(options)
    tagger.check_thresholds()
    analysis = Analysis(tagger, limits, options.hop_seconds)
    analysis.prepare()
    title = os.path.basename(os.path.abspath(options.workdir or options.model or DEFAULT))
    app = make_app(analysis, title, server.names_of(options.host))
    address = server.address_of(listening, options.host)
    server.announce(title, len(tagger.vocabulary), address, options.host)
    server.serve(app, listening)
