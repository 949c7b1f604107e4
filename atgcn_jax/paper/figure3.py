"""Figure 3: mAP over the threshold τ of Eq. 6 and over the weight p of the neighbours in Eq. 7."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from atgcn_jax.paper.experiments import FIGURE3
from atgcn_jax.reports.figure_style import BLUE, DARK, ORANGE, drawing, picture
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

Points = Sequence[tuple[float, Sequence[float]]]  # (value of the setting, mAP of each seed)


def draw_figure3(
  curves: Sequence[Points],
  baseline: Sequence[float],
  titles: Sequence[str],
  path: str | os.PathLike,
) -> None:
  """Draw the mean over seeds, a band of one standard deviation, and a line for the baseline.

  Args:
    curves: Points of the curves of `FIGURE3`, in the same order.
    baseline: mAP of the baseline for each seed.
    titles: The names of the baseline and of the system of the curves.
    path: Image to write, .png, .svg or .pdf.
  """
  with drawing():
    figure = Figure((10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, about, points in zip(panels, FIGURE3, curves):
      ordered = sorted(points, key=lambda point: point[0])
      values = np.array([value for value, _ in ordered])
      means = np.array([np.mean(seeds) for _, seeds in ordered])
      spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0 for _, seeds in ordered])
      axes.fill_between(values, means - spread, means + spread, color=BLUE, alpha=0.2, linewidth=0)
      axes.plot(values, means, "o-", color=BLUE, label=titles[1])
      axes.axhline(np.mean(baseline), color=ORANGE, linestyle="--", label=titles[0])
      axes.axvline(about.chosen, color=DARK, linestyle=":", linewidth=1, label="the paper's choice")
      axes.set(xlabel=about.title, xlim=(-0.03, 1.03))
      axes.grid(color="#E5E5E5")
    panels[0].set_ylabel("mAP")
    panels[0].legend(frameon=False)
    write_result(pathlib.Path(path), picture(figure, os.fspath(path), 150))


def write_figure3_csv(
  curves: Sequence[Points], baseline: Sequence[float], path: str | os.PathLike
) -> None:
  """Write a CSV file with one row per point and one for CNN10.

  The columns are the setting, its value, the mean and standard deviation of mAP over seeds, and the
  number of seeds.

  Args:
    curves: Points of the curves of `FIGURE3`, in the same order.
    baseline: mAP of CNN10 for each seed.
    path: File to write.
  """
  of_curves = [
    (about.key, f"{value:g}", seeds)
    for about, points in zip(FIGURE3, curves)
    for value, seeds in points
  ]
  rows: list[Sequence[object]] = [("setting", "value", "mAP", "mAP_deviation", "seeds")]
  for setting, value, seeds in [*of_curves, ("cnn10", "", baseline)]:
    deviation = f"{np.std(seeds, ddof=1):.6f}" if len(seeds) > 1 else ""
    rows.append((setting, value, f"{np.mean(seeds):.6f}", deviation, len(seeds)))
  write_result(pathlib.Path(path), csv_bytes(rows))
