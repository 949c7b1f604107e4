"""Plots of a label graph: the heat map of its matrix, and the neighbourhood of a label."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import scipy.cluster.hierarchy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atgcn_jax.labels.sparse import Matrix, dense, selected
from atgcn_jax.labels.summary import Summary
from atgcn_jax.reports.figure_style import (
  BLUE,
  DARK,
  FEW,
  ORANGE,
  arrows,
  drawing,
  picture,
  short,
  spring_layout,
  write_names,
)
from atgcn_jax.runtime.whole_files import write_output

MAPPED = 600  # maximum number of labels in a heat map
NEIGHBOURS = 24  # maximum number of neighbours in a plot


def draw_graph(
  propagation: Matrix,
  names: Sequence[str],
  summary: Summary,
  label: int,
  path: str | os.PathLike,
  categories: Sequence[str] | None = None,
) -> None:
  """Write both plots side by side to a file.

  Args:
    propagation: float[K, K].
    names: The names of the K labels.
    summary: The summary of the graph.
    label: The label whose neighbourhood is drawn.
    path: A .png, .svg or .pdf file.
    categories: The categories of the K labels, which order the heat map. Without categories, it is
      ordered by similarity.

  Raises:
    UserError: If the file cannot be written.
  """
  with drawing():
    figure = Figure((17, 8), layout="constrained")
    left, right = figure.subplots(1, 2)
    heat_map(left, propagation, names, summary, categories)
    neighbourhood(right, names, summary, label)
    content = picture(figure, os.fspath(path), 110)
  write_output(path, content, "--plot")


def heat_map(
  axes: Axes,
  propagation: Matrix,
  names: Sequence[str],
  summary: Summary,
  categories: Sequence[str] | None,
) -> None:
  """Draw the weights off the diagonal, with one row per label that gathers."""
  chosen = np.arange(propagation.shape[0])
  if len(chosen) > MAPPED:
    degrees = summary.in_degree + summary.out_degree
    chosen = np.sort(np.argsort(-degrees, kind="stable")[:MAPPED])
  part = selected(propagation, chosen)
  weights = dense(part).astype(np.float64)
  np.fill_diagonal(weights, 0)
  kinds = [categories[int(k)] for k in chosen] if categories else None
  order = ordered(weights, kinds)
  # The square root makes the many small weights visible.
  image = axes.imshow(
    np.sqrt(weights[np.ix_(order, order)]), cmap="magma_r", vmin=0, interpolation="nearest"
  )
  bar = axes.figure.colorbar(image, ax=axes, shrink=0.6)
  ticks = np.linspace(0, max(float(np.sqrt(weights.max())), 1e-6), 5)
  bar.set_ticks(ticks.tolist(), labels=[f"{tick**2:.2f}" for tick in ticks])
  bar.ax.set_title("weight", fontsize=11, loc="left")
  of = "labels" if len(chosen) == len(names) else f"of {len(names)} labels, with the most edges"
  axes.set(title=f"Weights with which rows gather from columns ({len(chosen)} {of})")
  if len(chosen) <= FEW:
    labels = [short(names[chosen[k]]) for k in order]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, fontsize=8, parse_math=False)
  elif kinds:
    sorted_kinds = [kinds[int(k)] for k in order]
    starts = [k for k in range(len(order)) if k == 0 or sorted_kinds[k] != sorted_kinds[k - 1]]
    axes.set_yticks(starts, [short(sorted_kinds[k]) for k in starts], fontsize=9, va="top")
    axes.set_xticks([])
    for start in starts[1:]:
      for line in (axes.axhline, axes.axvline):
        line(start - 0.5, color=DARK, linewidth=0.4)
  else:
    axes.set(xticks=[], yticks=[])


def ordered(weights: np.ndarray, categories: Sequence[str] | None) -> np.ndarray:
  """Return an order of the labels in which similar labels are adjacent, within categories if given.

  Args:
    weights: float[K, K] with a zero diagonal.
    categories: The categories of the K labels, or None.

  Source:
    Average linkage, scipy.cluster.hierarchy.
  """
  linked = (weights + weights.T)[np.triu_indices(len(weights), 1)]
  if len(weights) < 3:
    order = np.arange(len(weights))
  else:
    tree = scipy.cluster.hierarchy.linkage(1 / (1e-3 + linked), "average")
    order = scipy.cluster.hierarchy.leaves_list(tree)
  if categories is None:
    return order
  return np.array(sorted(order, key=lambda k: categories[int(k)]))  # a stable sort


def neighbourhood(axes: Axes, names: Sequence[str], summary: Summary, label: int) -> None:
  """Draw a label, the labels that it gathers from or that gather from it, and their edges."""
  touching = (summary.receivers == label) | (summary.senders == label)
  ends = np.stack([summary.receivers[touching], summary.senders[touching]], 1)
  others = list(dict.fromkeys(int(k) for k in ends.ravel() if k != label))
  nodes = np.array([label, *others[:NEIGHBOURS]])
  place_of = np.full(len(names), -1)
  place_of[nodes] = np.arange(len(nodes))
  inside = (place_of[summary.receivers] >= 0) & (place_of[summary.senders] >= 0)
  receivers, senders = place_of[summary.receivers[inside]], place_of[summary.senders[inside]]
  places = spring_layout(len(nodes), receivers, senders, seed=0)
  weights = summary.weights[inside]
  axes.set(xlim=(-0.12, 1.12), ylim=(-0.08, 1.08))
  axes.set_axis_off()
  if len(weights):
    arrows(axes, places, receivers, senders, 0.4 + 3 * weights / weights.max())
  for part, size, color, marker in (
    (places[1:], 60, BLUE, "o"),
    (places[:1], 160, ORANGE, "s"),
  ):
    x, y = part.T
    axes.scatter(x, y, size, color=color, marker=marker, edgecolors=DARK, linewidths=0.6, zorder=3)
  left_out = len(others) - len(nodes) + 1
  more = f" ({NEIGHBOURS} of {len(others)})" if left_out else ""
  axes.set_title(
    f"{short(names[label])} and its neighbours{more}; arrows point to the label that gathers"
  )
  write_names(axes, places, [names[k] for k in nodes], np.arange(len(nodes)))
