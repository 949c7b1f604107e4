"""The figures of the report page, each as an `<svg>` element for HTML."""

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

ENDS = 20  # number of best and of worst labels with a bar, if there are more than FEW labels
EDGES = 150  # maximum number of edges in the label graph
POINTS = 400  # maximum number of points in a curve
SMOOTHED = 20  # a smoothed curve averages this fraction (1 / SMOOTHED) of all records
MAPPED = 5000  # maximum number of labels in the map; t-SNE takes a minute for this number


def learning_curves(records: Sequence[dict[str, Any]]) -> str:
  """Return a figure of training loss and validation mAP over steps, side by side.

  Args:
    records: The records in the log of a run. Records without a finite `loss` or `mAP` are ignored.
  """
  with drawing():
    figure = Figure((12.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, loss = series(records, "loss")
    smooth = smoothed(loss)
    _curve(left, steps, loss, BLUE, "Training loss", faint=smooth is not None)
    if smooth is not None:
      left.plot(*_binned(steps, smooth), "-", color=BLUE, linewidth=2)
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
    alt = "Two curves over training steps: training loss and validation mAP"
    return svg(figure, "curves", alt)


def series(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
  """Return the series of one key, sorted by step.

  Args:
    records: The records in the log of a run. If a step has several records, the last one counts.
    key: The key, such as `loss`.

  Returns:
    Steps int64[N] and values float64[N] of the records with a finite value.
  """
  found = {
    int(record["step"]): float(record[key])
    for record in records
    if "step" in record and isinstance(record.get(key), int | float) and np.isfinite(record[key])
  }
  steps = sorted(found)
  return np.array(steps, np.int64), np.array([found[step] for step in steps], np.float64)


def smoothed(values: np.ndarray) -> np.ndarray | None:
  """Return the running mean over a twentieth of the values, or None if these are fewer than 3.

  At both ends the mean is over the part of the window that is inside.
  """
  window = len(values) // SMOOTHED | 1  # odd, so that it is centred
  if window < 3:
    return None
  weights = np.ones(window)
  counts = np.convolve(np.ones_like(values), weights, "same")
  return np.convolve(values, weights, "same") / counts


def class_bars(names: Sequence[str], average_precision: np.ndarray) -> str:
  """Return a figure of bars of average precision, from best to worst.

  If there are more than FEW labels, only the ENDS best and the ENDS worst labels are shown.

  Args:
    names: The names of the K labels.
    average_precision: float[K]. Labels with NaN have no bar. At least one value must be finite.
  """
  ranked = np.argsort(-average_precision, kind="stable")
  ranked = ranked[: int(np.isfinite(average_precision).sum())]
  parts = {f"{len(ranked)} labels": ranked}
  if len(ranked) > FEW:
    parts = {f"{ENDS} best labels": ranked[:ENDS], f"{ENDS} worst labels": ranked[-ENDS:]}
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
    alt = "Bars of average precision per label, best first; the table below has all values"
    return svg(figure, "bars", alt)


def strongest_edges(propagation: Matrix, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the edges between two labels with the largest weights.

  Args:
    propagation: float[K, K]. Row i has the weights with which label i receives from the others.
    count: The maximum number of edges. Edges with equal weights are in the order of the labels.

  Returns:
    Receivers int[N], senders int[N] and weights [N], largest weights first.
  """
  receivers, senders, weights = edges_of(propagation)
  order = np.argsort(-weights, kind="stable")[:count]
  return receivers[order], senders[order], weights[order]


def label_graph_figure(
  names: Sequence[str], propagation: Matrix, average_precision: np.ndarray, seed: int
) -> str:
  """Return a figure of the heaviest edges of the label graph, as arrows from sender to receiver.

  Args:
    names: The names of the K labels. Labels without a drawn edge are omitted.
    propagation: float[K, K] with at least one weight off the diagonal.
    average_precision: float[K], shown as colours.
    seed: The seed of the initial positions of the labels.
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
    alt = f"Node-link diagram of the {len(weights)} heaviest edges between {len(nodes)} labels"
    return svg(figure, "graph", alt, [names[k] for k in nodes])


def label_map(
  names: Sequence[str],
  vectors: np.ndarray,
  positives: np.ndarray,
  average_precision: np.ndarray,
  seed: int,
) -> str:
  """Return a figure of the label vectors in the plane, by t-SNE.

  Args:
    names: The names of the K labels.
    vectors: float[K, C], finite, with at least three distinct rows.
    positives: int[K], the number of clips per label. If there are many labels, the most frequent
      ones are named.
    average_precision: float[K], shown as colours.
    seed: The seed of t-SNE.

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
    alt = f"Map of the vectors of {len(names)} labels, in which similar vectors are close"
    return svg(figure, "map", alt, names)


def _binned(*arrays: np.ndarray) -> list[np.ndarray]:
  """Return the arrays with at most POINTS values, each the mean of consecutive ones."""
  parts = min(len(arrays[0]), POINTS)
  return [np.array([part.mean() for part in np.array_split(one, parts)]) for one in arrays]


def _curve(
  axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, title: str, faint: bool = False
) -> None:
  axes.set(title=title, xlabel="step")
  if not len(steps):
    axes.text(0.5, 0.5, "no records", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    return
  steps, values = _binned(steps, values)
  style, alpha = (".-" if len(steps) <= 100 else "-"), (0.35 if faint else 1.0)
  axes.plot(steps, values, style, color=color, linewidth=1 if faint else 1.5, alpha=alpha)
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
  axes.grid(color="#E5E5E5")
