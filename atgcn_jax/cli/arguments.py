"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from atgcn_jax.errors import UserError
from atgcn_jax.pretrained.catalogue import DEFAULT

CONFIG_HELP = "Arguments of the form --config.KEY=VALUE override keys of the config."
STEP_HELP = "checkpoint to load: a step number, latest or best (default: latest)"
JSON_HELP = "print the result as one JSON object, on the last line of stdout"
# What a placeholder in the help stands for.
MEANINGS = {
  "DIR": "a folder",
  "FILE": "a file",
  "LABEL": "a label",
  "NAME": "a name",
  "PATH": "a file or a folder",
  "RUN": "a run directory",
  "STORE": "a clip store",
}
# Called as verb(name, run, summary, epilog=None, takes_config=False).
AddVerb = Callable[..., argparse.ArgumentParser]


class Store(argparse.Action):
  """An action that stores an argument and refuses an empty one.

  An empty argument mostly comes from a variable of a script that is not set. It would otherwise
  mean the current folder, or count as not given.
  """

  def __call__(self, parser, namespace, values, option_string=None):
    """Store the value, or the values of several arguments."""
    if values == "" or (isinstance(values, list) and "" in values):
      name = option_string or self.metavar or self.dest
      parser.error(f"{name}: is empty; give {MEANINGS.get(str(self.metavar), 'a value')}")
    setattr(namespace, self.dest, values)


class Append(Store):
  """The same for an option that may be repeated. Its default is a list."""

  def __call__(self, parser, namespace, values, option_string=None):
    """Store the values so far and this one."""
    before = getattr(namespace, self.dest)
    super().__call__(parser, namespace, values, option_string)
    setattr(namespace, self.dest, [*before, values])


def refuse_unused(
  options: argparse.Namespace, used_by: Mapping[str, Sequence[str]], chosen: str
) -> None:
  """Refuse options that would be ignored.

  Args:
    options: The parsed options of the verb.
    used_by: The choices that use an option, by the name of the option.
    chosen: The choice of the user.

  Raises:
    UserError: If an option is given that `chosen` does not use.
  """
  for option, choices in used_by.items():
    if getattr(options, option) and chosen not in choices:
      raise UserError(
        f"--{option}: only for {', '.join(choices)}; {chosen} does not use it, leave it out"
      )


def add_clips(verb: argparse.ArgumentParser) -> None:
  """Add the options that select clips and labels."""
  verb.add_argument(
    "--store",
    metavar="STORE",
    help="clip store or TFDS dataset with all or some of the run's labels, in any order "
    "(default: the one the run was trained on)",
  )
  verb.add_argument(
    "--split",
    default="test",
    choices=("train", "validation", "test", "all"),
    help="clips to score, by the folds in the run's config; all selects every clip of the store "
    "(default: test)",
  )
  verb.add_argument(
    "--labels",
    metavar="FILE",
    help="score only the labels in this file: a vocabulary CSV, or one label id per line "
    "(default: all labels of the run)",
  )


def add_added_labels(verb: argparse.ArgumentParser) -> None:
  """Add the option that names labels which the run was not trained on."""
  verb.add_argument(
    "--add-labels",
    metavar="FILE",
    help="also estimate the labels in this file, which the run was not trained on: a YAML file of "
    "names and relations (`Siren-like: 0.6 Siren, 0.3 Alarm`), or a vocabulary CSV",
  )


def add_run(verb: argparse.ArgumentParser) -> None:
  """Add the options that select a trained run and one of its checkpoints."""
  verb.add_argument("--workdir", metavar="DIR", required=True, help="run directory")
  verb.add_argument("--step", default="latest", help=STEP_HELP)


def add_tagger(verb: argparse.ArgumentParser) -> None:
  """Add the options that select a trained run or a pretrained model."""
  which = verb.add_mutually_exclusive_group()
  which.add_argument("--workdir", metavar="DIR", help="run directory")
  which.add_argument(
    "--model",
    metavar="NAME",
    help=f"pretrained model, as `atgcn models` lists them (default without --workdir: {DEFAULT})",
  )
  verb.add_argument("--step", default="latest", help=STEP_HELP)
  add_fetching(verb)


def add_fetching(verb: argparse.ArgumentParser) -> None:
  """Add the options that say where pretrained models come from."""
  verb.add_argument(
    "--offline", action="store_true", help="use only pretrained models that are in the cache"
  )
  verb.add_argument(
    "--mirror",
    metavar="URL",
    help="address of a folder that has the files of pretrained models, or such a folder on disk "
    "(default: where they were published)",
  )


def add_strict(verb: argparse.ArgumentParser) -> None:
  """Add the option that rejects incomplete sound files."""
  verb.add_argument(
    "--strict",
    action="store_true",
    help="reject truncated or damaged files (default: use the part that decodes, with a warning)",
  )


def add_training(verb: argparse.ArgumentParser) -> None:
  """Add the options of the verbs that train."""
  verb.add_argument(
    "--workdir", metavar="DIR", required=True, help="run directory; created if it does not exist"
  )
  verb.add_argument(
    "--profile",
    metavar="STEP:COUNT",
    help="write a profiler trace of COUNT steps, starting at step STEP, for TensorBoard",
  )
  add_processes(verb)


def add_processes(verb: argparse.ArgumentParser) -> None:
  """Add the options that place this process among the processes of the run."""
  many = verb.add_argument_group(
    "multiple processes",
    "one or more processes per host; detected automatically under Slurm, Open MPI, Cloud TPU and "
    "GKE",
  )
  many.add_argument("--coordinator", metavar="HOST:PORT", default="", help="address of process 0")
  many.add_argument("--processes", metavar="N", type=int, help="number of processes")
  many.add_argument(
    "--process-id", metavar="I", type=int, help="index of this process, from 0 to N - 1"
  )
