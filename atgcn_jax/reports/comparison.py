"""A comparison of two runs as text, JSON, CSV, Markdown and a plot."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from atgcn_jax.reports.comparison_plot import draw_comparison
from atgcn_jax.reports.figure_style import short
from atgcn_jax.runs.compare import Comparison, changes_of, most_changed
from atgcn_jax.runs.log import finite_or_none
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import write_output

LISTED = 10  # number of listed labels with gains, and with losses
METRICS = {"mAP": "mAP", "mAUC": "mAUC", "d_prime": "d'"}
WIDTH = 100

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # the header, the rows


def write_comparison(out: str | os.PathLike, comparison: Comparison) -> list[str]:
  """Write compare.csv, compare.md and compare.png, each atomically, and return their paths.

  Args:
    out: The folder. It is made if it does not exist.
    comparison: The comparison.

  Raises:
    UserError: If a file cannot be written.
  """
  contents = {
    "compare.csv": as_csv(comparison).encode(),
    "compare.md": comparison_markdown(comparison).encode(),
    "compare.png": draw_comparison(comparison),
  }
  paths = [str(path_of(out) / name) for name in contents]
  for path, content in zip(paths, contents.values()):
    write_output(path, content)
  return paths


def as_csv(comparison: Comparison) -> str:
  """Return a CSV with one row per label. Undefined values are empty."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  figures = ["average_precision_a", "average_precision_b", "difference"]
  writer.writerow(["mid", "display_name", "positives", *figures, "neighbours"])
  writer.writerows(
    ["" if value is None else value for value in label.values()]
    for label in (label_of(comparison, k) for k in range(len(comparison.vocabulary)))
  )
  return text.getvalue()


def label_of(comparison: Comparison, k: int) -> dict[str, Any]:
  """Return the values of a label, None where undefined."""
  a, b = (metrics["average_precision"][k] for metrics in comparison.metrics)
  neighbours = comparison.neighbours
  return {
    "mid": comparison.vocabulary.ids[k],
    "display_name": comparison.vocabulary.names[k],
    "positives": int(comparison.positives[k]),
    "average_precision_a": finite_or_none(a),
    "average_precision_b": finite_or_none(b),
    "difference": finite_or_none(b - a),
    "neighbours": None if neighbours is None else int(neighbours[k]),
  }


def as_json(comparison: Comparison) -> dict[str, Any]:
  """Return the comparison with only the labels that change most. Undefined values are None."""
  gaining, losing = most_changed(comparison, LISTED)
  mauc_a, mauc_b = (metrics["mAUC"] for metrics in comparison.metrics)
  found: dict[str, Any] = {}
  for i, name in enumerate("ab"):
    found[f"run_{name}"] = comparison.runs[i]
    found[f"step_{name}"] = comparison.steps[i]
    for key in METRICS:
      found[f"{key}_{name}"] = finite_or_none(comparison.metrics[i][key])
  return found | {
    "difference": finite_or_none(comparison.difference),
    "low": finite_or_none(comparison.low),
    "high": finite_or_none(comparison.high),
    "mAUC_difference": finite_or_none(mauc_b - mauc_a),
    "mAUC_low": finite_or_none(comparison.mauc_low),
    "mAUC_high": finite_or_none(comparison.mauc_high),
    "clips": comparison.clips,
    "classes": len(comparison.vocabulary),
    "classes_scored": int(np.isfinite(changes_of(comparison)).sum()),
    "split": comparison.split,
    "clip_ids_sha256": comparison.clip_ids_sha256,
    "graph_of": comparison.graph_of or None,
    "rank_correlation": finite_or_none(comparison.correlation),
    "p_value": finite_or_none(comparison.p_value),
    "gaining": [label_of(comparison, int(k)) for k in gaining],
    "losing": [label_of(comparison, int(k)) for k in losing],
  }


def comparison_text(comparison: Comparison) -> str:
  """Return the comparison as text of at most 100 columns."""
  lines = []
  for name, run, *rest in zip("AB", comparison.runs, comparison.systems, comparison.steps):
    what = " ({}), step {}".format(*rest)
    lines.append(f"{name}  {_end_of(run, WIDTH - 3 - len(what))}{what}")
  lines += [*about(comparison), ""]
  for table in tables(comparison):
    lines += [*_columns(table), ""]
  return "\n".join([*lines, *correlation(comparison)])


