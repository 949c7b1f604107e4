"""The figures of a run's page, each an `<svg>` element to be set into HTML."""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from sklearn.manifold import TSNE

FEW = 60  # up to so many labels all are named in a figure, and all have a bar
NAMED = 40  # of more labels, so many are named
ENDS = 20  # of more labels, so many of the best and of the worst have a bar
EDGES = 150
POINTS = 400  # of a curve

BLUE, ORANGE, DARK = "#0072B2", "#D55E00", "#333333"  # told apart by the colour-blind
STYLE = {
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 12,
  "figure.dpi": 72,  # a point is a pixel
  "font.size": 11,
  "savefig.transparent": True,
  "svg.fonttype": "none",
  "svg.hashsalt": "atgcn",
}


def learning_curves(records: Sequence[dict[str, Any]]) -> str:
  """Training loss and validation mAP over steps, side by side.

  Args:
    records: What a run has logged; those without a finite `loss` or `mAP` are passed over.
  """
  with _drawing():
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
    return _svg(figure, "curves", alt)


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
  with _drawing():
    rows = max(map(len, parts.values()))
    figure = Figure((12.5, 0.9 + 0.235 * rows), layout="constrained")
    for axes, (title, labels) in zip(
      figure.subplots(1, len(parts), squeeze=False)[0], parts.items()
    ):
      bars = axes.barh(np.arange(len(labels)), average_precision[labels], 0.7, color=BLUE)
      axes.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=10)
      axes.axvline(mean, color=ORANGE, linestyle="--", linewidth=1, zorder=0.5)
      axes.yaxis.set_major_locator(FixedLocator(list(range(len(labels)))))
      axes.set_yticklabels([_short(names[k]) for k in labels], parse_math=False)
      axes.tick_params("y", length=0)
      axes.set(xlim=(0, 1.06), ylim=(rows - 0.4, -0.6), title=title)
      axes.set_xlabel(f"average precision (dashed: mean, {mean:.3f})")
    alt = "Bars of the average precision of labels, best first; the table below holds all values"
    return _svg(figure, "bars", alt)


