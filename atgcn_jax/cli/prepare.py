"""The verb prepare."""

from __future__ import annotations

import sys

from atgcn_jax.cli.arguments import AddVerb, add_strict
from atgcn_jax.data.layouts.options import OPTIONS
from atgcn_jax.errors import UserError


def add_prepare(verb: AddVerb) -> None:
  """Add the verb to the parser."""
  prepare = verb(
    "prepare",
    _prepare,
    "write sound files and their labels to a clip store",
    "After an interruption the same command resumes. A finished store is never replaced. Files "
    "that cannot be read are left out and listed in OUT.unreadable.csv; the exit status is then 1. "
    "Files that are used although they are longer than a clip, incomplete, silent, out of range or "
    "out of phase are listed in OUT.findings.csv.",
  )
  prepare.add_argument(
    "--layout",
    default="list",
    choices=tuple(OPTIONS),
    help="layout of the input; list: a folder and a label CSV; folders: a folder per label; "
    "events: a row per event; segments: clips named by YouTube id and AudioSet segment lists; "
    "esc50, fsd50k, urbansound8k: the folder of the data set as downloaded; sonyc: the recordings "
    "of SONYC-UST and annotations.csv; panns: packed .h5 files; talnet: .mat files of log-mels; "
    "audioset-features: AudioSet's published VGGish features (default: list)",
  )
  prepare.add_argument(
    "--audio",
    metavar="PATH",
    required=True,
    nargs="+",
    help="folder of sound files; for panns and talnet, one or more files or folders; for "
    "audioset-features, the folder or the .tar.gz archive of the features",
  )
  prepare.add_argument(
    "--labels",
    metavar="FILE",
    nargs="+",
    help="for list, CSV with columns filename, fold, positive_labels, or with a column of 0 and 1 "
    "per label; for events, one or more Audacity label tracks, Raven selection tables or CSV files "
    "with columns filename, onset, offset, label (default: the .txt files next to the sounds); for "
    "segments, one or more segment lists (.csv or .csv.gz); for sonyc, "
    "annotations.csv",
  )
  prepare.add_argument(
    "--vocabulary",
    metavar="FILE",
    help="CSV with columns index, mid, display_name, or audioset (default for list, folders, "
    "events and segments: the labels of the clips)",
  )
  prepare.add_argument("--ontology", metavar="FILE", help="for esc50, AudioSet's ontology.json")
  prepare.add_argument(
    "--esc10", action="store_true", help="for esc50, use only the clips of ESC-10"
  )
  prepare.add_argument(
    "--fold",
    help="for segments, panns and talnet, fold of all clips; for folders and events, of those "
    "whose folder or table states none (default: taken from names of folders or files)",
  )
  prepare.add_argument(
    "--normaliser",
    metavar="FILE",
    help="for talnet, file of mean and deviation: pickle, .npz or .mat (default: normalizer.pkl in "
    "the folder)",
  )
  prepare.add_argument(
    "--used-labels-only", action="store_true", help="drop labels that no file has"
  )
  prepare.add_argument(
    "--background",
    action="store_true",
    help="for events, also store clips without a label, where no event is and from sounds without "
    "any; only for sounds in which every event is annotated",
  )
  prepare.add_argument(
    "--split",
    metavar="T/V/E",
    default="",
    help="split the clips into the folds train, validation and test by a hash of their names, with "
    "these percentages, such as 80/10/10 (default: the folds of the layout)",
  )
  prepare.add_argument(
    "--split-by",
    metavar="GROUP",
    default="",
    help="keep clips together in --split: for list and events a column of the CSV, otherwise "
    "folder or date (the last one in the path) (default: the clips of one file)",
  )
  prepare.add_argument(
    "--stratify",
    action="store_true",
    help="split each label in the proportions of --split; the fold of a clip may then change when "
    "clips are added",
  )
  prepare.add_argument("--out", metavar="FILE", required=True, help="clip store to write, .h5")
  prepare.add_argument(
    "--frontend",
    choices=("talnet", "panns", "vggish", "efficientat", "vggish-features"),
    help="front end that computes the log-mels; vggish-features is that of audioset-features, and "
    "of no other layout (default: talnet)",
  )
  prepare.add_argument(
    "--seconds", metavar="N", type=float, help="length of a clip in seconds (default: 10)"
  )
  prepare.add_argument(
    "--dtype",
    choices=("uint8", "float16"),
    help="type of the stored log-mels (default: uint8 for dB and features, otherwise float16)",
  )
  prepare.add_argument(
    "--workers", metavar="N", type=int, help="number of processes (default: one per core)"
  )
  prepare.add_argument(
    "--segment",
    action="store_true",
    help="cut files longer than a clip into clips ID@SECONDS with the labels of the file (default: "
    "use the first clip length of each file)",
  )
  add_strict(prepare)


def _prepare(options) -> int:
  from atgcn_jax.data.prepare import prepare
  from atgcn_jax.data.store.unfinished import report_path

  if options.workers is not None and options.workers < 1:
    raise UserError(f"--workers {options.workers}: must be at least 1")
  built = prepare(
    options.audio,
    options.labels,
    options.out,
    layout=options.layout,
    vocabulary=options.vocabulary,
    ontology=options.ontology,
    fold=options.fold,
    esc10=options.esc10,
    background=options.background,
    normaliser=options.normaliser,
    used_labels_only=options.used_labels_only,
    frontend_name=options.frontend,
    dtype=options.dtype,
    workers=options.workers,
    seconds=options.seconds,
    segment=options.segment,
    strict=options.strict,
    split=options.split,
    split_by=options.split_by,
    stratify=options.stratify,
  )
  print(f"{options.out}: {built.clips} clips")
  if built.absent or built.unreadable:
    left_out = ((built.absent, "not there"), (built.unreadable, "cannot be read"))
    text = ", ".join(f"{count} {why}" for count, why in left_out if count)
    print(f"atgcn prepare: {text}; see {report_path(options.out)}", file=sys.stderr)
  return 1 if built.unreadable else 0
