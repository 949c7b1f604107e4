"""Verbs for clips and labels: prepare, soundscapes, mixtures, graph, data-card, metadata."""

from __future__ import annotations

import functools
import sys

from atgcn_jax.cli.arguments import AddVerb
from atgcn_jax.cli.prepare import add_prepare
from atgcn_jax.errors import UserError

LOWEST_HZ, HIGHEST_HZ = 1000, 192_000  # sample rates of mixtures
SETS = ("balanced", "unbalanced", "full")
COUNTS_HELP = ".npz of label counts with the arrays mids, occurrences_SET and cooccurrences_SET"
SET_HELP = "set of counts to read from --counts (default: the arrays without a suffix)"


def add_data_verbs(verb: AddVerb) -> None:
  """Add the verbs to the parser."""
  add_prepare(verb)
  _add_soundscapes(verb)
  _add_mixtures(verb)
  _add_graph(verb)
  _add_data_card(verb)
  _add_metadata(verb)


def _add_soundscapes(verb: AddVerb) -> None:
  soundscapes = verb("soundscapes", _soundscapes, "write the built-in soundscapes as sound files")
  soundscapes.add_argument("--out", metavar="DIR", required=True, help="output folder")
  soundscapes.add_argument(
    "--clips", metavar="N", type=int, default=10, help="number of soundscapes (default: 10)"
  )
  soundscapes.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")


def _add_mixtures(verb: AddVerb) -> None:
  mixtures = verb(
    "mixtures", _mixtures, "mix recordings of single sounds into scenes of several sounds"
  )
  mixtures.add_argument("--audio", metavar="DIR", required=True, help="folder of recordings")
  mixtures.add_argument(
    "--labels",
    metavar="FILE",
    required=True,
    help="CSV with columns filename, fold, positive_labels",
  )
  mixtures.add_argument(
    "--vocabulary",
    metavar="FILE",
    required=True,
    help="CSV with columns index, mid, display_name, or audioset",
  )
  mixtures.add_argument("--counts", metavar="FILE", required=True, help=COUNTS_HELP)
  mixtures.add_argument("--set", choices=SETS, help=SET_HELP)
  mixtures.add_argument("--out", metavar="DIR", required=True, help="output folder")
  mixtures.add_argument(
    "--clips", metavar="N", type=int, default=2000, help="number of mixtures (default: 2000)"
  )
  mixtures.add_argument(
    "--rate",
    metavar="HZ",
    type=int,
    default=32000,
    help="sample rate of the mixtures in Hz (default: 32000)",
  )
  mixtures.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")


def _add_graph(verb: AddVerb) -> None:
  graph = verb("graph", _graph, "write the label graph of label counts or of segment lists")
  source = graph.add_mutually_exclusive_group(required=True)
  source.add_argument("--counts", metavar="FILE", help=COUNTS_HELP)
  source.add_argument(
    "--segments",
    metavar="FILE",
    nargs="+",
    help="AudioSet segment lists of different clips, .csv or .csv.gz",
  )
  graph.add_argument("--set", choices=SETS, help=SET_HELP)
  graph.add_argument(
    "--vocabulary",
    metavar="FILE",
    required=True,
    help="CSV with columns index, mid, display_name, or audioset",
  )
  graph.add_argument(
    "--method",
    default="paper",
    help="how the graph is built from the counts: identity, none, threshold, reweight, paper, "
    "binary, ontology or author (default: paper)",
  )
  graph.add_argument(
    "--threshold", type=float, default=0.3, help="threshold τ of Eq. 6, 0 to 1 (default: 0.3)"
  )
  graph.add_argument(
    "--neighbour-weight",
    type=float,
    default=0.2,
    help="total weight p of the neighbours in Eq. 7, 0 to 1 (default: 0.2)",
  )
  graph.add_argument(
    "--ontology",
    metavar="FILE",
    default="",
    help="AudioSet's ontology.json; required by the method ontology, and sorts the labels in "
    "--plot by category",
  )
  graph.add_argument("--out", metavar="FILE", required=True, help="graph to write, .npz")
  graph.add_argument(
    "--counts-out",
    metavar="FILE",
    help="counts to write, .npz; with them as graph.source, runs make the graph by graph.method",
  )
  graph.add_argument("--label", help="name or id of a label whose row is printed under two methods")
  graph.add_argument(
    "--against",
    metavar="METHOD",
    help="second method for --label (default: author, or paper if --method is author)",
  )
  graph.add_argument("--plot", metavar="FILE", help="plot to write, .png, .svg or .pdf")


