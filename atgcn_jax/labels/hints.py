"""Hints for messages on unknown labels and columns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from atgcn_jax.errors import PART, printable

# Texts that programs write into empty fields.
EMPTY = {"nan", "NaN", "NAN", "None", "null", "NULL", "NA", "N/A", "<NA>", "#N/A"}
SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}
# Names that other tables use for the columns of a label list.
OTHER_NAMES = {
  "filename": (
    *("fname", "file", "file_name", "name", "filepath", "file_path", "path", "slice_file_name"),
    *("audio_filename", "audio_file", "audio", "wav", "clip"),
  ),
  "fold": ("split", "set", "subset", "partition"),
  "positive_labels": (
    *("mids", "labels", "label", "category", "class", "classes", "class_name", "tags", "tag"),
  ),
}
# Columns that identify the tables of other layouts.
TABLES = {
  "urbansound8k": {"slice_file_name", "fold", "classid", "class"},
  "fsd50k": {"fname", "labels", "mids"},
  "esc50": {"filename", "fold", "category", "esc10"},
  "sonyc": {"split", "audio_filename", "annotator_id"},
  "segments": {"ytid", "start_seconds"},
}


def nearest(words: Sequence[str], text: str, count: int = 3) -> list[int]:
  """Return the positions of the words that equal, contain or resemble a text, the best first."""
  lower, text = [word.casefold() for word in words], text.casefold()
  matches = [k for k, word in enumerate(lower) if word == text]
  matches += [k for k, word in enumerate(lower) if text in word]
  matches += [lower.index(word) for word in difflib.get_close_matches(text, lower, count)]
  return list(dict.fromkeys(matches))[:count]


def misread(label: str, known: Mapping[str, int] | None = None) -> str:
  """Return a hint on a text that is not a single label id; empty if it may be one.

  Args:
    label: An entry of a list of ids.
    known: The known label ids. Without them, spaces and slashes count as part of a label.
  """
  if label in EMPTY:
    return f"programs write {label} for no label; leave the field empty"
  if label.startswith(("[", "{", "'", '"', "('")) or label.endswith(("]", "}", "'", '"')):
    return "write ids without brackets and inner quotes, such as dog,rain"
  for separator in (";", "|", "/", "\t", " "):
    parts = [part.strip() for part in label.split(separator)]
    parts = [part for part in parts if part]
    if len(parts) > 1 and (all(p in known for p in parts) if known else separator in ";|\t"):
      name = SEPARATORS.get(separator, f"{separator!r}" if separator != " " else "a space")
      return f'labels are separated by {name}; write commas, "{printable(",".join(parts), PART)}"'
  return ""


def about_label(ids: Sequence[str], names: Sequence[str], label: str) -> str:
  """Return a hint on a text that is not a known label id.

  Args:
    ids: The known label ids.
    names: The names of the labels.
    label: The unknown text.
  """
  index = {label_id: k for k, label_id in enumerate(ids)}
  if fault := misread(label, index):
    return fault
  if label.removesuffix(".0") in index:
    return f"did you mean {label.removesuffix('.0')}"
  folded = label.casefold()
  if named := [ids[k] for k, name in enumerate(names) if name.casefold() == folded]:
    return f"this is a name; write the id {' or '.join(named)}"
  near = list(dict.fromkeys([*nearest(ids, label, 2), *nearest(names, label, 2)]))
  shown = [ids[k] if ids[k] == names[k] else f"{ids[k]} ({names[k]})" for k in near]
  if shown:
    return f"did you mean {' or '.join(shown)}"
  return "fix the row or use the vocabulary that it was written for"


def about_columns(header: Sequence[str], missing: Iterable[str]) -> str:
  """Return a hint on a table with missing columns; empty if its form is not recognised.

  Args:
    header: The fields of the first line, without surrounding spaces.
    missing: The missing columns.
  """
  line, missing = ",".join(header), list(missing)
  if "\0" in line:
    return "it is UTF-16 text; save it as UTF-8"
  for separator, name in SEPARATORS.items():
    parts = {part.strip(' "').casefold() for part in line.split(separator)}
    if separator in line and (len(header) == 1 or parts & set(missing)):
      return f"columns are separated by {name}; write commas and quote fields that hold commas"
  lower = [name.casefold() for name in header]
  for layout, columns in TABLES.items():
    if columns <= {name.lstrip("# ") for name in lower}:
      return f"it looks like a table for --layout {layout}"
  renamed = []
  for column in missing:
    others = [name for name in OTHER_NAMES.get(column, ()) if name in lower]
    if similar := others or difflib.get_close_matches(column, lower, 1, 0.7):
      renamed.append(f"{header[lower.index(similar[0])]!r} to {column}")
  if renamed:
    return f"rename {', '.join(renamed)}"
  return ""
