"""Verbs that use a trained run: evaluate, compare, thresholds, export."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from atgcn_jax.cli.arguments import (
  JSON_HELP,
  AddVerb,
  add_added_labels,
  add_clips,
  add_processes,
  add_run,
)
from atgcn_jax.runtime.buckets import check_output_folder

EXPORT_HELP = """
Formats:
  stablehlo    model.stablehlo, for jax.export.deserialize on CPUs, NVIDIA GPUs and TPUs
  savedmodel   TensorFlow SavedModel
  onnx         model.onnx, for onnxruntime; launch/onnx.sh installs the converter
  huggingface  model.safetensors and a model card, which Tagger.restore and `atgcn tag` can load
In every format, config.json holds the sample rate of the input and the labels in the order of the
scores.
"""


def add_result_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  _add_evaluate(verb)
  _add_compare(verb)
  _add_thresholds(verb)
  _add_export(verb)


def _add_evaluate(verb: AddVerb) -> None:
  evaluate = verb("evaluate", _evaluate, "compute mAP, mAUC and d' of a run, and write a page")
  add_run(evaluate)
  add_clips(evaluate)
  add_added_labels(evaluate)
  evaluate.add_argument(
    "--ontology",
    metavar="FILE",
    help="ontology.json for OmAP and mAP by level (default: graph.ontology of the run, if set)",
  )
  evaluate.add_argument(
    "--out",
    metavar="DIR",
    help="folder of the output files (default: the run directory; no files if it is read-only)",
  )
  evaluate.add_argument(
    "--audio",
    metavar="DIR",
    help="folder of the sounds, as given to prepare, to hear the mistakes on the page",
  )
  evaluate.add_argument("--json", action="store_true", help=JSON_HELP)
  add_processes(evaluate)


def _add_compare(verb: AddVerb) -> None:
  compare = verb(
    "compare",
    _compare,
    "compare two runs on the same clips: AP per label, mAP difference with interval, label graph",
    "Differences are B minus A. By default each run scores the store it was trained on. The clips "
    "must be the same; front ends and vocabularies may differ. Labels that only one run has are "
    "left out. The output files are compare.csv, compare.md and compare.png.",
  )
  compare.add_argument("run_a", metavar="RUN_A", help="directory of the first run")
  compare.add_argument("run_b", metavar="RUN_B", help="directory of the second run")
  compare.add_argument(
    "--step",
    default="latest",
    help="checkpoint of both runs: a step number, latest or best (default: latest)",
  )
  add_clips(compare)
  compare.add_argument(
    "--out", metavar="DIR", help="folder of the output files (default: RUN_B/compare)"
  )
  compare.add_argument("--json", action="store_true", help=JSON_HELP)


def _add_thresholds(verb: AddVerb) -> None:
  thresholds = verb(
    "thresholds", _thresholds, "tune the score threshold of each label on the validation clips"
  )
  add_run(thresholds)
  thresholds.add_argument(
    "--store",
    metavar="STORE",
    help="clip store or TFDS dataset (default: the one the run was trained on)",
  )
  thresholds.add_argument(
    "--floor", metavar="S", type=float, default=0.0, help="lowest threshold (default: 0)"
  )
  thresholds.add_argument(
    "--min-precision",
    metavar="P",
    type=float,
    default=0.0,
    help="least precision on the validation clips; labels that do not reach it get no threshold "
    "(default: 0)",
  )
  thresholds.add_argument("--json", action="store_true", help=JSON_HELP)


def _add_export(verb: AddVerb) -> None:
  export = verb("export", _export, "export a run to a format that other programs load", EXPORT_HELP)
  export.formatter_class = argparse.RawDescriptionHelpFormatter
  add_run(export)
  export.add_argument(
    "--to",
    required=True,
    choices=("stablehlo", "savedmodel", "onnx", "huggingface"),
    help="format of the export",
  )
  export.add_argument(
    "--out",
    metavar="DIR",
    required=True,
    help="output folder; an earlier export in it is replaced",
  )


def _evaluate(options) -> int:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  keep_compiled_programs()  # sets the cache of matplotlib too, so it precedes its import
  from atgcn_jax.reports.evaluation import evaluate_and_write
  from atgcn_jax.runtime.processes import is_first, join

  join(options.coordinator, options.processes, options.process_id)

  result, page = evaluate_and_write(
    options.workdir,
    options.step,
    options.store,
    options.split,
    options.labels,
    options.out,
    options.add_labels,
    options.ontology,
    audio=options.audio,
  )
  status = 1 if options.out and page is None else 0
  if not is_first():
    return status
  if options.json:
    print(json.dumps(result))
    return status
  for name, value in result.items():
    if isinstance(value, list):
      value = ", ".join(value)
    if isinstance(value, dict):
      value = ", ".join(f"{key}: {'–' if v is None else f'{v:.4f}'}" for key, v in value.items())
    if value is None:
      value = _without_value(name, result)
    print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
  if page is not None:
    print(f"page: {page}")
  return status


def _without_value(name: str, result: dict[str, Any]) -> str:
  """Return why a metric of `evaluate` has no value."""
  if result["mAUC"] is not None:  # the AUCs are defined, so d' has no value if it is infinite
    if name == "d_prime":
      return f"infinite, as the mean AUC is {result['mAUC']:.0f}"
    if name == "mean_class_d_prime":
      return "infinite for a label whose AUC is 1 or 0"
  return "not defined"


def _compare(options) -> None:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  out = options.out or os.path.join(options.run_b, "compare")
  check_output_folder("--out", out)
  keep_compiled_programs()  # sets the cache of matplotlib too, so it precedes its import
  from atgcn_jax.reports.comparison import as_json, comparison_text, write_comparison
  from atgcn_jax.runs.compare import compare
  from atgcn_jax.runs.resumable_scores import kept_scores

  with kept_scores(out) as keep:
    comparison = compare(
      options.run_a,
      options.run_b,
      step=options.step,
      store_path=options.store,
      split=options.split,
      labels_path=options.labels,
      keep=keep,
    )
    paths = write_comparison(out, comparison)
  if options.json:
    print(json.dumps(as_json(comparison) | {"files": paths}))
    return
  print("\n".join([comparison_text(comparison), "", *paths]))


def _thresholds(options) -> None:
  from atgcn_jax.runs.thresholds import thresholds_text, tune
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  keep_compiled_programs()
  result = tune(
    options.workdir,
    step=options.step,
    store_path=options.store,
    floor=options.floor,
    min_precision=options.min_precision,
  )
  print(json.dumps(result) if options.json else thresholds_text(result))


def _export(options) -> None:
  from atgcn_jax.interop.export import export

  export(options.workdir, options.to, options.out, options.step)
  print(f"{options.out}: {options.to} of {options.workdir}")
