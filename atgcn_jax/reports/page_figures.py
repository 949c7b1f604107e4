"""The figures of a run's page, each an `<svg>` element to be set into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from atgcn_jax.labels.sparse import Matrix, edges_of
from atgcn_jax.reports.figure_style import (
  BLUE,
  FEW,
  ORANGE,
  arrows,
  dots,
  drawing,
  embedded,
  map_axes,
  short,
  spring_layout,
  svg,
  write_names,
)

ENDS = 20  # of more labels than FEW, so many of the best and of the worst have a bar
EDGES = 150
POINTS = 400  # of a curve
MAPPED = 5000  # labels; t-SNE takes a minute for so many


def learning_curves(records: Sequence[dict[str, Any]]) -> str:
  """Training loss and validation mAP over steps, side by side.

  Args:
    records: What a run has logged; those without a finite `loss` or `mAP` are passed over.
  """
  with drawing():
    figure = Figure((12.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, loss = series(records, "loss")
    _curve(left, steps, loss, BLUE, "Training loss")
    if len(loss) and loss.min() > 0 and loss.max() > 10 * loss.min():
      left.set_yscale("log")
      left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
      left.yaxis.set_minor_locator(NullLocator())
      left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    steps, precision = series(records, "mAP")
    _curve(right, steps, precision, ORANGE, "Validation mAP")
    if len(precision):
      best = int(np.argmax(precision))
      right.plot(steps[best], precision[best], "o", color=ORANGE, markersize=8)
      right.set_title(f"Validation mAP, best {precision[best]:.3f} at step {steps[best]:,}")
    alt = "Two curves over training steps: the training loss and the validation mAP"
    return svg(figure, "curves", alt)


def series(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps int64[N], values float64[N]) of the records that have a finite `key`, by step.

  Args:
    records: What a run has logged; of two records of one step the later counts.
    key: A name such as `loss`.
  """
  found = {
    int(record["step"]): float(record[key])
    for record in records
    if "step" in record and isinstance(record.get(key), int | float) and np.isfinite(record[key])
  }
  steps = sorted(found)
  return np.array(steps, np.int64), np.array([found[step] for step in steps], np.float64)


def class_bars(names: Sequence[str], average_precision: np.ndarray) -> str:
  """Bars of average precision from best to worst; of many labels, only both ends.

  Args:
    names: The K labels.
    average_precision: float[K]; labels with NaN have no bar, at least one label must have one.
  """
  ranked = np.argsort(-average_precision, kind="stable")
  ranked = ranked[: int(np.isfinite(average_precision).sum())]
  parts = {f"{len(ranked)} labels": ranked}
  if len(ranked) > FEW:
    parts = {f"The {ENDS} best": ranked[:ENDS], f"The {ENDS} worst": ranked[-ENDS:]}
  mean = average_precision[ranked].mean()
  with drawing():
    rows = max(map(len, parts.values()))
    figure = Figure((12.5, 0.9 + 0.235 * rows), layout="constrained")
    for axes, (title, labels) in zip(
      figure.subplots(1, len(parts), squeeze=False)[0], parts.items()
    ):
      bars = axes.barh(np.arange(len(labels)), average_precision[labels], 0.7, color=BLUE)
      axes.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=10)
      axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1, zorder=0.5)
      axes.yaxis.set_major_locator(FixedLocator(list(range(len(labels)))))
      axes.set_yticklabels([short(names[k]) for k in labels], parse_math=False)
      axes.tick_params("y", length=0)
      axes.set(xlim=(0, 1.06), ylim=(rows - 0.4, -0.6), title=title)
      axes.set_xlabel(f"average precision (dashed: mean, {mean:.3f})")
    alt = "Bars of the average precision of labels, best first; the table below holds all values"
    return svg(figure, "bars", alt)


def strongest_edges(propagation: Matrix, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(receivers int[N], senders int[N], weights[N]) of the heaviest edges between two labels.

  Args:
    propagation: float[K, K]; row i holds the weights with which label i receives from the others.
    count: The most edges wanted; of equal weights, the first in the order of the labels come first.
  """
  receivers, senders, weights = edges_of(propagation)
  order = np.argsort(-weights, kind="stable")[:count]
  return receivers[order], senders[order], weights[order]


def label_graph_figure(
  names: Sequence[str], propagation: Matrix, average_precision: np.ndarray, seed: int
) -> str:
  """The heaviest edges of the label graph as arrows from sender to receiver.

  Args:
    names: The K labels; those that no drawn edge touches are left out.
    propagation: float[K, K] with at least one weight off the diagonal.
    average_precision: float[K], the colours.
    seed: Of the places where the labels start.
  """
  receivers, senders, weights = strongest_edges(propagation, EDGES)
  nodes, ends = np.unique(np.concatenate([receivers, senders]), return_inverse=True)
  receivers, senders = ends.reshape(2, -1)
  places = spring_layout(len(nodes), receivers, senders, seed)
  widths = 0.4 + (2.4 if len(weights) <= FEW else 1.6) * weights / weights.max()
  with drawing():
    figure, axes = map_axes(9.5 if len(nodes) > 20 else 6.5)
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.05, 1.05))
    arrows(axes, places, receivers, senders, widths)
    dots(figure, axes, places, average_precision[nodes])
    degrees = np.bincount(ends, minlength=len(nodes))
    write_names(axes, places, [names[k] for k in nodes], np.argsort(-degrees, kind="stable"))
    alt = f"Node-link picture of the {len(weights)} heaviest edges between {len(nodes)} labels"
    return svg(figure, "graph", alt, [names[k] for k in nodes])


def label_map(
  names: Sequence[str],
  vectors: np.ndarray,
  positives: np.ndarray,
  average_precision: np.ndarray,
  seed: int,
) -> str:
  """The label vectors in the plane, by t-SNE.

  Args:
    names: The K labels.
    vectors: float[K, C], finite, at least three of them distinct.
    positives: int[K], clips per label; of many labels the most frequent are named.
    average_precision: float[K], the colours.
    seed: Of t-SNE.

  Source:
    scikit-learn's TSNE.
  """
  places = embedded(vectors, seed)
  with drawing():
    figure, axes = map_axes(9.5 if len(names) > 20 else 6.5)
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")
    dots(figure, axes, places, average_precision)
    axes.apply_aspect()
    write_names(axes, places, names, np.argsort(-positives, kind="stable"))
    alt = f"Map of the vectors of {len(names)} labels: labels with similar vectors lie close"
    return svg(figure, "map", alt, names)


def _curve(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, title: str) -> None:
  axes.set(title=title, xlabel="step")
  if not len(steps):
    axes.text(0.5, 0.5, "no records", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    return
  parts = min(len(steps), POINTS)
  steps, values = (
    np.array([part.mean() for part in np.array_split(array, parts)]) for array in (steps, values)
  )
  axes.plot(steps, values, ".-" if parts <= 100 else "-", color=color, linewidth=1.5)
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
  axes.grid(color="#E5E5E5")
