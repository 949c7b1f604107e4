"""Shared parts of the figures: style, text placement, graph layout, and SVG output."""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch

FEW = 60  # maximum number of labels for which each one has a name and a bar
NAMED = 40  # number of named labels in figures with more labels

# Distinguishable for colour-blind readers.
BLUE, ORANGE, GREEN, DARK = "#0072B2", "#D55E00", "#009E73", "#333333"
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


@contextlib.contextmanager
def drawing() -> Iterator[None]:
  """Apply Matplotlib's defaults and STYLE inside the block, and restore the settings after it."""
  with warnings.catch_warnings(), matplotlib.style.context(["default", STYLE]):
    # Label names in other scripts are rendered with the fonts of the reader's browser.
    warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
    yield


def map_axes(height: float) -> tuple[Figure, Axes]:
  """Return a figure of this height in inches and its axes, without a frame."""
  figure = Figure((12.5, height))
  axes = figure.add_axes((0.01, 0.01, 0.91, 0.98))
  axes.set_axis_off()
  return figure, axes


def dots(figure: Figure, axes: Axes, places: np.ndarray, values: np.ndarray) -> None:
  """Draw dots at the places [K, 2], coloured by values in [0, 1], with a colour bar.

  Dots with NaN are white.
  """
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


def write_names(axes: Axes, places: np.ndarray, names: Sequence[str], order: np.ndarray) -> None:
  """Write names next to their dots, in this order.

  Each name is placed where it hides least. If there are more than FEW names, at most NAMED are
  written, and names that would hide others are omitted.
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
    text = short(names[k])
    width, height, _ = renderer.get_text_width_height_descent(text, font, ismath=False)
    half = np.array([width, height]) / 2
    # Diagonal positions use the same gaps, because one of the two offsets already clears the dot.
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


def arrows(
  axes: Axes, places: np.ndarray, receivers: np.ndarray, senders: np.ndarray, widths: np.ndarray
) -> None:
  """Draw arrows from senders to receivers, which are indices into the places [K, 2].

  The widths are in points.
  """
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


def spring_layout(count: int, receivers: np.ndarray, senders: np.ndarray, seed: int) -> np.ndarray:
  """Return positions in the unit square, float64[count, 2], of a force-directed layout.

  Edges attract, and all labels repel each other. A force to the centre keeps the components of the
  graph together.

  Source:
    Fruchterman and Reingold, Graph drawing by force-directed placement, 1991; without the force to
    the centre.
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


def unit_scaled(vectors: np.ndarray) -> np.ndarray:
  """Return the vectors centred at 0 and scaled to at most 1, as t-SNE may fail on large values."""
  centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
  return centred / np.abs(centred).max()


def embedded(vectors: np.ndarray, seed: int) -> np.ndarray:
  """Return positions in the plane, float32[K, 2], in which similar vectors are close.

  Args:
    vectors: float[K, C], finite, with at least three distinct rows.
    seed: The seed of t-SNE.

  Source:
    scikit-learn's TSNE.
  """
  from sklearn.manifold import TSNE  # takes half a second

  return TSNE(
    perplexity=max(1.0, min(30.0, (len(vectors) - 1) / 3)),  # must stay below K
    init="pca" if vectors.shape[1] > 1 else "random",
    # For hundreds of labels, the exact method is also faster.
    method="exact" if len(vectors) <= 1000 else "barnes_hut",
    random_state=seed,
  ).fit_transform(unit_scaled(vectors))


def short(name: str) -> str:
  """Return the name of a label on one line of at most 32 characters."""
  name = " ".join(name.split())
  return name if len(name) <= 32 else f"{name[:31]}…"


def picture(figure: Figure, kind: str, dpi: int) -> bytes:
  """Return the content of a picture file.

  Args:
    figure: The figure.
    kind: The format, such as `png`, `svg` or `pdf`, or a file name with this suffix.
    dpi: The resolution in dots per inch.
  """
  buffer = io.BytesIO()
  figure.savefig(buffer, format=kind.rpartition(".")[2], dpi=dpi, transparent=False)
  return buffer.getvalue()


def svg(figure: Figure, name: str, alt: str, tips: Sequence[str] = ()) -> str:
  """Return the figure as an `<svg>` element for an HTML page with several figures.

  Args:
    figure: The figure.
    name: The prefix of all ids, which makes them unique in the page.
    alt: The text for readers who cannot see the figure.
    tips: The names of the dots (the collection `dots`), shown under the pointer.
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
