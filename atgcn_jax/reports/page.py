"""The report page of an evaluation: one self-contained HTML file."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from atgcn_jax.labels.sparse import Matrix, edges_of
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.reports import page_figures
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import write_whole

TABLE_EDGES = 20
NEAREST = 3  # neighbours per label in the table of labels

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.5rem; }
figure { margin: 0.5rem 0; overflow-x: auto; }
svg { display: block; width: 100%; min-width: 44rem; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
svg.graph text, svg.map text { paint-order: stroke; stroke: #fff; stroke-width: 3px;
  stroke-linejoin: round; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #e5e5e5;
  overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
thead th { position: sticky; top: 0; background: #fff; }
th button { font: inherit; border: 0; background: none; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.long { max-height: 32rem; overflow: auto; border: 1px solid #e5e5e5; padding: 0 0.5rem; }
.long table { width: 100%; }
pre { overflow-x: auto; background: #f6f6f6; padding: 0.8rem; font-size: 0.85rem; }
p.note { color: #555; font-size: 0.9rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11px; }
  svg { min-width: 0; }
  figure, tr { break-inside: avoid; }
  .long { max-height: none; overflow: visible; border: 0; padding: 0; }
}
"""

# Sort numbers by value and other columns by name. Undefined values always stay last.
SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const th = button.parentNode, body = th.closest("table").tBodies[0];
  const now = th.getAttribute("aria-sort"), number = th.className == "number";
  const sign = now ? (now == "ascending" ? -1 : 1) : number ? -1 : 1;
  th.parentNode.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const text = row => row.cells[th.cellIndex].textContent;
  const order = (a, b) => !number ? sign * a.localeCompare(b)
    : (a == "–") - (b == "–") || (sign * (a - b) || 0);
  [...body.rows].sort((a, b) => order(text(a), text(b))).forEach(row => body.append(row));
});
"""


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  summary: dict[str, Any],
  records: Sequence[dict[str, Any]],
  vocabulary: Vocabulary,
  positives: np.ndarray,
  average_precision: np.ndarray,
  auc: np.ndarray,
  label_vectors: np.ndarray | None,
  propagation: Matrix | None,
  config: dict[str, Any],
  seed: int = 0,
) -> None:
  """Write a page with learning curves, metrics per label, the label graph and the label map.

  The same arguments produce the same bytes. The file is written atomically.

  Args:
    path: The file. An existing file is replaced.
    title: The title, which names the evaluated run.
    summary: Names and values of the table at the top, such as split, step and mAP.
    records: The records in the log of the run, which have `step` and `loss`, or `step` and `mAP`.
      Other keys are ignored. It may be empty.
    vocabulary: The K labels.
    positives: int[K], the number of clips with each label in the evaluated split.
    average_precision: float[K], NaN where undefined.
    auc: float[K], NaN where undefined.
    label_vectors: float[K, C], or None for a system without label vectors.
    propagation: float[K, K], or None for a system without a graph. Row i has the weights with which
      label i receives from the other labels.
    config: The config of the run.
    seed: The seed of the layouts of the label graph and the label map.

  Raises:
    ValueError: If the shape of an array does not fit K labels.
  """
  K = len(vocabulary)
  positives, average_precision, auc = map(np.asarray, (positives, average_precision, auc))
  for name, array, shape in (
    ("positives", positives, (K,)),
    ("average_precision", average_precision, (K,)),
    ("auc", auc, (K,)),
    ("label_vectors", label_vectors, (K, None)),
    ("propagation", propagation, (K, K)),
  ):
    if array is not None and not _fits(array.shape, shape):
      raise ValueError(f"{name} {array.shape} does not fit a vocabulary of {K} labels")
  sections = {
    "Learning curves": _curves(records),
    "Labels": _classes(vocabulary, positives, average_precision, auc, summary, propagation),
    "Label graph": _graph(vocabulary.names, propagation, average_precision, seed),
    "Label vectors": _map(vocabulary.names, label_vectors, positives, average_precision, seed),
    "Settings": _settings(config),
  }
  body = "\n".join(
    f"<section>\n<h2>{heading}</h2>\n{text}\n</section>" for heading, text in sections.items()
  )
  page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{_summary(summary)}
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""
  write_whole(path_of(path), page.encode("utf-8", errors="replace"))


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
  """Return whether an array has the wanted shape, where None stands for any length."""
  return len(shape) == len(wanted) and all(
    length in (size, None) for size, length in zip(shape, wanted)
  )


def _summary(summary: dict[str, Any]) -> str:
  return _table((), [(name, _value(value)) for name, value in summary.items()], numbers=())


def _curves(records: Sequence[dict[str, Any]]) -> str:
  lengths = [len(page_figures.series(records, key)[0]) for key in ("loss", "mAP")]
  if not any(lengths):
    return _note("This run has no training records.")
  note = ""
  if max(lengths) > page_figures.POINTS:
    note = _note(
      f"In a curve of more than {page_figures.POINTS} records, each point is the mean of several "
      "records."
    )
  return _figure(page_figures.learning_curves(records)) + note


def _classes(
  vocabulary: Vocabulary,
  positives: np.ndarray,
  average_precision: np.ndarray,
  auc: np.ndarray,
  summary: dict[str, Any],
  propagation: Matrix | None,
) -> str:
  """Return the bars, then the table of all labels with the best first and the undefined last."""
  defined = np.isfinite(average_precision)
  parts = []
  if defined.any():
    parts.append(_figure(page_figures.class_bars(vocabulary.names, average_precision)))
    if clips := summary.get("clips"):
      chance = float(positives[defined].mean()) / clips
      parts.append(
        _note(f"Random scores have an mAP of about {chance:.4f}, the share of positives.")
      )
  if not defined.all():
    parts.append(
      _note(
        f"AP and AUC are undefined for {int((~defined).sum())} of {len(defined)} labels, because "
        "they require clips with the label and clips without it. The means exclude these labels."
      )
    )
  head = ["Label", "Id", "Clips", "AP", "AUC"]
  near = _neighbours(vocabulary.names, propagation, average_precision)
  if near:
    head.append("Neighbours in the graph, with their AP")
  rows = [
    (
      *(vocabulary.names[k], vocabulary.ids[k], f"{int(positives[k])}"),
      *(_value(float(average_precision[k])), _value(float(auc[k]))),
      *([near[k]] if near else []),
    )
    for k in np.argsort(-average_precision, kind="stable")
  ]
  table = _table(head, rows, numbers=(2, 3, 4), ranked=3)
  return "\n".join([*parts, f'<div class="long" tabindex="0">{table}</div>'])


def _neighbours(
  names: Sequence[str], propagation: Matrix | None, average_precision: np.ndarray
) -> list[str]:
  """Return the labels that each label receives most from, with their AP; empty without a graph."""
  if propagation is None:
    return []
  senders: list[list[tuple[float, int]]] = [[] for _ in names]
  for receiver, sender, weight in zip(*edges_of(propagation)):
    senders[receiver].append((-weight, sender))
  return [
    ", ".join(
      f"{names[j]} {_value(float(average_precision[j]))}" for _, j in sorted(near)[:NEAREST]
    )
    for near in senders
  ]


def _graph(
  names: Sequence[str], propagation: Matrix | None, average_precision: np.ndarray, seed: int
) -> str:
  if propagation is None:
    return _note("This system has no label graph.")
  receivers = edges_of(propagation)[0]
  edges, isolated = len(receivers), len(names) - len(np.unique(receivers))
  count = f"edges: {edges}; labels: {len(names)}; labels without a neighbour: {isolated}."
  if not edges:
    return _note(f"Label graph: {count}")
  shown = "all edges"
  if edges > page_figures.EDGES:
    shown = f"the {page_figures.EDGES} edges with the largest weights"
  note = (
    f"Label graph: {count} The figure shows {shown}. Each arrow points from the sending label to "
    "the receiving label; its width grows with the weight. The colour of a label is its AP; white "
    "means undefined. Point at a label to see its name."
  )
  rows = [
    (names[sender], names[receiver], f"{weight:.4f}")
    for receiver, sender, weight in zip(*page_figures.strongest_edges(propagation, TABLE_EDGES))
  ]
  table = _table(("From", "To", "Weight"), rows, numbers=(2,))
  figure = _figure(page_figures.label_graph_figure(names, propagation, average_precision, seed))
  return f"{_note(note)}\n{figure}\n<h3>Edges with the largest weights</h3>\n{table}"


def _map(
  names: Sequence[str],
  vectors: np.ndarray | None,
  positives: np.ndarray,
  average_precision: np.ndarray,
  seed: int,
) -> str:
  if vectors is None:
    return _note("This system has no label vectors.")
  if not np.isfinite(vectors).all():
    return _note("No map: the label vectors have NaN or infinite values.")
  chosen = np.sort(np.argsort(-positives, kind="stable")[: page_figures.MAPPED])
  fewer = f" The map shows the {len(chosen)} of {len(names)} labels with the most clips."
  fewer = fewer if len(chosen) < len(names) else ""
  names, vectors = [names[k] for k in chosen], vectors[chosen]
  positives, average_precision = positives[chosen], average_precision[chosen]
  if len(np.unique(vectors, axis=0)) < 3:
    return _note("No map: it requires at least three labels with different vectors.")
  note = (
    "Map of the label vectors by t-SNE. Labels with similar vectors are close; large distances "
    "have little meaning. The colour of a label is its AP; white means undefined. Point at a label "
    f"to see its name.{fewer}"
  )
  figure = _figure(page_figures.label_map(names, vectors, positives, average_precision, seed))
  return f"{_note(note)}\n{figure}"


def _settings(config: dict[str, Any]) -> str:
  text = html.escape(json.dumps(config, indent=2, ensure_ascii=False, default=str))
  return f"<details><summary>Config of the run</summary><pre>{text}</pre></details>"


def _note(text: str) -> str:
  return f'<p class="note">{html.escape(text)}</p>'


def _figure(drawing: str) -> str:
  return f'<figure tabindex="0">{drawing}</figure>'


def _table(
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  numbers: Sequence[int],
  ranked: int | None = None,
) -> str:
  """Return an HTML table.

  Args:
    head: The names of the columns, or an empty sequence for a table without a header.
    rows: The rows, with one text per column.
    numbers: The indices of the columns with numbers.
    ranked: The index of the column by which the rows are sorted, largest first. If given, the
      reader can sort by any column.
  """
  kind = [' class="number"' if column in numbers else "" for column in range(len(head) or 5)]
  lines = ["<table>"]
  if head:
    cells = []
    for column, name in enumerate(head):
      order = ' aria-sort="descending"' if column == ranked else ""
      label = name if ranked is None else f'<button type="button">{name}</button>'
      cells.append(f'<th scope="col"{kind[column]}{order}>{label}</th>')
    lines.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
  lines.append("<tbody>")
  for row in rows:
    cells = [f"<td{kind[column]}>{html.escape(cell)}</td>" for column, cell in enumerate(row)]
    lines.append(f"<tr>{''.join(cells)}</tr>")
  return "\n".join([*lines, "</tbody>", "</table>"])


def _value(value: Any) -> str:
  """Return a value as text: floats with four decimals, a dash if undefined, commas in between."""
  if isinstance(value, list):
    return ", ".join(map(_value, value))
  if isinstance(value, dict):
    return ", ".join(f"{key}: {_value(one)}" for key, one in value.items())
  if value is None or (isinstance(value, float) and np.isnan(value)):
    return "–"
  return f"{value:.4f}" if isinstance(value, float) else str(value)
