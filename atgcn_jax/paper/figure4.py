"""Figure 4: the label vectors of CNN10 and AT-GCN, as a t-SNE plot and as a table of measures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from atgcn_jax.reports.figure_style import DARK, drawing, embedded, picture, write_names
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

NEIGHBOURS = 10
# The labels that the paper's text names, and three more, of categories that it does not mention.
NAMED = (
  "Piano",
  "Keyboard (musical)",
  "Crying, sobbing",
  "Baby cry, infant cry",
  "Snake",
  "Guitar",
  "Rain",
  "Car",
  "Helicopter",
)
# The colours of Okabe and Ito, which colour-blind readers can distinguish, with a marker each for
# greyscale prints.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class LabelSpace(NamedTuple):
  """Measures of how well label vectors separate categories.

  Attributes:
    silhouette: Mean silhouette of each category, over the labels whose first category it is; NaN
      for fewer than two labels.
    mean_silhouette: Mean silhouette of all labels.
    neighbours: Mean fraction of a label's nearest neighbours that share a category with it.
    chance: Mean fraction of all other labels that share a category with a label.
  """

  silhouette: dict[str, float]
  mean_silhouette: float
  neighbours: float
  chance: float


def label_space(vectors: np.ndarray, categories: Sequence[Sequence[str]]) -> LabelSpace:
  """Measure how well label vectors separate categories.

  Distances are cosine distances: the length of a label's vector reflects how common the label is,
  its direction what the label means. The silhouette uses the first category of each label; the
  fraction of neighbours uses all of them.

  Args:
    vectors: Label vectors, float[K, C].
    categories: Categories of each label, at least one.

  Source: scikit-learn's silhouette_samples and NearestNeighbors.
  """
  first = np.array([names[0] for names in categories])
  kinds = sorted(set(first.tolist()))
  values = np.full(len(first), np.nan)
  if 1 < len(kinds) < len(first):
    values = silhouette_samples(vectors, first, metric="cosine")
  silhouette = {kind: float(values[first == kind].mean()) for kind in kinds}
  for kind in kinds:
    if (first == kind).sum() < 2:
      silhouette[kind] = float("nan")
  shared = np.array([[bool(set(a) & set(b)) for b in categories] for a in categories])
  count = min(NEIGHBOURS, len(first) - 1)
  search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(vectors)
  nearest = search.kneighbors(return_distance=False)  # without the label itself
  np.fill_diagonal(shared, False)
  return LabelSpace(
    silhouette,
    float(values.mean()),
    float(np.take_along_axis(shared, nearest, axis=1).mean()),
    float(shared.sum(axis=1).mean() / (len(first) - 1)),
  )


def draw_figure4(
  panels: Mapping[str, np.ndarray],
  categories: Sequence[Sequence[str]],
  names: Sequence[str],
  path: str | os.PathLike,
) -> None:
  """Draw a t-SNE of the label vectors of each panel, coloured by category.

  Args:
    panels: Label vectors float[K, C] by title.
    categories: Categories of each label; the first determines colour and marker.
    names: Names of the K labels. Nine are written into the plot: those in NAMED, then the first
      others.
    path: Image to write, .png, .svg or .pdf.

  Source: scikit-learn's TSNE.
  """
  first = [of_label[0] for of_label in categories]
  kinds = sorted(set(first), key=lambda kind: (-first.count(kind), kind))
  order = sorted(range(len(names)), key=lambda k: names[k] not in NAMED)  # a stable sort
  named = order[: len(NAMED)]
  with drawing():
    figure = Figure((13, 7.2))
    for i, (title, vectors) in enumerate(panels.items()):
      axes = figure.add_axes((0.01 + 0.5 * i, 0.12, 0.48, 0.82))
      axes.set(title=title, xticks=[], yticks=[])
      places = embedded(vectors, seed=0)
      for kind, colour, marker in _styles(kinds):
        chosen = [k for k, of_label in enumerate(first) if of_label == kind]
        axes.scatter(
          places[chosen, 0],
          places[chosen, 1],
          34,
          c=colour,
          marker=marker,
          edgecolors=DARK,
          linewidths=0.4,
          zorder=3,
        )
      axes.margins(0.06)
      axes.set_frame_on(False)
      write_names(axes, places, names, np.array(named))
    handles = [
      Line2D([], [], color=colour, marker=marker, linestyle="", markeredgecolor=DARK, label=kind)
      for kind, colour, marker in _styles(kinds)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False)
    write_result(pathlib.Path(path), picture(figure, os.fspath(path), 120))


def _styles(kinds: Sequence[str]) -> list[tuple[str, str, str]]:
  """Return (category, colour, marker) for each category; repeated colours get other markers."""
  return [
    (kind, COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
    for i, kind in enumerate(kinds)
  ]


def write_figure4(spaces: Mapping[str, LabelSpace], path: str | os.PathLike) -> str:
  """Write the measures as CSV, one row per measure and one column per panel.

  Args:
    spaces: Measures by title of the panel.
    path: File to write.

  Returns:
    The same table in Markdown.
  """
  kinds = next(iter(spaces.values())).silhouette
  rows = [(f"silhouette, {kind}", [s.silhouette[kind] for s in spaces.values()]) for kind in kinds]
  rows += [
    ("silhouette, all", [space.mean_silhouette for space in spaces.values()]),
    (
      f"share of the {NEIGHBOURS} nearest labels in the own category",
      [space.neighbours for space in spaces.values()],
    ),
    ("the same of all labels", [space.chance for space in spaces.values()]),
  ]
  numbers = [[name, *(f"{x:.6f}" for x in values)] for name, values in rows]
  write_result(pathlib.Path(path), csv_bytes([["figure", *spaces], *numbers]))
  lines = [f"| | {' | '.join(spaces)} |", "|---" * (len(spaces) + 1) + "|"]
  lines += [f"| {name} | {' | '.join(f'{x:.3f}' for x in values)} |" for name, values in rows]
  return "\n".join(lines)
