"""A data card as a JSON file and a Markdown file."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from atgcn_jax.runtime.whole_files import write_output


def write_data_card(out: str | os.PathLike, card: dict[str, Any]) -> list[str]:
  """Write `STORE-card.json` and `STORE-card.md`, each atomically, and return their paths.

  Args:
    out: The folder. It is made if it does not exist.
    card: The result of `data_card`.

  Raises:
    UserError: If a file cannot be written.
  """
  name = card["store"]
  # The name of a dataset is that of two folders, such as audioset/1.0.0.
  stem = name.replace("/", "-") if "/" in name else pathlib.Path(name).stem
  texts = {
    f"{stem}-card.json": json.dumps(card, indent=2, ensure_ascii=False) + "\n",
    f"{stem}-card.md": card_markdown(card),
  }
  paths = [str(pathlib.Path(out) / name) for name in texts]
  for path, text in zip(paths, texts.values()):
    write_output(path, text.encode())
  return paths


def card_markdown(card: dict[str, Any]) -> str:
  """Return the data card as Markdown."""
  frontend = card["frontend"]
  sections = [
    f"# Data card of {_cell(card['store'])}",
    _table(
      ("property", "value"),
      [
        ("clips", card["clips"]),
        ("SHA-256 of the clip ids", card["clip_ids_sha256"]),
        ("SHA-256 of the content", card["content_sha256"]),
        ("front end", f"{frontend['name']}, {frontend['seconds']:g} s per clip"),
        ("log-mels stored as", card["stored_as"]),
      ],
    ),
    "The hash of the clip ids is the SHA-256 of the sorted ids, one per line. Results are only "
    "comparable if the hashes of the evaluated clips, which `atgcn evaluate` reports, are equal.",
    "## Folds",
    _table(
      ("fold", "clips", "SHA-256 of the clip ids"),
      [(fold, *of_fold.values()) for fold, of_fold in card["folds"].items()],
    ),
    *_lists(card["lists"]),
    *_sound(card),
    *_labels(card),
    "## Classes",
    _classes(card),
  ]
  return "\n\n".join(sections) + "\n"


def _lists(lists: Sequence[dict[str, Any]]) -> list[str]:
  if not lists:
    return []
  rows = []
  for one in lists:
    folds = ", ".join(f"{fold} {n}" for fold, n in one["clips_matched_by_fold"].items() if n)
    left = one["broken_rows"] + one["repeated_rows"]
    share = f"{one['present'] / one['segments']:.2%}"
    rows.append(
      (one["list"], one["segments"], one["present"], share, one["clips_matched"], folds, left)
    )
  head = (
    "list",
    "segments",
    "segments in the store",
    "share",
    "matching clips",
    "matching clips per fold",
    "ignored rows",
  )
  return ["## Official lists", _table(head, rows)]


def _sound(card: dict[str, Any]) -> list[str]:
  """Return durations, sample rates, findings, and silent, non-finite and duplicate clips."""
  durations, rates = card["durations"], card["rates_hz"]
  parts = ["## Sound"]
  if durations is None:
    parts.append("The store has no durations of its files.")
  else:
    keys = ("min", "lower_quartile", "median", "upper_quartile", "max")
    rows = [(key.replace("_", " "), f"{durations[key]:.2f} s") for key in keys if key in durations]
    shorter = f"shorter than a clip of {durations['clip_seconds']:g} s"
    counts = [
      (shorter, durations["shorter_than_a_clip"]),
      ("longer than a clip", durations["longer_than_a_clip"]),
      ("total length of unused ends of longer ones", f"{durations['seconds_not_used']:.2f} s"),
      ("unknown", durations["unknown"]),
    ]
    parts.append(
      _table(("duration of the sounds (files or pieces of files)", ""), [*rows, *counts])
    )
  if rates is None:
    parts.append("The store has no sample rates of its files.")
  else:
    known = [(f"{rate} Hz" if rate != "0" else "unknown", n) for rate, n in rates.items()]
    parts.append(_table(("sample rate of the files", "clips"), known))
  parts.append(_findings(card["findings"]))
  for key, what in (
    ("silent", "Silent clips (all values of the log-mel are equal)"),
    ("not_finite", "Clips with NaN or infinite values in the log-mel"),
  ):
    parts.append(f"{what}: {_listed(card[key])}")
  for key, what in (
    ("duplicates", "Duplicates (same stored log-mel, except silent clips)"),
    ("duplicates_across_folds", "Duplicates in more than one fold (leakage between folds)"),
  ):
    found = card[key]
    parts.append(f"{what}: clips {found['clips']}, groups {found['groups']}.")
    if found["first"]:
      parts.append(
        "\n".join(
          "- " + ", ".join(f"{_cell(clip['id'])} ({_cell(clip['fold'])})" for clip in group)
          for group in found["first"]
        )
      )
  return parts


def _findings(found: dict[str, Any] | None) -> str:
  """Return a table of the findings about the files of the clips."""
  if found is None:
    return "The store has no findings about incomplete, silent, out-of-range or out-of-phase files."
  incomplete = found["incomplete"]
  missing = f"incomplete, {incomplete['seconds']:.2f} s missing"
  if incomplete["seconds_not_known"]:
    missing += f"; unknown length: {incomplete['seconds_not_known']}"
  names = {
    missing: incomplete,
    "silent": found["silent"],
    "out of range (float samples far above 1)": found["out_of_range"],
    "out of phase (channels that cancel)": found["out_of_phase"],
  }
  rows = [
    (what, _listed({"count": one["clips"], "first": one["first"]})) for what, one in names.items()
  ]
  return _table(("sound of the files", "clips"), [*rows, ("not known", found["not_known"])])


def _labels(card: dict[str, Any]) -> list[str]:
  labels, ratings = card["labels"], card["ratings"]
  mean = labels["per_clip_mean"]
  parts = [
    "## Labels",
    f"{labels['classes']} classes, {labels['positives']} labels, "
    f"{'–' if mean is None else f'{mean:.3f}'} per clip on average.",
    _table(("labels per clip", "clips"), labels["per_clip"].items()),
    f"Labels without a clip: {_listed(labels['without_a_clip'])}",
  ]
  if ratings:
    by_class, by_label = (
      "–" if ratings[key] is None else f"{ratings[key]:.1%}"
      for key in ("mean_by_class", "mean_by_label")
    )
    parts.append(
      f"Share of true labels as estimated by raters: {by_class} as a mean over "
      f"{ratings['classes_rated']} rated classes, {by_label} as a mean over the labels in the "
      f"store. Classes without ratings: {_listed(ratings['classes_not_rated'])}"
    )
  return parts


def _classes(card: dict[str, Any]) -> str:
  head = ["label", "id", "clips", *(f"in fold {fold}" for fold in card["folds"])]
  for one in card["lists"]:
    head += [f"in the store, of {one['list']}", "share"]
  if card["ratings"]:
    head += ["true, of rated", "quality"]
  rows = []
  for one in card["classes"]:
    row = [one["name"], one["id"], one["clips"], *one["clips_by_fold"].values()]
    for present, listed in zip(one["present"], one["listed"]):
      row += [f"{present} of {listed}", f"{present / listed:.1%}" if listed else "–"]
    if card["ratings"]:
      quality = one["quality"]
      row += [f"{one['true']} of {one['rated']}", "–" if quality is None else f"{quality:.0%}"]
    rows.append(row)
  return _table(head, rows)


def _listed(some: dict[str, Any]) -> str:
  if not some["count"]:
    return "none."
  names = ", ".join(map(_cell, some["first"]))
  rest = some["count"] - len(some["first"])
  return f"{some['count']} ({names}{f' and {rest} more' if rest else ''})."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
  """Return text that fits in one table cell."""
  return " ".join(str(value).replace("|", "\\|").split())
