"""The `atgcn` command: parse the arguments and call the function of the verb."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import sys
import traceback
import types
import warnings
from typing import NoReturn

from atgcn_jax import __version__
from atgcn_jax.cli import (
  benches,
  data,
  embeddings,
  pretrained,
  results,
  serve,
  sounds,
  studies,
  tfds,
  training,
)
from atgcn_jax.cli.arguments import Append, Store
from atgcn_jax.cli.outputs import check_outputs
from atgcn_jax.cli.streams import any_streams
from atgcn_jax.errors import SoundWarning, UserError, WorkFailed
from atgcn_jax.runtime import signals
from atgcn_jax.runtime.buckets import check_reachable, in_bucket

# Most of the million objects that imports and traces make are no garbage. With Python's own limits
# (700, 10), looking for garbage takes a tenth of the time of `atgcn tag`.
GARBAGE_LIMITS = 10_000, 50  # new objects, and collections of new objects, before a collection


@any_streams
def main(arguments: list[str] | None = None) -> int:
  """Run one verb and return the exit status.

  Args:
    arguments: Command-line arguments without the program name, by default those of `sys.argv`.

  Returns:
    0 on success; 1 if the work failed; 2 for invalid arguments or input, with one line on stderr;
    130 after Ctrl-C; 143 after SIGTERM; 141 if the reader of the output has closed its pipe.
  """
  # Users do not need the log messages of the libraries.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  logging.getLogger("absl").setLevel(logging.CRITICAL)  # absl also raises what it logs
  logging.getLogger("matplotlib").setLevel(logging.ERROR)
  # Orbax stops at the first error in a damaged checkpoint, which is reported. The reads that are
  # still pending fail later, and nothing waits for them.
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  sys.unraisablehook = lambda unraisable: None
  warnings.showwarning = _show_warning
  if arguments is None:
    gc.set_threshold(*GARBAGE_LIMITS)
  program = "atgcn"
  with signals.command(ends_process=arguments is None) as stop:
    try:
      options = _parsed(arguments)
      program = f"atgcn {options.verb}"
      status = _status(options, stop)
      if stop.signal_number is not None and status <= 128:
        print(f"{program}: the stop signal came too late; the work had ended", file=sys.stderr)
        status = 128 + stop.signal_number
    except KeyboardInterrupt as error:
      signals.acknowledge()
      by = f" by {error}" if isinstance(error, signals.Interrupted) else ""
      notes = "; ".join(getattr(error, "__notes__", ()))
      notes = f"; {notes}; the same command continues" if notes else ""
      print(f"{program}: stopped{by}{notes}", file=sys.stderr)
      status = 128 + getattr(error, "signal_number", signals.SIGINT)
    if status and arguments is None and (processes := _processes()):
      processes.leave_soon(status)
    return status


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
  """Parse the options of a verb; `overrides` holds the arguments --config.KEY=VALUE."""
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
  """Run a verb with its options and return the exit status."""
  try:
    check_outputs(options)
    return options.run(options) or 0
  except UserError as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 2
  except WorkFailed as error:
    print(f"atgcn {options.verb}{_which_process()}: {error}", file=sys.stderr)
    return 1
  except Exception as error:
    stop.raise_if_stopped()  # a library may have replaced the exception of the signal by this one
    which = _which_process()
    if reason := _what_is_missing(error):
      print(f"atgcn {options.verb}{which}: {reason}", file=sys.stderr)
      return 2
    if reason := _lost_bucket(getattr(options, "workdir", "")):
      print(f"atgcn {options.verb}{which}: {reason}", file=sys.stderr, flush=True)
    elif which:
      traceback.print_exc()
      print(
        f"atgcn {options.verb}{which}: failed; the process that failed first reports the cause, "
        "unless it was killed; the same command resumes from the last checkpoint",
        file=sys.stderr,
        flush=True,
      )
    else:
      raise
    if which:  # a regular exit waits for the other processes, and one of them may be the cause
      os._exit(1)
    return 1


def _which_process() -> str:
  """Return which of the processes this is, for messages; empty for a single process."""
  processes = _processes()
  return processes.which() if processes else ""


def _processes() -> types.ModuleType | None:
  """Return the module of several processes, or None if the verb has not imported it."""
  return sys.modules.get("atgcn_jax.runtime.processes")


def _what_is_missing(error: Exception) -> str:
  """Return a message if the cause is a missing user name or device, otherwise an empty string."""
  # Raised by `pwd` and `grp`, which libraries call.
  unnamed = re.search(r"(uid|gid) not found: '?(\d+)", str(error))
  if isinstance(error, KeyError) and unnamed:
    who, file = ("user", "/etc/passwd") if unnamed[1] == "uid" else ("group", "/etc/group")
    return (
      f"{who} id {unnamed[2]} has no name on this machine, which this command needs; add it to "
      f"{file}"
    )
  if "jax" not in sys.modules or not isinstance(error, RuntimeError | AssertionError):
    return ""
  import jax

  try:
    jax.devices()
  except (RuntimeError, AssertionError) as fault:  # for cuda, an AssertionError without a message
    platforms = os.environ.get("JAX_PLATFORMS", "")
    message = str(fault).split("(set JAX")[0].split("(you may")[0]
    reason = " ".join(message.split()).rstrip(".") or "JAX finds no such device"
    extra = "tpu" if "tpu" in platforms else "cuda"
    return (
      f"JAX_PLATFORMS={platforms}: {reason}; set JAX_PLATFORMS=cpu, or, if the machine has such a "
      f"device, run pip install 'atgcn_jax[{extra}]'"
    )
  return ""


def _lost_bucket(workdir: str) -> str:
  """Return why the bucket of a run can no longer be reached; empty if it can, or is no bucket."""
  if in_bucket(workdir):
    try:
      check_reachable(workdir)
    except UserError as error:
      return str(error)
  return ""


class _Parser(argparse.ArgumentParser):
  """A parser that reports a usage error in one line, and refuses empty arguments."""

  def __init__(self, *arguments, **options):
    super().__init__(*arguments, **options)
    self.register("action", None, Store)
    self.register("action", "append", Append)

  def error(self, message: str) -> NoReturn:
    dashed = [word for word in sys.argv[1:] if word.startswith("-") and os.path.isfile(word)]
    if dashed:
      message += f"; write ./{dashed[0]} for the file of this name"
    print(f"{self.prog}: {message}", file=sys.stderr)
    raise SystemExit(2)


def command_parser() -> argparse.ArgumentParser:
  """Return the parser of all verbs.

  The parsed options have an attribute `run`: the function of the verb, which takes the options and
  returns the exit status, or None for 0.
  """
  parser = _Parser(
    prog="atgcn", description="Audio tagging with label graphs, in JAX.", allow_abbrev=False
  )
  parser.add_argument("--version", action="version", version=f"atgcn_jax {__version__}")
  verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

  def verb(name, run, summary, epilog=None, takes_config=False):
    description = summary[0].upper() + summary[1:]
    added = verbs.add_parser(
      name, help=summary, description=description, epilog=epilog, allow_abbrev=False
    )
    added.set_defaults(run=run, takes_config=takes_config)
    return added

  training.add_training_verbs(verb)
  results.add_result_verbs(verb)
  sounds.add_sound_verbs(verb)
  embeddings.add_embedding_verbs(verb)
  serve.add_serve_verb(verb)
  pretrained.add_pretrained_verb(verb)
  data.add_data_verbs(verb)
  tfds.add_tfds_verb(verb)
  studies.add_study_verbs(verb)
  benches.add_bench_verb(verb)
  return parser


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
  if category in (UserWarning, SoundWarning) and "atgcn_jax" in filename:
    print(f"atgcn: {message}", file=sys.stderr)