def comparison_markdown(comparison: Comparison) -> str:
  """Return the comparison as Markdown, with a link to compare.png."""
  named = [
    f"{name} is {_cell(run)} ({system}) at step {step}"
    for name, run, system, step in zip("AB", comparison.runs, comparison.systems, comparison.steps)
  ]
  parts = [
    "# Comparison of two runs on the same clips",
    "; ".join(named) + ".",
    " ".join(about(comparison)),
  ]
  for first, rows in tables(comparison):
    rules = ["---", *["---:"] * (len(first) - 1)]
    lines = [[_cell(cell) for cell in row] for row in (first, rules, *rows)]
    parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
  parts += [" ".join(correlation(comparison)), "![Differences per label](compare.png)"]
  return "\n\n".join(parts) + "\n"


def about(comparison: Comparison) -> list[str]:
  """Return lines about the clips and labels that were scored."""
  shared, scored = len(comparison.vocabulary), int(np.isfinite(changes_of(comparison)).sum())
  lines = [
    f"Split {comparison.split}, {comparison.clips} clips; {shared} labels, {scored} of them with "
    "positive and negative clips."
  ]
  if set(comparison.known) != {shared}:
    lines.append(
      f"Of the {comparison.known[0]} labels of A and {comparison.known[1]} of B, only these are "
      "compared."
    )
  return lines


def tables(comparison: Comparison) -> list[Table]:
  """Return the table of metrics, then the tables of the labels that gain and lose most."""
  rows = []
  limits = {
    "mAP": (comparison.low, comparison.high),
    "mAUC": (comparison.mauc_low, comparison.mauc_high),
  }
  for key, name in METRICS.items():
    a, b = (metrics[key] for metrics in comparison.metrics)
    of_difference = " to ".join(map(_signed, limits[key])) if key in limits else "-"
    rows.append((name, _number(a), _number(b), _signed(b - a), of_difference))
  found: list[Table] = [(("", "A", "B", "B - A", "95 % interval"), rows)]
  for title, chosen in zip(("gain", "lose"), most_changed(comparison, LISTED)):
    first = (f"labels that {title} most", "neighbours", "positives", "AP A", "AP B", "B - A")
    found.append((first, [_label_row(comparison, int(k)) for k in chosen]))
  return [table for table in found if table[1]]


def _label_row(comparison: Comparison, k: int) -> tuple[str, ...]:
  label = label_of(comparison, k)
  neighbours = "-" if label["neighbours"] is None else str(label["neighbours"])
  a, b = label["average_precision_a"], label["average_precision_b"]
  name = short(label["display_name"])
  return name, neighbours, str(label["positives"]), _number(a), _number(b), _signed(b - a)


def correlation(comparison: Comparison) -> list[str]:
  """Return lines about the correlation of the differences with the graph."""
  if comparison.neighbours is None:
    return ["Neither run has a label graph."]
  what = f"Difference in AP and number of neighbours in the graph of {comparison.graph_of}"
  if math.isnan(comparison.correlation):
    return [f"{what}: the rank correlation is undefined."]
  value = f"rank correlation {comparison.correlation:+.3f} (Spearman, p = {comparison.p_value:.2g})"
  return [f"{what}:", f"{value}."]


def _columns(table: Table) -> list[str]:
  """Return a table as lines, with the first column left-aligned and the others right-aligned."""
  first, rows = table
  widths = [max(map(len, column)) for column in zip(first, *rows)]
  return [
    "  ".join(
      f"{cell:>{width}}" if i else f"{cell:<{width}}"
      for i, (cell, width) in enumerate(zip(row, widths))
    )
    for row in (first, *rows)
  ]


def _number(value: float) -> str:
  return f"{value:.4f}" if math.isfinite(value) else "-"


def _signed(value: float) -> str:
  return f"{value:+.4f}" if math.isfinite(value) else "-"


def _end_of(text: str, length: int) -> str:
  return text if len(text) <= length else f"…{text[1 - length :]}"


def _cell(text: str) -> str:
  return text.replace("|", "\\|")
