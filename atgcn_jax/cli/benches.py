"""Verb for measurements: bench."""

from __future__ import annotations

import json

from atgcn_jax.cli.arguments import JSON_HELP, AddVerb, refuse_unused
from atgcn_jax.errors import UserError

BENCHES = {
  "train": "training step",
  "infer": "scoring of one batch",
  "layers": "each convolution of CNN10, relative to a matrix product",
  "compile": "first step of a new process, with an empty and with a filled compilation cache",
  "memory": "peak memory of a training process",
  "metrics": "mAP and mAUC of 20,371 clips and 527 labels",
  "frontend": "log-mels of full clips",
  "graph": "label graph with --labels labels",
  "counts": "label and pair counts of 2,041,789 clips",
  "data": "transfer of clips from a store to the device, in turn with a reference loader",
  "feed": "training step with one constant batch, and fed from a store",
  "compare": "this package in turn with PyTorch, scikit-learn and librosa",
}
# The benchmarks that use an option.
USED_BY = {
  "trace": ("train", "infer"),
  "reference": ("metrics", "frontend"),
  "twin": ("compare", "data"),
  "hubs": ("graph",),
}


def add_bench_verb(verb: AddVerb) -> None:
  """Add the verb to the parser."""
  bench = verb(
    "bench", _bench, "measure time and memory of training, scoring and their parts on random clips"
  )
  bench.add_argument(
    "what",
    choices=tuple(BENCHES),
    help="benchmark to run; " + "; ".join(map(": ".join, BENCHES.items())),
  )
  bench.add_argument(
    "--model",
    default="atgcn",
    choices=("cnn10", "atgcn", "mn04", "mn10", "vectors"),
    help="system for train, infer, compile, memory and feed, which has only cnn10 and atgcn "
    "(default: atgcn)",
  )
  bench.add_argument(
    "--batch", metavar="N", type=int, help="clips per batch (default: 64 for data, otherwise 16)"
  )
  bench.add_argument(
    "--steps",
    metavar="N",
    type=int,
    default=5,
    help="number of timed repetitions, of which the median is reported (default: 5)",
  )
  bench.add_argument(
    "--dtype",
    default="float32",
    choices=("float32", "bfloat16"),
    help="type that the layers compute in (default: float32)",
  )
  bench.add_argument(
    "--frontend",
    default="talnet",
    choices=("talnet", "panns", "efficientat"),
    help="front end for frontend (default: talnet)",
  )
  bench.add_argument(
    "--labels",
    metavar="N",
    type=int,
    default=10000,
    help="number of labels for graph and counts (default: 10000)",
  )
  bench.add_argument(
    "--hubs",
    action="store_true",
    help="for graph, give few labels very many edges instead of the same number to each",
  )
  bench.add_argument(
    "--reference",
    action="store_true",
    help="for metrics and frontend, measure scikit-learn or librosa instead of this package",
  )
  bench.add_argument(
    "--clips",
    metavar="N",
    type=int,
    default=100_000,
    help="number of clips in the store for data and feed (default: 100000)",
  )
  bench.add_argument(
    "--twin",
    metavar="SCRIPT",
    help="script to compare with: PyTorch training for compare, a reference loader for data",
  )
  bench.add_argument(
    "--trace",
    metavar="DIR",
    help="for train and infer, folder for a profiler trace of as many more steps; the result lists "
    "the longest operations",
  )
  bench.add_argument("--json", action="store_true", help=JSON_HELP)


def _bench(options) -> None:
  from atgcn_jax.bench.run_bench import run
  from atgcn_jax.runtime.process_setup import keep_compiled_programs, keep_freed_memory

  refuse_unused(options, USED_BY, options.what)
  if options.batch is None:
    options.batch = 64 if options.what == "data" else 16
  if min(options.batch, options.steps, options.labels, options.clips) < 1:
    raise UserError("--batch, --steps, --labels and --clips: must be at least 1")
  keep_compiled_programs()
  keep_freed_memory()
  result, text = run(options)
  print(json.dumps(result) if options.json else text)