def _add_data_card(verb: AddVerb) -> None:
  card = verb(
    "data-card", _data_card, "describe the contents of a clip store, for the report of a result"
  )
  card.add_argument("store", metavar="STORE", help="clip store, .h5")
  card.add_argument(
    "--segments",
    nargs="+",
    default=[],
    metavar="LIST",
    help="AudioSet segment lists to compare the store with",
  )
  card.add_argument(
    "--vocabulary",
    metavar="FILE",
    help="vocabulary CSV of the segment lists (default: the labels of the store)",
  )
  card.add_argument(
    "--ratings",
    metavar="FILE",
    help="CSV of label quality with columns label_id, num_rated, num_true",
  )
  card.add_argument(
    "--out",
    metavar="DIR",
    default=".",
    help="folder of the .md and .json files (default: the current folder)",
  )


def _add_metadata(verb: AddVerb) -> None:
  metadata = verb(
    "metadata", _metadata, "download AudioSet's class list, segment lists, ratings and ontology"
  )
  metadata.add_argument(
    "--features",
    action="store_true",
    help="also download the VGGish features of all clips, features.tar.gz (2.4 GB)",
  )
  metadata.add_argument("--out", metavar="DIR", required=True, help="output folder")
  metadata.add_argument(
    "--mirror",
    metavar="URL",
    help="address of a folder that has all files (default: the addresses of AudioSet)",
  )


def _check_synthesis(options) -> None:
  """Refuse a number of clips or a seed that is out of range."""
  if options.clips < 1:
    raise UserError(f"--clips {options.clips}: must be at least 1")
  if options.seed < 0:
    raise UserError(f"--seed {options.seed}: must be at least 0")


def _soundscapes(options) -> None:
  from atgcn_jax.data.synthetic.soundscapes import write_soundscapes

  _check_synthesis(options)
  write_soundscapes(options.out, options.clips, options.seed)
  print(f"{options.out}: {options.clips} soundscapes, labels.csv, vocabulary.csv, ontology.json")


def _mixtures(options) -> None:
  from atgcn_jax.data.synthetic.mixtures import write_mixtures

  _check_synthesis(options)
  if not LOWEST_HZ <= options.rate <= HIGHEST_HZ:
    raise UserError(f"--rate {options.rate}: must be {LOWEST_HZ} to {HIGHEST_HZ} Hz")
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

  if options.set and options.segments:
    raise UserError("--set: only valid with --counts; leave it out with --segments")
  if options.against and not options.label:
    raise UserError("--against: only valid with --label; add it or leave this out")
  label = None
  if options.label:
    label = find_label(read_vocabulary(options.vocabulary), options.label)
  graph_by = functools.partial(
    label_graph_file.make_graph,
    vocabulary=options.vocabulary,
    counts=options.counts,
    counts_set=options.set,
    segments=options.segments,
    threshold=options.threshold,
    neighbour_weight=options.neighbour_weight,
    ontology=options.ontology,
  )
  graph = graph_by(method=options.method)
  other = None
  if label is not None:
    against = options.against or ("paper" if options.method == "author" else "author")
    other = graph_by(method=against)
  label_graph_file.write_graph(options.out, graph, options.threshold, options.neighbour_weight)
  print(f"{options.out}: {label_graph_file.graph_text(graph)}")
  if options.counts_out:
    label_graph_file.write_counts(options.counts_out, graph)
    print(options.counts_out)
  if label is not None and other is not None:
    print(label_graph_file.side_by_side(graph, other, label))
  if options.plot:
    label_graph_file.plot(graph, label, options.ontology, options.plot)
    print(options.plot)


def _data_card(options) -> None:
  from atgcn_jax.reports.data_card import data_card
  from atgcn_jax.reports.data_card_files import write_data_card

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
  for file in fetch_metadata(options.out, options.mirror, features=options.features):
    if file.failure:
      failed = 1
      print(f"atgcn metadata: {file.failure}", file=sys.stderr)
    else:
      state = "downloaded" if file.new else "already present"
      print(f"{file.path}: {state}, {file.size} bytes, SHA-256 {file.sha256}", flush=True)
  return failed
