"""Verbs that apply a tagger to sound files: tag and detect."""

from __future__ import annotations

from atgcn_jax.cli.arguments import AddVerb, add_added_labels, add_strict, add_tagger
from atgcn_jax.cli.outputs import name_outputs
from atgcn_jax.cli.taggers import FILES_HELP, left_out, tagger_of
from atgcn_jax.errors import UserError

FORMATS = ("csv", "jsonl", "raven", "audacity")


def add_sound_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  _add_tag(verb)
  _add_detect(verb)


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
    help="with --score, how far the onset of a detection may be from that of the event (default: "
    "0.2)",
  )
  detect.add_argument(
    "--json", action="store_true", help="with --score, print the scores as one JSON object"
  )
  add_strict(detect)
  detect.add_argument("files", nargs="+", metavar="FILE", help=FILES_HELP)


def _tag(options) -> int:
  if options.top < 1:
    raise UserError(f"--top {options.top}: must be at least 1")
  if options.hop_seconds is not None and not options.timeline:
    raise UserError("--hop-seconds: only valid with --timeline; add it or leave this out")
  if options.plot and (not options.explain or len(options.files) > 1):
    raise UserError("--plot: only valid with --explain and one sound")
  for name in ("csv", "timeline"):
    if options.explain and getattr(options, name):
      raise UserError(f"--{name}: not valid with --explain; leave one of the two out")
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
    name_outputs(options)
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
  name_outputs(options)
  return left_out(options.verb, bad)


def _detect(options) -> int:
  if options.json and not options.score:
    raise UserError("--json: only valid with --score; for detections use --format jsonl")
  if options.collar is not None and not options.score:
    raise UserError("--collar: only valid with --score; add it or leave this out")
  from atgcn_jax.runtime.process_setup import keep_compiled_programs
  from atgcn_jax.serving.detect_files import detect_files
  from atgcn_jax.serving.detection_scores import COLLAR_SECONDS

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
    collar=COLLAR_SECONDS if options.collar is None else options.collar,
    as_json=options.json,
  )
  name_outputs(options)
  return left_out(options.verb, bad)
