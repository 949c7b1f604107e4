"""The sections of a report page on labels: their metrics, the label graph and the label vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atgcn_jax.labels.sparse import Matrix, edges_of
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.reports import page_figures
from atgcn_jax.reports.page_html import (
  figure_html,
  note_html,
  scrolled_html,
  table_html,
  value_text,
)
from atgcn_jax.reports.recall_figure import CURVES, precision_recall_figure

TABLE_EDGES = 20
NEAREST = 3  # neighbours per label in the table of labels


def labels_html(
  vocabulary: Vocabulary,
  positives: np.ndarray,
  average_precision: np.ndarray,
  auc: np.ndarray,
  clips: int,
  propagation: Matrix | None,
) -> str:
  """Return the bars, then the table of all labels with the best first and the undefined last."""
  defined = np.isfinite(average_precision)
  parts = []
  if defined.any():
    parts.append(figure_html(page_figures.class_bars(vocabulary.names, average_precision)))
    chance = chance_map(positives, average_precision, clips)
    parts.append(
      note_html(f"Random scores have an mAP of about {chance:.4f}, the share of positives.")
    )
  if not defined.all():
    parts.append(
      note_html(
        f"AP and AUC are undefined for {int((~defined).sum())} of {len(defined)} labels, because "
        "they require clips with the label and clips without it. The means exclude these labels."
      )
    )
  head = ["Label", "Id", "Clips", "AP", "AUC"]
  near = _neighbours(vocabulary.names, propagation, average_precision)
  if near:
    head.append("Neighbours in the graph, with their AP")
  rows = [
    (
      *(vocabulary.names[k], vocabulary.ids[k], f"{int(positives[k])}"),
      *(value_text(float(average_precision[k])), value_text(float(auc[k]))),
      *([near[k]] if near else []),
    )
    for k in np.argsort(-average_precision, kind="stable")
  ]
  rows_html = table_html(head, rows, numbers=(2, 3, 4), ranked=3)
  return "\n".join([*parts, scrolled_html(rows_html)])


def chance_map(positives: np.ndarray, average_precision: np.ndarray, clips: int) -> float:
  """Return the mAP of random scores, the mean share of positives of the labels with an AP."""
  return float(positives[np.isfinite(average_precision)].mean()) / clips


def precision_recall_html(
  names: Sequence[str], scores: np.ndarray, labels: np.ndarray, average_precision: np.ndarray
) -> str:
  """Return the precision-recall curves of labels with high, middle and low AP."""
  if not np.isfinite(average_precision).any():
    return note_html("No curve: no label has an AP.")
  drawn = precision_recall_figure(names, scores, labels, average_precision)
  count = CURVES
  text = (
    f"The labels with an AP, by AP: the {count} best, the {count} in the middle and the {count} "
    f"worst, or all if there are not more than {3 * count}. The dotted lines are the precision of "
    "random scores, the share of clips with the label. A curve has a step where a clip with the "
    "label is found; the area below it is the AP."
  )
  return f"{note_html(text)}\n{figure_html(drawn)}"


def _neighbours(
  names: Sequence[str], propagation: Matrix | None, average_precision: np.ndarray
) -> list[str]:
  """Return the labels that each label receives most from, with their AP; empty without a graph."""
  if propagation is None:
    return []
  senders: list[list[tuple[float, int]]] = [[] for _ in names]
  for receiver, sender, weight in zip(*edges_of(propagation)):
    senders[receiver].append((-weight, sender))
  return [
    ", ".join(
      f"{names[j]} {value_text(float(average_precision[j]))}" for _, j in sorted(near)[:NEAREST]
    )
    for near in senders
  ]


def graph_html(
  names: Sequence[str], propagation: Matrix | None, average_precision: np.ndarray, seed: int
) -> str:
  """Return the figure of the label graph, and the table of its largest weights."""
  if propagation is None:
    return note_html("This system has no label graph.")
  receivers = edges_of(propagation)[0]
  edges, isolated = len(receivers), len(names) - len(np.unique(receivers))
  count = f"edges: {edges}; labels: {len(names)}; labels without a neighbour: {isolated}."
  if not edges:
    return note_html(
      f"Label graph: {count} Without edges, the graph has no effect on the scores. The usual "
      "reason is that no two labels occur together in the training clips."
    )
  shown = "all edges"
  if edges > page_figures.EDGES:
    shown = f"the {page_figures.EDGES} edges with the largest weights"
  text = (
    f"Label graph: {count} The figure shows {shown}. Each arrow points from the sending label to "
    "the receiving label; its width grows with the weight. The colour of a label is its AP; white "
    "means undefined. Point at a label to see its name."
  )
  rows = [
    (names[sender], names[receiver], f"{weight:.4f}")
    for receiver, sender, weight in zip(*page_figures.strongest_edges(propagation, TABLE_EDGES))
  ]
  rows_html = table_html(("From", "To", "Weight"), rows, numbers=(2,))
  drawn = figure_html(page_figures.label_graph_figure(names, propagation, average_precision, seed))
  return f"{note_html(text)}\n{drawn}\n<h3>Edges with the largest weights</h3>\n{rows_html}"


def map_html(
  names: Sequence[str],
  vectors: np.ndarray | None,
  positives: np.ndarray,
  average_precision: np.ndarray,
  seed: int,
) -> str:
  """Return the map of the label vectors."""
  if vectors is None:
    return note_html("This system has no label vectors.")
  if not np.isfinite(vectors).all():
    return note_html("No map: the label vectors have NaN or infinite values.")
  chosen = np.sort(np.argsort(-positives, kind="stable")[: page_figures.MAPPED])
  fewer = f" The map shows the {len(chosen)} of {len(names)} labels with the most clips."
  fewer = fewer if len(chosen) < len(names) else ""
  names, vectors = [names[k] for k in chosen], vectors[chosen]
  positives, average_precision = positives[chosen], average_precision[chosen]
  if len(np.unique(vectors, axis=0)) < 3:
    return note_html("No map: it requires at least three labels with different vectors.")
  text = (
    "Map of the label vectors by t-SNE. Labels with similar vectors are close; large distances "
    "have little meaning. The colour of a label is its AP; white means undefined. Point at a label "
    f"to see its name.{fewer}"
  )
  drawn = figure_html(page_figures.label_map(names, vectors, positives, average_precision, seed))
  return f"{note_html(text)}\n{drawn}"