def strongest_edges(
  propagation: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(receivers int64[N], senders int64[N], weights[N]) of the heaviest edges between two labels.

  Args:
    propagation: float[K, K]; row i holds the weights with which label i receives from the others.
    count: The most edges wanted; of equal weights, the first in the order of the labels come first.
  """
  between = np.where(np.eye(len(propagation), dtype=bool), 0, propagation)
  order = np.argsort(-between, axis=None, kind="stable")[:count]
  order = order[between.flat[order] > 0]
  receivers, senders = np.unravel_index(order, between.shape)
  return receivers, senders, between[receivers, senders]


def label_graph(
  names: Sequence[str], propagation: np.ndarray, average_precision: np.ndarray, seed: int
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
  places = _spring_layout(len(nodes), receivers, senders, seed)
  widths = 0.4 + (2.4 if len(weights) <= FEW else 1.6) * weights / weights.max()
  with _drawing():
    figure, axes = _map_axes(9.5 if len(nodes) > 20 else 6.5)
    axes.set(xlim=(-0.06, 1.06), ylim=(-0.05, 1.05))
    for receiver, sender, width in zip(receivers, senders, widths):
      arrow = FancyArrowPatch(
        *(tuple(places[sender]), tuple(places[receiver])),
        arrowstyle="-|>",
        connectionstyle="arc3,rad=0.08",
        shrinkA=4,
        shrinkB=4,
        mutation_scale=5 + 2 * width,
        linewidth=width,
        color="#999999",
      )
      axes.add_patch(arrow)
    _dots(figure, axes, places, average_precision[nodes])
    degrees = np.bincount(ends, minlength=len(nodes))
    _write_names(axes, places, [names[k] for k in nodes], np.argsort(-degrees, kind="stable"))
    alt = f"Node-link picture of the {len(weights)} heaviest edges between {len(nodes)} labels"
    return _svg(figure, "graph", alt, [names[k] for k in nodes])


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

  Source: scikit-learn's TSNE.
  """
  places = TSNE(
    perplexity=max(1.0, min(30.0, (len(vectors) - 1) / 3)),  # must stay below K
    init="pca" if vectors.shape[1] > 1 else "random",
    # The exact method is also the faster one for hundreds of labels.
    method="exact" if len(vectors) <= 1000 else "barnes_hut",
    random_state=seed,
  ).fit_transform(_scaled(vectors))
  with _drawing():
    figure, axes = _map_axes(9.5 if len(names) > 20 else 6.5)
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")
    _dots(figure, axes, places, average_precision)
    axes.apply_aspect()
    _write_names(axes, places, names, np.argsort(-positives, kind="stable"))
    alt = f"Map of the vectors of {len(names)} labels: labels with similar vectors lie close"
    return _svg(figure, "map", alt, names)


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
  """Matplotlib's own defaults and our style inside, the caller's settings again after."""
  with warnings.catch_warnings(), matplotlib.style.context(["default", STYLE]):
    # Names in other scripts: the reader's browser has the fonts.
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
    yield


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


def _map_axes(height: float) -> tuple[Figure, Axes]:
  figure = Figure((12.5, height))
  axes = figure.add_axes((0.01, 0.01, 0.91, 0.98))
  axes.set_axis_off()
  return figure, axes


def _dots(figure: Figure, axes: Axes, places: np.ndarray, values: np.ndarray) -> None:
  colors = matplotlib.colormaps["cividis"].resampled(10).with_extremes(bad="white")
  dots = axes.scatter(
    places[:, 0],
    places[:, 1],
    60,
    c=np.ma.masked_invalid(values),
    cmap=colors,
    vmin=0,
    vmax=1,
    edgecolors=DARK,
    linewidths=0.6,
    gid="dots",
    plotnonfinite=True,
    zorder=3,
  )
  bar = figure.colorbar(dots, cax=figure.add_axes((0.945, 0.3, 0.015, 0.4)))
  bar.ax.set_title("AP", fontsize=11, loc="left")


def _write_names(axes: Axes, places: np.ndarray, names: Sequence[str], order: np.ndarray) -> None:
  """Writes names beside their dots, the first of `order` first; of many labels only some.

  Each name goes where it hides least. Of many labels, one is left out where it would hide another.
  """
  many = len(names) > FEW
  font = FontProperties(size=11 if many else 12)
  renderer = FigureCanvasAgg(axes.figure).get_renderer()  # type: ignore[arg-type]
  dots = axes.transData.transform(places)
  boxes = np.concatenate([dots - 5, dots + 5], axis=1)
  costs = np.ones(len(boxes))
  compass = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)])
  gaps = np.repeat([6, 12, 20, 32, 46], len(compass))
  for k in order[: NAMED if many else None]:
    text = _short(names[k])
    width, height, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    half = np.array([width, height]) / 2
    # Corners need no gap of their own: the step aside already clears the dot.
    offsets = np.tile(compass, (5, 1)) * (half + gaps[:, None])
    middles = dots[k] + offsets
    low, high = middles - half, middles + half
    sides = np.minimum(high[:, None], boxes[None, :, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    hidden = np.prod(np.maximum(sides, 0), axis=-1) @ costs
    inside = np.minimum(high, axes.bbox.max) - np.maximum(low, axes.bbox.min)
    cut = 4 * half[0] * half[1] - np.prod(np.maximum(inside, 0), axis=-1)
    cost = hidden + 20 * cut + 3.0 * gaps
    best = int(np.argmin(cost))
    if many and cost[best] > 0.5 * width * height:
      continue
    axes.annotate(
      text,
      tuple(places[k]),
      tuple(offsets[best]),
      textcoords="offset points",
      ha="center",
      va="center",
      fontproperties=font,
      parse_math=False,
      arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": DARK} if gaps[best] > 6 else None,
      zorder=4,
    )
    boxes = np.concatenate([boxes, [[*low[best], *high[best]]]])
    costs = np.append(costs, 100.0)


def _spring_layout(count: int, receivers: np.ndarray, senders: np.ndarray, seed: int) -> np.ndarray:
  """Places in the unit square, float64[count, 2]: edges pull, all labels push.

  Source: Fruchterman and Reingold, Graph drawing by force-directed placement, 1991; with a pull
    to the middle that keeps the parts of the graph together.
  """
  linked = np.zeros((count, count))
  linked[receivers, senders] = linked[senders, receivers] = 1.0
  places = np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 2))
  ideal = 1 / np.sqrt(count)
  for step in np.linspace(0.1, 0.001, 400):
    apart = places[:, None] - places
    distance = np.maximum(np.linalg.norm(apart, axis=-1), 1e-3)
    push = (ideal / distance) ** 2 - linked * distance / ideal
    force = (apart * push[..., None]).sum(axis=1) - 2 * places
    length = np.maximum(np.linalg.norm(force, axis=1, keepdims=True), 1e-9)
    places = places + force / length * np.minimum(length, step)
  places = places - places.min(axis=0)
  return places / np.maximum(places.max(axis=0), 1e-9)


def _scaled(vectors: np.ndarray) -> np.ndarray:
  """The same vectors around zero and at most one long: t-SNE may not meet extreme numbers."""
  centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
  return centred / np.abs(centred).max()


def _short(name: str) -> str:
  name = " ".join(name.split())
  return name if len(name) <= 32 else f"{name[:31]}…"


def _svg(figure: Figure, name: str, alt: str, tips: Sequence[str] = ()) -> str:
  """The figure as an element of an HTML page that also holds others.

  Args:
    figure: What to draw.
    name: Set before each id, which must be unique in a page.
    alt: What is said to those who do not see it.
    tips: Names of the dots (the collection `dots`), shown under the pointer.
  """
  buffer = io.StringIO()
  nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  figure.savefig(buffer, format="svg", metadata=nothing)
  drawn = re.sub(
    r"<[^>]+>",
    lambda tag: re.sub(r'(\bid="|\burl\(#|\bhref="#)', rf"\1{name}-", tag[0]),
    buffer.getvalue(),
  )
  before, mark, after = drawn.partition(f'<g id="{name}-dots">')
  left = iter(tips)
  after = re.sub(
    r"(<use [^>]*)/>",
    lambda dot: f"{dot[1]}><title>{html.escape(next(left))}</title></use>",
    after,
    count=len(tips),
  )
  body = (before + mark + after).partition("<svg")[2].partition(">")[2]
  width, height = figure.get_size_inches() * figure.dpi
  return (
    f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" role="img" '
    f'aria-label="{html.escape(alt)}">{body.strip()}'
  )
