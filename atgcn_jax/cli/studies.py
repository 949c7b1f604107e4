"""Verbs for studies: reproduce, plan."""

from __future__ import annotations

import json
import math
import os
import pathlib
import signal

from atgcn_jax.cli.arguments import CONFIG_HELP, JSON_HELP, AddVerb, refuse_unused
from atgcn_jax.errors import UserError

PLAN_HELP = f"""
Needs the package libtpu (extra tpu), but no TPU. Compiling the step for the topology takes minutes.
Times are estimates of a roofline model, not measurements. If the step does not fit into the memory
of a chip, the exit status is 1 and the message names the largest batch that fits.
{CONFIG_HELP}
"""
TABLES = ("table1", "table2", "ablation")
STOPPING = (signal.SIGINT, signal.SIGTERM)


def add_study_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  _add_reproduce(verb)
  _add_plan(verb)


def _add_reproduce(verb: AddVerb) -> None:
  reproduce = verb(
    "reproduce",
    _reproduce,
    "train the systems of a table or figure of the paper on a clip store, and write the result",
    "Finished runs are kept, interrupted runs are resumed. " + CONFIG_HELP,
    takes_config=True,
  )
  reproduce.add_argument(
    "what",
    choices=(
      *("table1", "table2", "figure3", "figure4", "ablation"),
      *("unseen", "few", "forgotten"),
    ),
    help="table or figure to write; unseen estimates labels without a training clip, few trains "
    "half of the labels with few of their clips, forgotten trains with positives removed at random",
  )
  reproduce.add_argument(
    "--store",
    metavar="STORE",
    required=True,
    help="clip store or TFDS dataset, or soundscapes for the built-in soundscapes",
  )
  reproduce.add_argument(
    "--out", metavar="DIR", required=True, help="folder of the runs and of the output files"
  )
  reproduce.add_argument(
    "--configs",
    metavar="DIR",
    help="folder of the systems' config files (default: configs/table1, or "
    "configs/audioset_features for a store of AudioSet's features)",
  )
  reproduce.add_argument(
    "--seeds",
    metavar="N",
    type=int,
    default=1,
    help="number of runs of each system, with seeds 0 to N - 1 (default: 1)",
  )
  reproduce.add_argument(
    "--folds",
    default="",
    help="comma-separated folds to test on in turn, each time training on all other folds "
    "(default: one split, by the names of the folds)",
  )
  reproduce.add_argument(
    "--rows", default="", help="comma-separated names of table rows (default: all rows)"
  )
  reproduce.add_argument(
    "--head-rates",
    default="",
    help="comma-separated learning rates of the head, relative to that of the other parameters; "
    "each system takes the best on the validation clips with seed 0 (default: as in its config)",
  )
  reproduce.add_argument(
    "--step",
    choices=("latest", "best"),
    default="latest",
    help="checkpoint to test: that of the last step, or of the best step on the validation clips "
    "(default: latest)",
  )
  reproduce.add_argument(
    "--draws",
    metavar="N",
    type=int,
    help="number of random sets of left-out labels in unseen (default: 10)",
  )
  reproduce.add_argument(
    "--points",
    default="",
    help="comma-separated points of the curves in figure3, from 0 to 1 (default: 0,0.1,…,1)",
  )


def _add_plan(verb: AddVerb) -> None:
  plan = verb(
    "plan",
    _plan,
    "estimate memory, time and disk of training on a TPU topology, without a TPU",
    PLAN_HELP,
    takes_config=True,
  )
  plan.add_argument(
    "--config", metavar="FILE", required=True, help="Python file that defines get_config()"
  )
  plan.add_argument(
    "--topology", required=True, help="TPU topology, such as v5e:16x16, v6e:4x4 or v5p:2x2x2"
  )
  plan.add_argument(
    "--batch",
    metavar="N",
    type=int,
    help="clips per step over all chips (default: data.batch_size of the config)",
  )
  plan.add_argument("--json", action="store_true", help=JSON_HELP)


def _reproduce(options) -> int:
  from atgcn_jax.paper.experiment_configs import Settings
  from atgcn_jax.paper.reproduce import reproduce
  from atgcn_jax.runs.config import config_with_overrides, default_config
  from atgcn_jax.runtime.process_setup import (
    compute_reproducibly,
    keep_compiled_programs,
    keep_freed_memory,
  )
  from atgcn_jax.runtime.signals import Stopped

  refuse_unused(
    options, {"rows": TABLES, "points": ("figure3",), "draws": ("unseen",)}, options.what
  )
  if options.seeds < 1:
    raise UserError(f"--seeds {options.seeds}: must be at least 1")
  if options.draws is None:
    options.draws = 10
  if options.draws < 1:
    raise UserError(f"--draws {options.draws}: must be at least 1")
  points = _numbers("--points", options.points, "numbers from 0 to 1, as in 0,0.3,1")
  if any(not 0 <= point <= 1 for point in points):
    raise UserError(f"--points {options.points}: give numbers from 0 to 1")
  head_rates = _numbers("--head-rates", options.head_rates, "numbers above 0, as in 1,3,10")
  if any(not 0 < rate < math.inf for rate in head_rates):
    raise UserError(f"--head-rates {options.head_rates}: give numbers above 0")
  # Those of the config files are read later, but before the first use of a device by a training.
  if config_with_overrides(default_config(), options.overrides).deterministic:
    compute_reproducibly()
  keep_compiled_programs()
  keep_freed_memory()
  settings = Settings(
    store=options.store,
    out=pathlib.Path(options.out),
    configs=pathlib.Path(options.configs) if options.configs else None,
    seeds=options.seeds,
    folds=tuple(_listed(options.folds)),
    overrides=tuple(options.overrides),
    step=options.step,
    head_rates=tuple(head_rates),
  )
  try:
    print(reproduce(options.what, settings, _listed(options.rows), points, options.draws))
  except Stopped as stopped:
    return 128 + stopped.signal_number
  return 0


def _numbers(option: str, text: str, expected: str) -> list[float]:
  """Return the numbers of a comma-separated text."""
  try:
    return [float(part) for part in _listed(text)]
  except ValueError:
    raise UserError(f"{option} {text}: give {expected}") from None


def _listed(text: str) -> list[str]:
  """Return the non-empty parts of a comma-separated text."""
  return [part.strip() for part in text.split(",") if part.strip()]


def _plan(options) -> None:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  # Planning leaves a TPU of this machine free for other processes.
  os.environ["JAX_PLATFORMS"] = "cpu"
  # A signal ends the process at once: there is nothing to save, and Python would handle the signal
  # only after the compiler has returned.
  handlers = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
  try:
    from atgcn_jax.plan.estimate import plan_text, plan_training

    found = plan_training(config, options.topology, options.batch)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  print(json.dumps(found) if options.json else plan_text(found))
