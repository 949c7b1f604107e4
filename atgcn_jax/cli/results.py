"""Verbs on a run that has been trained."""

from __future__ import annotations

import argparse
import json
import os
import sys

from atgcn_jax.cli.arguments import AddVerb, add_clips, add_processes, add_run, add_strict
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import check_output_folder

FILES_HELP = "sound of any length, rate and channel count, or a folder of such files"
EXPORT_HELP = """
The folder has a config.json: the rate of the sound that is taken, and the labels in order.
  stablehlo    model.stablehlo, for jax.export.deserialize; on CPUs, NVIDIA GPUs and TPUs
  savedmodel   a SavedModel of TensorFlow
  onnx         model.onnx, for onnxruntime; launch/onnx.sh installs the converter
  huggingface  model.safetensors and a model card; Tagger.restore and `atgcn tag` read it back
"""


def add_result_verbs(verb: AddVerb) -> None:
  """Give the parser these verbs."""
  evaluate = verb("evaluate", _evaluate, "mAP, mAUC and d' of a run, and its report.html")
  add_run(evaluate)
  add_clips(evaluate)
  evaluate.add_argument(
    "--out", help="folder of the files to write (default: the run's; where that is read-only, none)"
  )
  evaluate.add_argument("--json", action="store_true", help="print one JSON object, last")
  add_processes(evaluate)

  compare = verb(
    "compare",
    _compare,
    "two runs on the same clips: AP by label, the difference and its interval, the label graph",
    "Differences are B minus A. Without --store each run scores the store it was trained on: the "
    "clips must be the same, front ends and vocabularies may differ. Labels that only one knows "
    "are left out. compare.csv, compare.md and compare.png are written.",
  )
  compare.add_argument("run_a", metavar="RUN_A", help="folder of a run")
  compare.add_argument("run_b", metavar="RUN_B", help="folder of the run that is set against it")
  compare.add_argument("--step", default="latest", help="of both: a step, latest (default) or best")
  add_clips(compare)
  compare.add_argument("--out", help="folder of the files to write (default: RUN_B/compare)")
  compare.add_argument("--json", action="store_true", help="print one JSON object, last")

  tag = verb("tag", _tag, "name what sounds in sound files, and when")
  add_run(tag)
  shown = tag.add_mutually_exclusive_group()
  shown.add_argument("--top", type=int, default=5, help="labels a file, or a row (default 5)")
  shown.add_argument(
    "--above-threshold", action="store_true", help="all labels above those of `atgcn thresholds`"
  )
  tag.add_argument(
    "--timeline", action="store_true", help="frame by frame; of systems without frames by windows"
  )
  tag.add_argument(
    "--hop-seconds", type=float, help="from window to window (default 1), also in place of frames"
  )
  tag.add_argument(
    "--csv", help="write this file in place of a table; after a stop the same command continues it"
  )
  add_strict(tag)
  tag.add_argument("--json", action="store_true", help="print one JSON object a file")
  tag.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)

  embed = verb("embed", _embed, "sound files to vectors, one a file, in one .npz")
  add_run(embed)
  embed.add_argument(
    "--out", required=True, help="the .npz to write: embedding float32[N, C], file str[N]"
  )
  add_strict(embed)
  embed.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)

  thresholds = verb(
    "thresholds", _thresholds, "tune the score from which each label is told, on validation clips"
  )
  add_run(thresholds)
  thresholds.add_argument(
    "--store", help="clip store or TFDS dataset; by default the one trained on"
  )
  thresholds.add_argument("--json", action="store_true", help="print one JSON object, last")

  export = verb("export", _export, "a run as a folder that other programs load", EXPORT_HELP)
  export.formatter_class = argparse.RawDescriptionHelpFormatter
  export.add_argument("--workdir", required=True, help="folder of the run")
  export.add_argument("--step", default="latest", help="a step, latest (default) or best")
  export.add_argument(
    "--to", required=True, choices=("stablehlo", "savedmodel", "onnx", "huggingface")
  )
  export.add_argument(
    "--out", required=True, help="folder to write; an earlier export there is replaced"
  )


def _evaluate(options) -> int:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  keep_compiled_programs()  # before matplotlib is imported, which has a cache too
  from atgcn_jax.reports.evaluation import evaluate_and_write
  from atgcn_jax.runtime.processes import is_first, join

  join(options.coordinator, options.processes, options.process_id)

  result, page = evaluate_and_write(
    options.workdir, options.step, options.store, options.split, options.labels, options.out
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
    print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
  if page is not None:
    print(f"page: {page}")
  return status


def _compare(options) -> None:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  out = options.out or os.path.join(options.run_b, "compare")
  check_output_folder("--out", out)
  keep_compiled_programs()  # before matplotlib is imported, which has a cache too
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


def _tag(options) -> int:
  if options.top < 1:
    raise UserError(f"--top {options.top}: ask for at least one label")
  if options.hop_seconds is not None and not options.timeline:
    raise UserError("--hop-seconds: is for --timeline")
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.many_files import tag_files
  from atgcn_jax.serving.tagger import Tagger

  keep_compiled_programs()
  bad = tag_files(
    Tagger.restore(options.workdir, options.step, options.strict),
    options.files,
    top=options.top,
    above_threshold=options.above_threshold,
    timeline=options.timeline,
    hop_seconds=options.hop_seconds,
    csv_file=options.csv,
    as_json=options.json,
  )
  return _left_out(options.verb, bad)


def _embed(options) -> int:
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.many_files import embed_files
  from atgcn_jax.serving.tagger import Tagger

  keep_compiled_programs()
  tagger = Tagger.restore(options.workdir, options.step, options.strict)
  files, bad = embed_files(tagger, options.files, options.out)
  print(f"{options.out}: {files} files")
  return _left_out(options.verb, bad)


def _left_out(verb: str, bad: list[Exception]) -> int:
  """The exit status when some files could not be used; says why."""
  for error in bad:
    print(f"atgcn {verb}: {error}", file=sys.stderr)
  return 1 if bad else 0


def _thresholds(options) -> None:
  from atgcn_jax.runs.thresholds import thresholds_text, tune
  from atgcn_jax.runtime.process_setup import keep_compiled_programs

  keep_compiled_programs()
  result = tune(options.workdir, step=options.step, store_path=options.store)
  print(json.dumps(result) if options.json else thresholds_text(result))


def _export(options) -> None:
  from atgcn_jax.interop.export import export

  export(options.workdir, options.to, options.out, options.step)
  print(f"{options.out}: {options.to} of {options.workdir}")
