"""Verbs that use a trained run: evaluate, compare, tag, detect, thresholds, export."""

from __future__ import annotations

import argparse
import json
import os

from atgcn_jax.cli.arguments import (
  JSON_HELP,
  AddVerb,
  add_added_labels,
  add_clips,
  add_processes,
  add_run,
  add_strict,
  add_tagger,
)
from atgcn_jax.cli.taggers import FILES_HELP, left_out, tagger_of
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import check_output_folder

FORMATS = ("csv", "jsonl", "raven", "audacity")
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
  _add_tag(verb)
  _add_detect(verb)
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


def _add_tag(verb: AddVerb) -> None:
  tag = verb(
    "tag",
    _tag,
    "print the labels of sound files, for each file or over time",
    "A pretrained model is fetched when it is first used.",
  )
  add_tagger(tag)
  add_added_labels(tag)
  choice = tag.add_mutually_exclusive_group()
  choice.add_argument(
    "--top",
    metavar="N",
    type=int,
    default=5,
    help="number of labels per file, or per row of a timeline (default: 5)",
  )
  choice.add_argument(
    "--above-threshold",
    action="store_true",
    help="print all labels whose score reaches the threshold set by `atgcn thresholds`",
  )
  choice.add_argument(
    "--explain",
    metavar="LABEL",
    help="print why this label (a name or an id) has its score: when it sounded, and which labels "
    "its vector came from",
  )
  tag.add_argument(
    "--plot", metavar="FILE", help="with --explain, also draw it for one sound: .png, .svg or .pdf"
  )
  tag.add_argument(
    "--timeline",
    action="store_true",
    help="print labels over time: per frame, or per window if the system has no frame scores",
  )
  tag.add_argument(
    "--hop-seconds",
    metavar="SECONDS",
    type=float,
    help="with --timeline, score windows this far apart, in seconds, instead of frames (default: "
    "1 if the system has no frame scores)",
  )
  tag.add_argument(
    "--csv",
    metavar="FILE",
    help="write a CSV file instead of printing a table; after an interruption the same command "
    "continues",
  )
  add_strict(tag)
  tag.add_argument("--json", action="store_true", help="print one JSON object per file")
  tag.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)


def _add_detect(verb: AddVerb) -> None:
  detect = verb(
    "detect",
    _detect,
    "write when each label sounds: spans with a start, an end and a score",
    "Times are those of frames, or of windows for systems without frame scores. Raven selection "
    "tables and Audacity label tracks are written to a file per sound.",
  )
  add_tagger(detect)
  add_added_labels(detect)
  detect.add_argument(
    "--min-score",
    metavar="S",
    type=float,
    help="score that a label must reach (default: the thresholds of `atgcn thresholds`, else 0.5)",
  )
  detect.add_argument(
    "--release",
    metavar="R",
    type=float,
    default=0.5,
    help="a detection continues while its score is at least this share of --min-score (default: "
    "0.5)",
  )
  detect.add_argument(
    "--min-seconds",
    metavar="T",
    type=float,
    default=0.0,
    help="shortest detection, in seconds (default: 0)",
  )
  detect.add_argument(
    "--hop-seconds", metavar="SECONDS", type=float, help="score windows this far apart, see tag"
  )
  detect.add_argument(
    "--format",
    choices=FORMATS,
    default="csv",
    help="format of the output (default: csv)",
  )
  detect.add_argument(
    "--out",
    metavar="PATH",
    help="file to write; for raven and audacity, folder (default: print csv and jsonl)",
  )
  detect.add_argument(
    "--score",
    metavar="TABLE",
    action="append",
    default=[],
    help="score the detections against annotated events: an Audacity label track, a Raven "
    "selection table, a CSV with onset and offset, or a folder of these; may be repeated. Prints "
    "F1 by segments and by events instead of the detections",
  )
  detect.add_argument(
    "--collar",
    metavar="SECONDS",
    type=float,
    default=0.2,
    help="with --score, how far the onset of a detection may be from that of the event (default: "
    "0.2)",
  )
  detect.add_argument(
    "--json", action="store_true", help="with --score, print the scores as one JSON object"
  )
  add_strict(detect)
  detect.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)


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
    print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
  if page is not None:
    print(f"page: {page}")
  return status


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


def _tag(options) -> int:
  if options.top < 1:
    raise UserError(f"--top {options.top}: must be at least 1")
  if options.hop_seconds is not None and not options.timeline:
    raise UserError("--hop-seconds: only valid with --timeline; add it or leave this out")
  if options.plot and (not options.explain or len(options.files) > 1):
    raise UserError("--plot: only valid with --explain and one sound")
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.many_files import explain_files, tag_files

  keep_compiled_programs()
  tagger = tagger_of(options)
  if options.add_labels:
    tagger = tagger.with_labels(options.add_labels)
  if options.explain:
    bad = explain_files(
      tagger, options.files, options.explain, as_json=options.json, plot=options.plot
    )
    return left_out(options.verb, bad)
  bad = tag_files(
    tagger,
    options.files,
    top=options.top,
    above_threshold=options.above_threshold,
    timeline=options.timeline,
    hop_seconds=options.hop_seconds,
    csv_file=options.csv,
    as_json=options.json,
  )
  return left_out(options.verb, bad)


def _detect(options) -> int:
  if options.json and not options.score:
    raise UserError("--json: only valid with --score; for detections use --format jsonl")
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.detect_files import detect_files

  keep_compiled_programs()
  tagger = tagger_of(options)
  if options.add_labels:
    tagger = tagger.with_labels(options.add_labels)
  bad = detect_files(
    tagger,
    options.files,
    kind=options.format,
    out=options.out,
    min_score=options.min_score,
    release=options.release,
    min_seconds=options.min_seconds,
    hop_seconds=options.hop_seconds,
    tables=options.score,
    collar=options.collar,
    as_json=options.json,
  )
  return left_out(options.verb, bad)


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
