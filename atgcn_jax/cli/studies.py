"""Verbs that measure: the paper's tables, time, memory."""

from __future__ import annotations

import json
import os
import pathlib
import signal

from atgcn_jax.cli.arguments import CONFIG_HELP, AddVerb
from atgcn_jax.errors import UserError

BENCHES = {
  "train": "a training step",
  "infer": "a batch of scores",
  "layers": "each convolution, against the matrix product",
  "compile": "the first step of a new process, cold and with the compiled program kept",
  "memory": "the most memory a training process takes",
  "metrics": "mAP and mAUC of 20,371 clips and 527 labels",
  "frontend": "log-mels of 10 s clips",
  "graph": "label graphs of any size",
  "counts": "counts of 2,041,789 clips",
  "data": "clips from a store to the device, and the usual loader's in turn",
  "feed": "a training step with one constant batch and fed from a store",
  "compare": "ours and PyTorch's, scikit-learn's, librosa's, in turn",
}
PLAN_HELP = """
Needs the package libtpu (extra tpu), but no TPU. The step is compiled for the topology, which takes
minutes; times are a roofline's, not measured. Where the step does not fit, the exit status is 1 and
the largest batch that does is named. Further arguments --config.KEY=VALUE override the config.
"""
STOPPING = (signal.SIGINT, signal.SIGTERM)


def add_study_verbs(verb: AddVerb) -> None:
  """Give the parser these verbs."""
  reproduce = verb(
    "reproduce",
    _reproduce,
    "a table or figure of the paper, on any clip store",
    CONFIG_HELP,
    takes_config=True,
  )
  reproduce.add_argument("what", choices=("table1", "table2", "figure3", "figure4", "ablation"))
  reproduce.add_argument("--store", required=True, help="clip store, or soundscapes")
  reproduce.add_argument("--out", required=True, help="folder of the runs and of what is written")
  reproduce.add_argument(
    "--configs", default="configs/table1", help="folder of the systems' configs"
  )
  reproduce.add_argument("--seeds", type=int, default=1, help="runs of each system (default 1)")
  reproduce.add_argument(
    "--folds", default="", help="test on each of these in turn, train on all others (1,2,…)"
  )
  reproduce.add_argument("--rows", default="", help="of a table, by name (default: all)")
  reproduce.add_argument("--points", default="", help="of figure3 (default: 0,0.1,…,1)")

  plan = verb(
    "plan",
    _plan,
    "what training on a TPU topology would take, found without one",
    PLAN_HELP,
    takes_config=True,
  )
  plan.add_argument("--config", required=True, help="Python file with get_config()")
  plan.add_argument("--topology", required=True, help="such as v5e:16x16, v6e:4x4, v5p:2x2x2")
  plan.add_argument("--batch", type=int, help="clips a step over all chips (default: the config's)")
  plan.add_argument("--json", action="store_true", help="print one JSON object, last")

  bench = verb("bench", _bench, "time and memory of steps and their parts, on made-up clips")
  bench.add_argument(
    "what", choices=tuple(BENCHES), help="; ".join(map(": ".join, BENCHES.items()))
  )
  bench.add_argument("--model", default="atgcn", choices=("cnn10", "atgcn"))
  bench.add_argument("--batch", type=int, help="clips a step (default 16; of data 64)")
  bench.add_argument(
    "--steps", type=int, default=5, help="timings, whose median counts (default 5)"
  )
  bench.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
  bench.add_argument("--frontend", default="talnet", choices=("talnet", "panns"))
  bench.add_argument("--labels", type=int, default=10000, help="of graph and counts")
  bench.add_argument(
    "--reference", action="store_true", help="time scikit-learn or librosa instead"
  )
  bench.add_argument("--clips", type=int, default=100_000, help="of data's and feed's store")
  bench.add_argument(
    "--twin", help="script of the other side: of PyTorch for compare, of the usual loader for data"
  )
  bench.add_argument("--trace", help="folder for a profile of a step of train or infer")
  bench.add_argument("--json", action="store_true", help="print one JSON object, last")


def _reproduce(options) -> int:
  from atgcn_jax.paper.experiment_runs import Settings
  from atgcn_jax.paper.reproduce import reproduce
  from atgcn_jax.runtime.process_setup import keep_compiled_programs, keep_freed_memory
  from atgcn_jax.runtime.signals import Stopped

  if options.seeds < 1:
    raise UserError(f"--seeds {options.seeds}: ask for at least one")
  try:
    points = [float(point) for point in _listed(options.points)]
  except ValueError:
    raise UserError(f"--points {options.points}: give numbers from 0 to 1, as 0,0.3,1") from None
  if any(not 0 <= point <= 1 for point in points):
    raise UserError(f"--points {options.points}: give numbers from 0 to 1")
  keep_compiled_programs()
  keep_freed_memory()
  settings = Settings(
    store=options.store,
    out=pathlib.Path(options.out),
    configs=pathlib.Path(options.configs),
    seeds=options.seeds,
    folds=tuple(_listed(options.folds)),
    overrides=tuple(options.overrides),
  )
  try:
    print(reproduce(options.what, settings, _listed(options.rows), points))
  except Stopped as stopped:
    return 128 + stopped.signal_number
  return 0


def _listed(text: str) -> list[str]:
  """The parts between commas."""
  return [part.strip() for part in text.split(",") if part.strip()]


def _plan(options) -> None:
  from atgcn_jax.runs.config import load_config

  config = load_config(options.config, options.overrides)
  # A TPU that there may be is left to others.
  os.environ["JAX_PLATFORMS"] = "cpu"
  # Nothing is to be saved, and the compiler would not let go before it is done.
  handlers = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
  try:
    from atgcn_jax.plan.estimate import plan_text, plan_training

    found = plan_training(config, options.topology, options.batch)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  print(json.dumps(found) if options.json else plan_text(found))


def _bench(options) -> None:
  from atgcn_jax.bench.run_bench import run
  from atgcn_jax.runtime.process_setup import keep_compiled_programs, keep_freed_memory

  if options.batch is None:
    options.batch = 64 if options.what == "data" else 16
  if min(options.batch, options.steps, options.labels, options.clips) < 1:
    raise UserError("--batch, --steps, --labels and --clips: take at least 1")
  keep_compiled_programs()
  keep_freed_memory()
  result, text = run(options)
  print(json.dumps(result) if options.json else text)
