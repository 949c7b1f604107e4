"""What to do about a label or a column that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

# What programs write into empty fields.
EMPTY = {"nan", "NaN", "NAN", "None", "null", "NULL", "NA", "N/A", "<NA>", "#N/A"}
SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}
# Columns of other tables that hold what a column of a label list does.
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
TABLES = {
  "esc50": {"filename", "fold", "category", "esc10"},
  "sonyc": {"split", "audio_filename", "annotator_id"},
  "segments": {"ytid", "start_seconds"},
}


def nearest(words: Sequence[str], text: str, count: int = 3) -> list[int]:
  """Return where in a list the words stand that contain a text or are like it, the best first."""
  lower, text = [word.casefold() for word in words], text.casefold()
  found = [k for k, word in enumerate(lower) if word == text]
  found += [k for k, word in enumerate(lower) if text in word]
  found += [lower.index(word) for word in difflib.get_close_matches(text, lower, count)]
  return list(dict.fromkeys(found))[:count]


def misread(label: str, known: Mapping[str, int] | None = None) -> str:
  """Return what is wrong with a text that is no single label; empty if it may be one.

  Args:
    label: an entry of a list of ids.
    known: ids of labels; without them blanks are taken for part of a label.
  """
  if label in EMPTY:
    return f"programs write {label} for no label; leave the field empty"
  if label.startswith(("[", "{", "'", '"', "('")) or label.endswith(("]", "}", "'", '"')):
    return "write ids without brackets and inner quotes, such as dog,rain"
  for separator in (";", "|", "/", "\t", " "):
    parts = [part.strip() for part in label.split(separator)]
    parts = [part for part in parts if part]
    if len(parts) > 1 and (all(p in known for p in parts) if known else separator in ";|\t"):
      name = SEPARATORS.get(separator, f"{separator!r}" if separator != " " else "a blank")
      return f'labels are separated by {name}; write commas, "{",".join(parts)}"'
  return ""


def about_label(ids: Sequence[str], names: Sequence[str], label: str) -> str:
  """Return what to do about a text that is none of K label ids, from their ids and names."""
  index = {label_id: k for k, label_id in enumerate(ids)}
  if fault := misread(label, index):
    return fault
  if label.removesuffix(".0") in index:
    return f"did you mean {label.removesuffix('.0')}"
  folded = label.casefold()
  if named := [ids[k] for k, name in enumerate(names) if name.casefold() == folded]:
    return f"that is a name; write the id {' or '.join(named)}"
  near = list(dict.fromkeys([*nearest(ids, label, 2), *nearest(names, label, 2)]))
  shown = [ids[k] if ids[k] == names[k] else f"{ids[k]} ({names[k]})" for k in near]
  if shown:
    return f"did you mean {' or '.join(shown)}"
  return "fix the row or use the vocabulary it was written for"


def about_columns(header: Sequence[str], missing: Iterable[str], row: Iterable[str]) -> str:
  """Return what to do about a table without some columns; empty if nothing is recognised.

  Args:
    header: the fields of its first line, trimmed.
    missing: the columns that are looked for and are not there.
    row: the fields of its first row.
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
    if found := others or difflib.get_close_matches(column, lower, 1, 0.7):
      renamed.append(f"{header[lower.index(found[0])]!r} to {column}")
  if renamed:
    return f"rename {', '.join(renamed)}"
  ones = [name for name, value in zip(header, row) if value.strip() in ("0", "1", "0.0", "1.0")]
  ones = [name for name in ones if name.casefold() != "fold"]
  if missing == ["positive_labels"] and ones:
    return (
      f"{', '.join(ones[:3])} look like a column a label; "
      "write the ids of each file's labels into positive_labels"
    )
  return ""
