"""The frame of a report page, and its parts: notes, figures and tables, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

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
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.clips figure { margin: 0; font-size: 0.9rem; overflow-wrap: anywhere; }
.clips img { display: block; width: 100%; height: 6rem; }
.clips audio { display: block; width: 100%; height: 2.2rem; margin: 0.2rem 0; }
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


def document_html(title: str, summary: str, sections: dict[str, str]) -> str:
  """Return a complete page.

  Args:
    title: The title, as text.
    summary: The HTML below the title.
    sections: The HTML of each section, by its heading.
  """
  body = "\n".join(
    f"<section>\n<h2>{heading}</h2>\n{content}\n</section>" for heading, content in sections.items()
  )
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{summary}
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def note_html(text: str) -> str:
  """Return a paragraph of explanation."""
  return f'<p class="note">{html.escape(text)}</p>'


def figure_html(drawing: str) -> str:
  """Return a figure of an `<svg>` element."""
  return f'<figure tabindex="0">{drawing}</figure>'


def scrolled_html(content: str) -> str:
  """Return HTML, such as a long table, in a box that scrolls."""
  return f'<div class="long" tabindex="0">{content}</div>'


def details_html(summary: str, content: str) -> str:
  """Return HTML that the reader can unfold."""
  return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def table_html(
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  numbers: Sequence[int],
  ranked: int | None = None,
) -> str:
  """Return a table.

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


def value_text(value: Any) -> str:
  """Return a value as text: floats with four decimals, a dash if undefined, commas in between."""
  if isinstance(value, list):
    return ", ".join(map(value_text, value))
  if isinstance(value, dict):
    return ", ".join(f"{key}: {value_text(one)}" for key, one in value.items())
  if value is None or (isinstance(value, float) and np.isnan(value)):
    return "–"
  return f"{value:.4f}" if isinstance(value, float) else str(value)
