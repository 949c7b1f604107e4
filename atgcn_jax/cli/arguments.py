"""What several verbs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

CONFIG_HELP = "further arguments --config.KEY=VALUE override a key of the config"
# Of (name, run, summary, epilog=None, takes_config=False).
AddVerb = Callable[..., argparse.ArgumentParser]


def add_clips(verb: argparse.ArgumentParser) -> None:
  """Which clips of which store, and which labels."""
  verb.add_argument(
    "--store",
    help="clip store or TFDS dataset with the run's labels or some of them, in any order; by "
    "default the one trained on",
  )
  verb.add_argument(
    "--split",
    default="test",
    choices=("train", "validation", "test", "all"),
    help="by the folds in the run's config (default test); all: every clip of the store",
  )
  verb.add_argument(
    "--labels",
    metavar="FILE",
    help="score only these labels: rows of a vocabulary, or an id a line",
  )


def add_run(verb: argparse.ArgumentParser) -> None:
  """A trained run, and which of its checkpoints."""
  verb.add_argument("--workdir", required=True, help="folder of the run")
  verb.add_argument("--step", default="latest", help="a step, latest (default) or best")


def add_strict(verb: argparse.ArgumentParser) -> None:
  """Whether incomplete files are used."""
  verb.add_argument(
    "--strict",
    action="store_true",
    help="refuse files that are cut short or damaged (default: use what decodes, and warn)",
  )


def add_training(verb: argparse.ArgumentParser) -> None:
  """Where a run is trained, by whom, and what is traced."""
  verb.add_argument("--workdir", required=True, help="folder of the run that is trained")
  verb.add_argument(
    "--profile", metavar="STEP:COUNT", help="trace so many steps from this one, for TensorBoard"
  )
  add_processes(verb)


def add_processes(verb: argparse.ArgumentParser) -> None:
  """The place of this process among several."""
  many = verb.add_argument_group(
    "many processes", "one or more a host; Slurm, Open MPI, Cloud TPU and GKE tell these themselves"
  )
  many.add_argument("--coordinator", default="", help="HOST:PORT of process 0")
  many.add_argument("--processes", type=int, help="how many")
  many.add_argument("--process-id", type=int, help="which this is, from 0")
