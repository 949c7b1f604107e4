"""The precision-recall curves of the report page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from atgcn_jax.reports.figure_style import BLUE, DARK, ORANGE, drawing, short, svg

CURVES = 3  # number of labels in each of three groups
POINTS = 400  # maximum number of points in a curve


def curve_groups(average_precision: np.ndarray) -> dict[str, np.ndarray]:
  """Return the labels with precision-recall curves: best, middle and worst AP, or all if few.

  Args:
    average_precision: float[K], at least one finite.
  """
  ranked = np.argsort(-average_precision, kind="stable")
  ranked = ranked[: int(np.isfinite(average_precision).sum())]
  titles = ("Best labels", "Middle labels", "Worst labels")
  if len(ranked) <= 3 * CURVES:
    parts = [part for part in np.array_split(ranked, 3) if len(part)]
    return dict(zip(titles, parts))
  middle = (len(ranked) - CURVES) // 2
  parts = [ranked[:CURVES], ranked[middle : middle + CURVES], ranked[-CURVES:]]
  return dict(zip(titles, parts))


def precision_recall_figure(
  names: Sequence[str], scores: np.ndarray, labels: np.ndarray, average_precision: np.ndarray
) -> str:
  """Return a figure of the precision-recall curves of the labels of `curve_groups`.

  Args:
    names: The names of the K labels.
    scores: float[N, K].
    labels: [N, K], nonzero where a clip has the label.
    average_precision: float[K], at least one finite.

  Source:
    scikit-learn's precision_recall_curve.
  """
  groups = curve_groups(average_precision)
  with drawing():
    figure = Figure((12.5, 4.6), layout="constrained")
    for axes, (title, chosen) in zip(figure.subplots(1, 3, sharey=True), groups.items()):
      for k, color in zip(chosen, (BLUE, ORANGE, DARK)):
        recall, precision = recall_and_precision(scores[:, k], labels[:, k] != 0)
        name = f"{short(names[k])}, AP {average_precision[k]:.2f}"
        axes.step(recall, precision, where="pre", color=color, linewidth=1.5, label=name)
        axes.axhline(np.mean(labels[:, k] != 0), color=color, linestyle=":", linewidth=1)
      axes.set(title=title, xlabel="recall", xlim=(0, 1.01), ylim=(0, 1.03))
      legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
      for text in legend.get_texts():
        text.set_parse_math(False)
    figure.axes[0].set_ylabel("precision")
    for axes in figure.axes[len(groups) :]:
      axes.set_axis_off()
    alt = "Curves of precision over recall of labels with high, middle and low average precision"
    return svg(figure, "recall", alt)


def recall_and_precision(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the recall and the precision where recall changes, at most POINTS points."""
  from sklearn.metrics import precision_recall_curve  # takes a second

  precision, recall, _ = precision_recall_curve(positive, scores)
  precision, recall = precision[::-1], recall[::-1]  # from recall 0
  first = np.flatnonzero(np.diff(recall, prepend=-1) > 0)  # highest threshold of each recall
  if len(first) > POINTS:
    first = first[np.linspace(0, len(first) - 1, POINTS).round().astype(int)]
  return recall[first], precision[first]
