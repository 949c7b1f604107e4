"""Table and picture of estimates for labels without a training clip."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.special import stdtrit

from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import label_pairs
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.metrics import mean_of_defined
from atgcn_jax.paper.experiment_configs import Settings
from atgcn_jax.reports.figure_style import BLUE, ORANGE, drawing, picture
from atgcn_jax.runtime.whole_files import csv_bytes, write_result

TRAINED, BEST = "linear head, trained with these labels", "regression on the known labels"
STRONG = 0.1  # P(k | j) of a neighbour that counts in the picture


class Draw(NamedTuple):
  """Labels that are left out of a training: positions in the store's vocabulary."""

  known: np.ndarray
  new: np.ndarray
  path: pathlib.Path  # the vocabulary file of the known labels


class UnseenRow(NamedTuple):
  """mAP over the left-out labels: the mean over draws and seeds, with 95 % intervals over draws.

  `share` is the mean over draws of the ratio to the trained head's mAP.
  """

  title: str
  mean: float
  low: float
  high: float
  share: float
  share_low: float
  share_high: float


def table_of(precisions: Sequence[Mapping[str, np.ndarray]]) -> list[UnseenRow]:
  """Return the rows of the table, in the order of their titles in the draws."""
  means = {
    title: np.array(
      [np.mean([mean_of_defined(seed) for seed in draw[title]]) for draw in precisions]
    )
    for title in precisions[0]
  }
  return [
    UnseenRow(title, *mean_interval(values), *mean_interval(values / means[TRAINED]))
    for title, values in means.items()
  ]


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
  """Return the mean and its 95 % interval of Student's t; NaN limits for one value."""
  mean = float(values.mean())
  if len(values) < 2:
    return mean, float("nan"), float("nan")
  half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values))
  return mean, mean - float(half), mean + float(half)


def as_markdown(table: Sequence[UnseenRow], settings: Settings, draws: int, left_out: int) -> str:
  """Return the table in Markdown; `left_out` is the number of labels of a draw."""
  lines = [
    "# Labels without a training clip",
    "",
    "| estimate | mAP of the left-out labels [95 % interval] | share of the trained head's |",
    "|---|---|---|",
  ]
  for row in table:
    mean, share = f"{row.mean:.3f}", f"{row.share:.2f}"
    if draws > 1:
      mean += f" [{row.low:.3f}, {row.high:.3f}]"
      share += f" [{row.share_low:.2f}, {row.share_high:.2f}]"
    lines.append(f"| {row.title} | {mean} | {share} |")
  lines += [
    "",
    f"{draws} draw{'s' * (draws > 1)} of {left_out} labels, "
    f"{settings.seeds} seed{'s' * (settings.seeds > 1)}; intervals are over draws. "
    f"Store: {pathlib.Path(settings.store).name}.",
  ]
  return "\n".join(lines) + "\n"


def write_labels(
  path: pathlib.Path,
  drawn: Sequence[Draw],
  precisions: Sequence[Mapping[str, np.ndarray]],
  vocabulary: Vocabulary,
) -> None:
  """Write the average precision of each left-out label under each estimate, as CSV."""
  titles = list(precisions[0])
  table: list[list[object]] = [["draw", "mid", "display_name", *titles]]
  for number, (draw, rows) in enumerate(zip(drawn, precisions)):
    for i, k in enumerate(draw.new):
      values = [f"{rows[title][:, i].mean():.6f}" for title in titles]
      table.append([number, vocabulary.ids[k], vocabulary.names[k], *values])
  write_result(path, csv_bytes(table))


def strong_neighbours(counts: Counts) -> np.ndarray:
  """Return the number of labels j with P(k | j) ≥ `STRONG` for each label k, int[K]."""
  together = label_pairs(counts)
  given = together / np.maximum(np.diag(together), 1)
  np.fill_diagonal(given, 0)
  return (given >= STRONG).sum(axis=1)


def draw_picture(
  path: pathlib.Path,
  drawn: Sequence[Draw],
  precisions: Sequence[Mapping[str, np.ndarray]],
  neighbours: np.ndarray,
  categories: np.ndarray,
) -> None:
  """Draw mean average precision by number of neighbours and by top category."""
  labels = np.concatenate([draw.new for draw in drawn])
  estimated, trained = (
    np.concatenate([rows[title].mean(axis=0) for rows in precisions]) for title in (BEST, TRAINED)
  )
  bounds = ((0, 0), (1, 2), (3, 5), (6, 10), (11, len(neighbours)))
  by_number = {
    str(low) if low == high else (f"{low}–{high}" if high < len(neighbours) else f"{low}+"): (
      (neighbours[labels] >= low) & (neighbours[labels] <= high)
    )
    for low, high in bounds
  }
  by_category = {name: categories[labels] == name for name in sorted(set(categories))}
  with drawing():
    figure = Figure((11, 4.4), layout="constrained")
    for axes, groups, title in zip(
      figure.subplots(1, 2, width_ratios=(2, 3)),
      (by_number, by_category),
      (f"neighbours j with P(k | j) ≥ {STRONG:g}", "top category"),
    ):
      groups = {name: chosen for name, chosen in groups.items() if chosen.any()}
      places = np.arange(len(groups))
      for shift, values, colour, name in (
        (-0.2, trained, ORANGE, "trained with the label"),
        (0.2, estimated, BLUE, "estimated without a clip"),
      ):
        means = [np.nanmean(values[chosen]) for chosen in groups.values()]
        axes.barh(places + shift, means, 0.38, color=colour, label=name)
      sizes = [f"{name} ({chosen.sum()})" for name, chosen in groups.items()]
      axes.set_yticks(places, sizes)
      axes.invert_yaxis()
      axes.set(title=title, xlabel="mAP")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    write_result(path, picture(figure, path.name, 130))
