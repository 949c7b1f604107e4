"""Verbs that make clips, labels and graphs."""

from __future__ import annotations

import functools
import os
import sys

from atgcn_jax.cli.arguments import AddVerb, add_strict
from atgcn_jax.errors import UserError


def add_data_verbs(verb: AddVerb) -> None:
  """Give the parser these verbs."""
  prepare = verb(
    "prepare",
    _prepare,
    "sound files and their labels to one clip store",
    "After any stop the same command resumes. Files that cannot be read are left out and listed in "
    "OUT.unreadable.csv; the exit status is then 1. Files that are used, but are longer than a "
    "clip, incomplete, silent, out of range or out of phase, are listed in OUT.findings.csv.",
  )
  prepare.add_argument(
    "--layout",
    default="list",
    choices=("list", "segments", "esc50", "sonyc", "panns", "talnet"),
    help="list (default): a folder and a CSV; segments: clips named by YouTube id and AudioSet's "
    "lists; esc50: its folder as downloaded; sonyc: SONYC-UST's recordings and annotations.csv; "
    "panns: packed .h5 files; talnet: .mat files of log-mels",
  )
  prepare.add_argument(
    "--audio", required=True, nargs="+", help="folder of sound files; of panns, talnet also files"
  )
  prepare.add_argument(
    "--labels",
    nargs="+",
    help="list: CSV filename,fold,positive_labels; segments: lists, .csv or .csv.gz; "
    "sonyc: annotations.csv",
  )
  prepare.add_argument(
    "--vocabulary",
    help="CSV: index,mid,display_name (default of list and segments: the ids that are met)",
  )
  prepare.add_argument("--ontology", help="esc50: AudioSet's ontology.json")
  prepare.add_argument("--esc10", action="store_true", help="esc50: only the ESC-10 part")
  prepare.add_argument(
    "--fold", help="segments, panns, talnet: of all clips (default: as the file names say)"
  )
  prepare.add_argument(
    "--normaliser", help="talnet: pickle, .npz or .mat (default: normalizer.pkl in the folder)"
  )
  prepare.add_argument("--used-labels-only", action="store_true", help="drop labels no file has")
  prepare.add_argument("--out", required=True, help="the store to write, .h5")
  prepare.add_argument("--frontend", default="talnet", choices=("talnet", "panns", "vggish"))
  prepare.add_argument("--dtype", choices=("uint8", "float16"), help="default: uint8 for dB")
  prepare.add_argument("--workers", type=int, help="processes (default: one a core)")
  prepare.add_argument(
    "--segment",
    action="store_true",
    help="list, segments, esc50, sonyc: cut files longer than a clip into clips ID@SECONDS with "
    "the file's labels (default: the first clip length is kept)",
  )
  add_strict(prepare)

  soundscapes = verb("soundscapes", _soundscapes, "write the built-in soundscapes as sound files")
  soundscapes.add_argument("--out", required=True, help="folder to write")
  soundscapes.add_argument("--clips", type=int, default=10, help="how many (default 10)")
  soundscapes.add_argument("--seed", type=int, default=0)

  mixtures = verb("mixtures", _mixtures, "mix recordings of one sound each to scenes of several")
  mixtures.add_argument("--audio", required=True, help="folder of recordings")
  mixtures.add_argument("--labels", required=True, help="CSV: filename,fold,positive_labels")
  mixtures.add_argument("--vocabulary", required=True, help="CSV: index,mid,display_name")
  mixtures.add_argument("--counts", required=True, help=".npz: how often labels occur together")
  mixtures.add_argument("--set", choices=("balanced", "unbalanced", "full"), help="which counts")
  mixtures.add_argument("--out", required=True, help="folder to write")
  mixtures.add_argument("--clips", type=int, default=2000, help="how many (default 2000)")
  mixtures.add_argument("--rate", type=int, default=32000, help="in Hz (default 32000)")
  mixtures.add_argument("--seed", type=int, default=0)

  graph = verb("graph", _graph, "write the label graph of counts or of a segment list")
  source = graph.add_mutually_exclusive_group(required=True)
  source.add_argument("--counts", help=".npz with mids, occurrences_SET, cooccurrences_SET")
  source.add_argument("--segments", help="AudioSet segment list, .csv or .csv.gz")
  graph.add_argument("--set", choices=("balanced", "unbalanced", "full"), help="which counts")
  graph.add_argument("--vocabulary", required=True, help="CSV: index,mid,display_name")
  graph.add_argument("--method", default="paper", help="see propagation_matrix (default paper)")
  graph.add_argument("--threshold", type=float, default=0.3)
  graph.add_argument("--neighbour-weight", type=float, default=0.2)
  graph.add_argument("--ontology", default="", help="ontology.json, for the method ontology")
  graph.add_argument("--out", required=True, help="the .npz to write")
  graph.add_argument("--label", help="name or id: also print its row under two methods")
  graph.add_argument("--against", help="the second method (default: author, for author paper)")
  graph.add_argument("--plot", help="picture to write: .png, .svg or .pdf")

  card = verb("data-card", _data_card, "what is in a clip store, as an evaluation must state it")
  card.add_argument("store", metavar="STORE", help="clip store, .h5")
  card.add_argument(
    "--segments", nargs="+", default=[], metavar="LIST", help="AudioSet segment lists to compare"
  )
  card.add_argument("--vocabulary", help="labels of the lists (default: the store's)")
  card.add_argument("--ratings", help="CSV: label_id,num_rated,num_true")
  card.add_argument("--out", default=".", help="folder of the .md and .json (default: this one)")

  metadata = verb("metadata", _metadata, "fetch AudioSet's class list, segment lists and ontology")
  metadata.add_argument("--out", required=True, help="folder to write")
  metadata.add_argument("--mirror", help="web address of a folder that has the files")


