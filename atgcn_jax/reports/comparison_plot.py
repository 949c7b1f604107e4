"""The plot of a comparison: the labels that change, and their numbers of neighbours."""

from __future__ import annotations

import io
import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from atgcn_jax.reports.figure_style import BLUE, DARK, ORANGE, drawing, short, write_names
from atgcn_jax.runs.compare import Comparison, changes_of, most_changed

ENDS = 15  # number of labels with gains, and with losses, in the right plot
NAMED = 4  # number of labels with gains, and with losses, that are named in the left plot
TICKS = (0, *(step * 10**power for power in range(7) for step in (1, 2, 5)))
KINDS = (
  ("gain", BLUE, "^"),
  ("lose", ORANGE, "v"),
  ("stay", "white", "o"),
)  # distinguished by colour and by marker


def draw_comparison(comparison: Comparison) -> bytes:
  """Return a PNG with differences over neighbours, and the AP of the labels that change most.

  If neither run has a graph, the x axis is the number of clips with the label.
  """
  with drawing():
    figure = Figure((14, 7.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _scatter(left, comparison)
    _ends(right, comparison)
    figure.suptitle(_title(comparison), x=0.01, ha="left", fontsize=12, parse_math=False)
    figure.draw_without_rendering()  # names are placed between markers, so these are drawn first
    figure.set_layout_engine("none")
    defined = np.isfinite(changes_of(comparison))
    row_of = np.cumsum(defined) - 1
    order = np.concatenate(most_changed(comparison, NAMED))
    names = [name for name, there in zip(comparison.vocabulary.names, defined) if there]
    write_names(left, _places(comparison)[defined], names, row_of[order])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=False, metadata={"Software": None})
  return buffer.getvalue()


def _scatter(axes: Axes, comparison: Comparison) -> None:
  """Draw one marker per label, whose area grows with the number of clips that have the label."""
  over, changes = _places(comparison).T
  positives = comparison.positives
  largest = max(int(positives.max(initial=0)), 1)
  areas = 14 + 240 * positives / largest
  for (what, color, marker), chosen in zip(KINDS, (changes > 0, changes < 0, changes == 0)):
    if not chosen.any():
      continue
    axes.scatter(
      over[chosen],
      changes[chosen],
      areas[chosen],
      color=color,
      marker=marker,
      alpha=0.75,
      edgecolors=DARK,
      linewidths=0.5,
      label=f"labels that {what}: {int(chosen.sum())}",
    )
  axes.axhline(0, color=DARK, linewidth=0.8)
  axes.axhline(comparison.difference, color=DARK, linestyle="--", linewidth=1)
  # Many labels have few neighbours, and some have a large number.
  if over.max(initial=0) > 30:
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    shown = [x for x in TICKS if x <= over.max()]
    axes.set_xticks(shown, [f"{x:,}" for x in shown])
    axes.minorticks_off()
  else:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  what = f"neighbours in the graph of {comparison.graph_of}"
  axes.set(
    title="Difference per label (dashed: mAP; area: clips with the label)",
    xlabel=what if comparison.neighbours is not None else "clips with the label",
    ylabel="AP of B minus AP of A",
  )
  axes.margins(0.08, 0.1)
  axes.grid(color="#E5E5E5")
  axes.set_axisbelow(True)
  if np.isfinite(changes).any():
    legend = axes.legend(frameon=False, loc="best")
    for handle in legend.legend_handles:
      handle.set_sizes([60])  # type: ignore[union-attr]


def _places(comparison: Comparison) -> np.ndarray:
  """Return the x and y coordinates of the labels in the left plot, float64[K, 2]."""
  over = comparison.positives if comparison.neighbours is None else comparison.neighbours
  return np.stack([over.astype(np.float64), changes_of(comparison)], 1)


def _title(comparison: Comparison) -> str:
  runs = ", ".join(
    f"{name} is {os.path.basename(os.path.abspath(run))} ({system})"
    for name, run, system in zip("AB", comparison.runs, comparison.systems)
  )
  if not np.isfinite(comparison.difference):
    return runs
  figures = (comparison.difference, comparison.low, comparison.high)
  return runs + "; mAP of B minus A: {:+.4f} [{:+.4f}, {:+.4f}]".format(*figures)


def _ends(axes: Axes, comparison: Comparison) -> None:
  """Draw the AP of A and B for the labels that change most, from largest gain to largest loss."""
  gaining, losing = most_changed(comparison, ENDS)
  labels = np.concatenate([gaining, losing[::-1]])
  a, b = (metrics["average_precision"][labels] for metrics in comparison.metrics)
  rows = np.arange(len(labels))
  axes.hlines(rows, a, b, color="#999999", linewidth=2, zorder=1)
  axes.scatter(a, rows, 46, facecolors="white", edgecolors=DARK, linewidths=1.2, label="A")
  for (_, color, marker), chosen in zip(KINDS[:2], (b > a, b < a)):
    name = f"B, {'higher' if marker == '^' else 'lower'} than A"
    if chosen.any():
      axes.scatter(b[chosen], rows[chosen], 56, color=color, marker=marker, label=name)
  if len(gaining) and len(losing):
    axes.axhline(len(gaining) - 0.5, color=DARK, linewidth=0.6, linestyle=":")
  axes.set_yticks(rows, [short(comparison.vocabulary.names[k]) for k in labels], parse_math=False)
  axes.tick_params("y", length=0)
  axes.set(
    title="Labels with the largest gains and losses",
    xlabel="average precision",
    xlim=(-0.03, 1.03),
    ylim=(max(len(labels), 1) - 0.4, -0.6),
  )
  axes.grid(axis="x", color="#E5E5E5")
  axes.set_axisbelow(True)
  if len(labels):
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3)
