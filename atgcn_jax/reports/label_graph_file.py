"""The label graph as a file of its own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import textwrap
import warnings
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import Counts, count_labels, left_out, load_counts, read_segments
from atgcn_jax.labels.ontology import read_ontology, top_categories
from atgcn_jax.labels.sparse import Matrix, pack_matrices
from atgcn_jax.labels.summary import Summary, graph_row, summary_of
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary
from atgcn_jax.runs.label_graph import propagation_of

LISTED = 12  # names in a line
PAIRS = 10


class LabelGraph(NamedTuple):
  """A graph that was made, what it was made of, and its summary."""

  vocabulary: Vocabulary
  counts: Counts
  method: str
  propagation: Matrix
  summary: Summary


def make_graph(
  *,
  vocabulary: str | os.PathLike,
  counts: str | os.PathLike | None,
  counts_set: str | None,
  segments: str | os.PathLike | None,
  method: str,
  threshold: float,
  neighbour_weight: float,
  ontology: str,
) -> LabelGraph:
  """The graph of some counts or of a segment list.

  Raises:
    UserError: For files or settings that cannot be used.
  """
  labels = read_vocabulary(vocabulary)
  if counts is not None:
    counted = load_counts(counts, labels, counts_set)
  elif segments is not None:
    listed = read_segments(segments, labels)
    if text := left_out(segments, listed):
      warnings.warn(text, UserWarning, stacklevel=2)
    counted = count_labels(listed.offsets, listed.label_indices, len(labels))
  else:
    raise ValueError("one of counts and segments is needed")
  propagation = propagation_of(
    counted,
    labels,
    method=method,
    threshold=threshold,
    neighbour_weight=neighbour_weight,
    ontology=ontology,
  )
  return LabelGraph(labels, counted, method, propagation, summary_of(propagation))


def write_graph(
  out: str | os.PathLike, graph: LabelGraph, threshold: float, neighbour_weight: float
) -> None:
  """Write a graph as a file that a config's `graph.source` takes.

  The .npz has `propagation` float32[K, K], `mids`, `occurrences`, `cooccurrences`, `method`,
  `threshold`, `neighbour_weight`; for a large vocabulary the matrices are sparse
  (`labels.sparse.packed`).

  Raises:
    UserError: If it cannot be written.
  """
  matrices: dict[str, Any] = pack_matrices(
    {"propagation": graph.propagation, "cooccurrences": graph.counts.cooccurrences}
  )
  out = pathlib.Path(out)
  temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp.npz")
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
      temporary,
      **matrices,
      mids=np.array(graph.vocabulary.ids),
      occurrences=graph.counts.occurrences,
      method=np.array(graph.method),
      threshold=np.array(threshold),
      neighbour_weight=np.array(neighbour_weight),
    )
    os.replace(temporary, out)
  except OSError as error:
    raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another") from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def plot(graph: LabelGraph, label: int | None, ontology: str, path: str | os.PathLike) -> None:
  """Draw the heat map and the neighbourhood of a label, by default the one with most neighbours.

  Args:
    ontology: By whose top categories the heat map is ordered; empty for none.

  Raises:
    UserError: For an ontology that cannot be used, or a picture that cannot be written.
  """
  from atgcn_jax.reports.label_graph_plots import draw_graph

  categories = None
  if ontology:
    tree = read_ontology(ontology)
    categories = [tree.names[tops[0]] for tops in top_categories(tree, graph.vocabulary.ids)]
  if label is None:
    label = int(np.argmax(graph.summary.in_degree + graph.summary.out_degree))
  names = graph.vocabulary.names
  try:
    draw_graph(graph.propagation, names, graph.summary, label, path, categories)
  except OSError as error:
    raise UserError(f"--plot {path}: cannot be written ({error.strerror}); name another") from error


def graph_text(graph: LabelGraph) -> str:
  """Nodes, edges, labels that stand alone, degrees and the heaviest edges, as lines of text."""
  names, summary = graph.vocabulary.names, graph.summary
  lines = [
    f"{len(names)} labels, {len(summary.weights)} edges, "
    f"{len(summary.isolated)} labels without a neighbour"
  ]
  if len(summary.isolated):
    shown = [_short(names[k]) for k in summary.isolated[:LISTED]]
    rest = len(summary.isolated) - len(shown)
    text = f"  {', '.join(shown)}" + (f" and {rest} more" if rest else "")
    lines.append(textwrap.fill(text, 98, subsequent_indent="  "))
  for title, degrees in (
    ("in-degree, from how many others a label gathers", summary.in_degree),
    ("out-degree, by how many others it is gathered", summary.out_degree),
  ):
    top = np.argsort(-degrees, kind="stable")[:5]
    lines.append(f"{title}: median {np.median(degrees):g}, most")
    lines.append("  " + ", ".join(f"{_short(names[k])} {degrees[k]}" for k in top))
  if len(summary.weights):
    lines.append("strongest pairs: weight, and P(second | first) of the counts (Eq. 5)")
  for i, j, weight in list(zip(summary.receivers, summary.senders, summary.weights))[:PAIRS]:
    occurs = graph.counts.occurrences[i]
    share = f"{graph.counts.cooccurrences[i, j] / occurs:.3f}" if occurs else "-"
    lines.append(f"  {_short(names[i]):32} <- {_short(names[j]):32} {weight:.4f}  {share}")
  return "\n".join(lines)


def side_by_side(graph: LabelGraph, other: LabelGraph, label: int) -> str:
  """The rows of a label under two methods, as lines of text, the heavier weights first."""
  rows = np.stack([graph_row(g.propagation, label) for g in (graph, other)], 1)
  names = graph.vocabulary.names
  linked = [k for k in np.argsort(-rows.sum(axis=1), kind="stable") if rows[k].any() and k != label]
  lines = [f"{_short(names[label])} gathers with {graph.method:>17} {other.method:>10}"]
  for k in [label, *linked]:
    name = "itself" if k == label else _short(names[k])
    lines.append(f"  {name:32} {rows[k, 0]:10.4f} {rows[k, 1]:10.4f}")
  return "\n".join(lines)


def _short(name: str) -> str:
  return textwrap.shorten(name, 32, placeholder="…")
