"""Label graphs as files, with a summary and plots."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.labels.counts import Counts, count_labels, left_out, load_counts, read_segments
from atgcn_jax.labels.ontology import read_ontology, top_categories
from atgcn_jax.labels.sparse import Matrix, pack_matrices
from atgcn_jax.labels.summary import Summary, graph_row, summary_of
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary
from atgcn_jax.runs.label_graph import propagation_of
from atgcn_jax.runtime.whole_files import write_output

LISTED = 12  # maximum number of listed labels without a neighbour
PAIRS = 10  # maximum number of listed pairs


class LabelGraph(NamedTuple):
  """A graph, its labels, counts and method, and its summary."""

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
  segments: Sequence[str | os.PathLike] | None,
  method: str,
  threshold: float,
  neighbour_weight: float,
  ontology: str,
) -> LabelGraph:
  """Return the graph of a file of counts or of segment lists, which must be of different clips.

  Raises:
    UserError: If a file or setting cannot be used.
  """
  labels = read_vocabulary(vocabulary)
  if counts is not None:
    counted = load_counts(counts, labels, counts_set)
  elif segments:
    of_lists = [_counts_of_list(path, labels) for path in segments]
    counted = Counts(
      np.sum([counts.occurrences for counts in of_lists], axis=0),
      sum(counts.cooccurrences for counts in of_lists),
    )
  else:
    raise ValueError("one of counts and segments is required")
  propagation = propagation_of(
    counted,
    labels,
    method=method,
    threshold=threshold,
    neighbour_weight=neighbour_weight,
    ontology=ontology,
  )
  return LabelGraph(labels, counted, method, propagation, summary_of(propagation))


def _counts_of_list(path: str | os.PathLike, labels: Vocabulary) -> Counts:
  """Return the counts of a segment list. A warning reports its broken rows."""
  listed = read_segments(path, labels)
  if text := left_out(path, listed):
    warnings.warn(text, UserWarning, stacklevel=2)
  return count_labels(listed.offsets, listed.label_indices, len(labels))


def write_graph(
  out: str | os.PathLike, graph: LabelGraph, threshold: float, neighbour_weight: float
) -> None:
  """Write a graph to a file that `graph.source` in a config can name.

  The .npz file has `propagation` float32[K, K], `mids`, `occurrences`, `cooccurrences`, `method`,
  `threshold` and `neighbour_weight`. For a large vocabulary, the matrices are sparse
  (`labels.sparse.pack_matrices`).

  Raises:
    UserError: If the file cannot be written.
  """
  _write_arrays(
    "--out",
    out,
    _arrays_of_counts(graph)
    | {
      "propagation": graph.propagation,
      "method": np.array(graph.method),
      "threshold": np.array(threshold),
      "neighbour_weight": np.array(neighbour_weight),
    },
  )


def write_counts(out: str | os.PathLike, graph: LabelGraph) -> None:
  """Write the counts of a graph to a file that `graph.source` in a config can name.

  The .npz file has `mids`, `occurrences` and `cooccurrences`, from which each run makes a graph by
  its own method.

  Raises:
    UserError: If the file cannot be written.
  """
  _write_arrays("--counts-out", out, _arrays_of_counts(graph))


def _arrays_of_counts(graph: LabelGraph) -> dict[str, Any]:
  return {
    "mids": np.array(graph.vocabulary.ids),
    "occurrences": graph.counts.occurrences,
    "cooccurrences": graph.counts.cooccurrences,
  }


def _write_arrays(option: str, out: str | os.PathLike, arrays: dict[str, Any]) -> None:
  """Write arrays and sparse matrices to an .npz file that an option names."""
  content = io.BytesIO()
  np.savez_compressed(content, **pack_matrices(arrays))  # type: ignore[arg-type]
  write_output(out, content.getvalue(), option)


def plot(graph: LabelGraph, label: int | None, ontology: str, path: str | os.PathLike) -> None:
  """Plot the heat map of a graph and the neighbourhood of a label.

  Args:
    graph: The graph.
    label: The index of the label; by default the label with the most neighbours.
    ontology: The path of an ontology whose top categories order the heat map, or empty.
    path: The file to write.

  Raises:
    UserError: If the ontology cannot be used or the file cannot be written.
  """
  from atgcn_jax.reports.label_graph_plots import draw_graph

  categories = None
  if ontology:
    tree = read_ontology(ontology)
    categories = [tree.names[tops[0]] for tops in top_categories(tree, graph.vocabulary.ids)]
  if label is None:
    label = int(np.argmax(graph.summary.in_degree + graph.summary.out_degree))
  names = graph.vocabulary.names
  draw_graph(graph.propagation, names, graph.summary, label, path, categories)


def graph_text(graph: LabelGraph) -> str:
  """Return the summary of a graph as text: labels, edges, degrees and the heaviest edges."""
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
    ("in-degree (number of labels that a label gathers from)", summary.in_degree),
    ("out-degree (number of labels that gather from a label)", summary.out_degree),
  ):
    top = np.argsort(-degrees, kind="stable")[:5]
    lines.append(f"{title}: median {np.median(degrees):g}, highest:")
    lines.append("  " + ", ".join(f"{_short(names[k])} {degrees[k]}" for k in top))
  if len(summary.weights):
    lines.append("heaviest edges: weight, and P(second | first) of the counts (Eq. 5)")
  for i, j, weight in list(zip(summary.receivers, summary.senders, summary.weights))[:PAIRS]:
    occurs = graph.counts.occurrences[i]
    share = f"{graph.counts.cooccurrences[i, j] / occurs:.3f}" if occurs else "-"
    lines.append(f"  {_short(names[i]):32} <- {_short(names[j]):32} {weight:.4f}  {share}")
  return "\n".join(lines)


def side_by_side(graph: LabelGraph, other: LabelGraph, label: int) -> str:
  """Return the rows of a label under two methods as text, with the heaviest weights first."""
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