def _prepare(options) -> int:
  from atgcn_jax.data.prepare import prepare
  from atgcn_jax.data.store.unfinished import report_path

  if options.workers is not None and options.workers < 1:
    raise UserError(f"--workers {options.workers}: take at least one process")
  built = prepare(
    options.audio,
    options.labels,
    options.out,
    layout=options.layout,
    vocabulary=options.vocabulary,
    ontology=options.ontology,
    fold=options.fold,
    esc10=options.esc10,
    normaliser=options.normaliser,
    used_labels_only=options.used_labels_only,
    frontend_name=options.frontend,
    dtype=options.dtype,
    workers=options.workers,
    segment=options.segment,
    strict=options.strict,
  )
  print(f"{options.out}: {built.clips} clips")
  if built.absent or built.unreadable:
    lacking = ((built.absent, "not there"), (built.unreadable, "cannot be read"))
    told = ", ".join(f"{count} {what}" for count, what in lacking if count)
    print(f"atgcn prepare: {told}; see {report_path(options.out)}", file=sys.stderr)
  return 1 if built.unreadable else 0


def _soundscapes(options) -> None:
  from atgcn_jax.data.synthetic.soundscapes import write_soundscapes

  if options.clips < 1:
    raise UserError(f"--clips {options.clips}: ask for at least one")
  write_soundscapes(options.out, options.clips, options.seed)
  print(f"{options.out}: {options.clips} soundscapes, labels.csv, vocabulary.csv, ontology.json")


def _mixtures(options) -> None:
  from atgcn_jax.data.synthetic.mixtures import write_mixtures

  if options.clips < 1 or options.rate < 1000:
    raise UserError("--clips and --rate: ask for at least one clip, at 1000 Hz or more")
  write_mixtures(
    options.audio,
    options.labels,
    options.vocabulary,
    options.counts,
    options.out,
    counts_set=options.set,
    clips=options.clips,
    seed=options.seed,
    rate=options.rate,
  )
  print(f"{options.out}: {options.clips} mixtures, labels.csv, vocabulary.csv, events.csv")


def _graph(options) -> None:
  from atgcn_jax.labels.summary import find_label
  from atgcn_jax.labels.vocabulary import read_vocabulary
  from atgcn_jax.reports import label_graph_file

  if options.plot and not options.plot.endswith((".png", ".svg", ".pdf")):
    raise UserError(f"--plot {options.plot}: not a picture; end it in .png, .svg or .pdf")
  label = None
  if options.label:
    label = find_label(read_vocabulary(options.vocabulary), options.label)
  made = functools.partial(
    label_graph_file.make_graph,
    vocabulary=options.vocabulary,
    counts=options.counts,
    counts_set=options.set,
    segments=options.segments,
    threshold=options.threshold,
    neighbour_weight=options.neighbour_weight,
    ontology=options.ontology,
  )
  found = made(method=options.method)
  other = None
  if label is not None:
    against = options.against or ("paper" if options.method == "author" else "author")
    other = made(method=against)
  label_graph_file.write_graph(options.out, found, options.threshold, options.neighbour_weight)
  print(f"{options.out}: {label_graph_file.graph_text(found)}")
  if label is not None and other is not None:
    print(label_graph_file.side_by_side(found, other, label))
  if options.plot:
    label_graph_file.plot(found, label, options.ontology, options.plot)
    print(options.plot)


def _data_card(options) -> None:
  from atgcn_jax.reports.data_card import data_card
  from atgcn_jax.reports.data_card_files import write_data_card

  if os.path.exists(options.out) and not os.path.isdir(options.out):
    raise UserError(f"--out {options.out}: not a folder; name another")
  card = data_card(
    options.store,
    segments=options.segments,
    vocabulary=options.vocabulary,
    ratings=options.ratings,
  )
  print("\n".join(write_data_card(options.out, card)))


def _metadata(options) -> int:
  from atgcn_jax.data.audioset_files import fetch_metadata

  failed = 0
  for file in fetch_metadata(options.out, options.mirror):
    if file.failure:
      failed = 1
      print(f"atgcn metadata: {file.failure}", file=sys.stderr)
    else:
      what = "fetched" if file.new else "already there"
      print(f"{file.path}: {what}, {file.size} bytes, SHA-256 {file.sha256}", flush=True)
  return failed
