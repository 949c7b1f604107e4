"""The `atgcn` command: arguments in, one call a verb."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from typing import NoReturn

from atgcn_jax.cli import data, results, studies, tfds, training
from atgcn_jax.cli.streams import any_streams
from atgcn_jax.errors import SoundWarning, UserError, WorkFailed
from atgcn_jax.runtime import signals
from atgcn_jax.runtime.buckets import check_reachable, in_bucket


@any_streams
def main(arguments: list[str] | None = None) -> int:
  """Run one verb; returns the exit status.

  0 after success, 1 if the work failed, 2 on bad arguments or input (one line on stderr), 130 and
  143 after Ctrl-C and SIGTERM, 141 once the reader of its output has gone.
  """
  # What the libraries have to say is not for users.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # errors are raised too
  logging.getLogger("matplotlib").setLevel(logging.ERROR)
  # Orbax stops reading a damaged checkpoint at its first fault, which is told; what it had begun to
  # read besides fails later, where nobody waits for it.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  warnings.showwarning = _show_warning
  program = "atgcn"
  with signals.command(ends_process=arguments is None) as stop:
    try:
      options = _parsed(arguments)
      program = f"atgcn {options.verb}"
      status = _status(options, stop)
      if stop.signal_number is None or status > 128:
        return status
      print(f"{program}: a signal to stop came too late, the work is complete", file=sys.stderr)
      return 128 + stop.signal_number
    except KeyboardInterrupt as error:
      by = f" by {error}" if isinstance(error, signals.Interrupted) else ""
      kept = "; ".join(getattr(error, "__notes__", ()))
      kept = f"; {kept}; the same command continues" if kept else ""
      print(f"{program}: stopped{by}{kept}", file=sys.stderr)
      return 128 + getattr(error, "signal_number", signals.SIGINT)


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
  """The options of a verb; its `overrides` are those of the config."""
  parser = command_parser()
  options, rest = parser.parse_known_args(arguments)
  overrides = [argument for argument in rest if argument.startswith("--config.")]
  if unknown := [argument for argument in rest if argument not in overrides]:
    parser.error(f"unknown argument {unknown[0]}; see `atgcn {options.verb} --help`")
  if overrides and not options.takes_config:
    parser.error(f"unknown argument {overrides[0]}; `atgcn {options.verb}` takes no config")
  options.overrides = overrides
  return options


def _status(options: argparse.Namespace, stop: signals.StopRequest) -> int:
  """Run a verb with its options; returns the exit status."""
  try:
    return options.run(options) or 0
  except UserError as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 2
  except WorkFailed as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    stop.raise_if_stopped()  # its exception may have been turned into this one
    which = _which_process()
    if fault := _what_is_missing(error):
      print(f"atgcn {options.verb}{which}: {fault}", file=sys.stderr)
      return 2
    if reason := _lost_bucket(getattr(options, "workdir", "")):
      print(f"atgcn {options.verb}{which}: {reason}", file=sys.stderr, flush=True)
    elif which:
      traceback.print_exc()
      print(
        f"atgcn {options.verb}{which}: ended; whoever failed first has said why, or is gone; the "
        "same command goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
      )
    else:
      raise
    if which:  # leaving in order would wait for the others, who may be the reason
      os._exit(1)
    return 1


def _which_process() -> str:
  """Of many, for messages."""
  if "jax" not in sys.modules:
    return ""
  from atgcn_jax.runtime.processes import which

  return which()


def _what_is_missing(error: Exception) -> str:
  """What this machine lacks, of which an error is: a name of the user, a device; else empty."""
  if isinstance(error, KeyError) and "uid not found" in str(error):  # of `pwd`, through etils
    return (
      f"the user id {os.getuid()} has no name here, which this command needs; add it to /etc/passwd"
    )
  if "jax" not in sys.modules or not isinstance(error, RuntimeError | AssertionError):
    return ""
  import jax

  try:
    jax.devices()
  except (RuntimeError, AssertionError) as fault:  # the latter, without a word, for cuda
    named = os.environ.get("JAX_PLATFORMS", "")
    said = str(fault).split("(set JAX")[0].split("(you may")[0]
    reason = " ".join(said.split()).rstrip(".") or "JAX finds no such device"
    extra = "tpu" if "tpu" in named else "cuda"
    return (
      f"JAX_PLATFORMS={named}: {reason}; set JAX_PLATFORMS=cpu, or where there is such a device "
      f"pip install 'atgcn_jax[{extra}]'"
    )
  return ""


def _lost_bucket(workdir: str) -> str:
  """Why a bucket that the work began in cannot be reached any more; empty if it is none or can."""
  if in_bucket(workdir):
    try:
      check_reachable(workdir)
    except UserError as error:
      return str(error)
  return ""


class _Parser(argparse.ArgumentParser):
  """Usage errors in one line."""

  def error(self, message: str) -> NoReturn:
    dashed = [word for word in sys.argv[1:] if word.startswith("-") and os.path.isfile(word)]
    if dashed:
      message += f"; write ./{dashed[0]} for the file of this name"
    print(f"{self.prog}: {message}", file=sys.stderr)
    raise SystemExit(2)


def command_parser() -> argparse.ArgumentParser:
  """The parser of all verbs; what it returns has `run`, which takes it and returns the status."""
  parser = _Parser(
    prog="atgcn", description="Audio tagging with label graphs, in JAX.", allow_abbrev=False
  )
  verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

  def verb(name, run, summary, epilog=None, takes_config=False):
    added = verbs.add_parser(
      name, help=summary, description=summary, epilog=epilog, allow_abbrev=False
    )
    added.set_defaults(run=run, takes_config=takes_config)
    return added

  training.add_training_verbs(verb)
  results.add_result_verbs(verb)
  data.add_data_verbs(verb)
  tfds.add_tfds_verb(verb)
  studies.add_study_verbs(verb)
  return parser


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
  if category in (UserWarning, SoundWarning) and "atgcn_jax" in filename:
    print(f"atgcn: {message}", file=sys.stderr)
