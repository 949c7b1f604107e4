"""A data card as files: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from atgcn_jax.errors import UserError


def write_data_card(out: str | os.PathLike, card: dict[str, Any]) -> list[str]:
  """Writes `STORE-card.json` and `STORE-card.md`, each whole or not at all; returns their paths.

  Args:
    out: The folder, made where absent.
    card: What `data_card` gives.

  Raises:
    UserError: A file cannot be written.
  """
  stem = pathlib.Path(card["store"]).stem
  texts = {
    f"{stem}-card.json": json.dumps(card, indent=2, ensure_ascii=False) + "\n",
    f"{stem}-card.md": card_markdown(card),
  }
  paths = []
  for name, text in texts.items():
    path = pathlib.Path(out) / name
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      temporary.write_text(text, encoding="utf-8", newline="\n")
      os.replace(temporary, path)
    except OSError as error:
      raise UserError(
        f"--out {out}: {name} cannot be written ({error.strerror}); name another folder"
      ) from error
    finally:
      if temporary.exists():
        temporary.unlink()
    paths.append(str(path))
  return paths


def card_markdown(card: dict[str, Any]) -> str:
  """The card as Markdown."""
  frontend = card["frontend"]
  sections = [
    f"# Data card of {_cell(card['store'])}",
    _table(
      ("what", "value"),
      [
        ("clips", card["clips"]),
        ("SHA-256 of the clip ids", card["clip_ids_sha256"]),
        ("SHA-256 of the content", card["content_sha256"]),
        ("front end", f"{frontend['name']}, {frontend['seconds']:g} s a clip"),
        ("log-mels stored as", card["stored_as"]),
      ],
    ),
    "The hash of the clip ids is that of the sorted ids, a line each. Figures compare only where "
    "the hash of the evaluated clips, which `atgcn evaluate` states, is the same.",
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
  head = ("list", "segments", "present", "share", "clips of it", "in folds", "rows left out")
  return ["## Official lists", _table(head, rows)]


def _sound(card: dict[str, Any]) -> list[str]:
  """Durations, rates, and clips that are silent, broken or there twice."""
  durations, rates = card["durations"], card["rates_hz"]
  parts = ["## Sound"]
  if durations is None:
    parts.append("The store does not say how long its files were.")
  else:
    keys = ("min", "lower_quartile", "median", "upper_quartile", "max")
    rows = [(key.replace("_", " "), f"{durations[key]:.2f} s") for key in keys if key in durations]
    shorter = f"shorter than a clip of {durations['clip_seconds']:g} s"
    counts = [
      (shorter, durations["shorter_than_a_clip"]),
      ("longer than a clip", durations["longer_than_a_clip"]),
      ("not used of longer files", f"{durations['seconds_not_used']:.2f} s"),
      ("unknown", durations["unknown"]),
    ]
    parts.append(_table(("duration of the files", ""), [*rows, *counts]))
  if rates is None:
    parts.append("The store does not say which rates its files had.")
  else:
    known = [(f"{rate} Hz" if rate != "0" else "unknown", n) for rate, n in rates.items()]
    parts.append(_table(("rate of the files", "clips"), known))
  parts.append(_findings(card["findings"]))
  for key, what in (
    ("silent", "Silent clips, with a log-mel of one value throughout"),
    ("not_finite", "Clips with a log-mel that is not finite"),
  ):
    parts.append(f"{what}: {_told(card[key])}")
  for key, what in (
    ("duplicates", "Duplicates, with the same stored log-mel (silent clips aside)"),
    ("duplicates_across_folds", "Of these in more than one fold, which leaks"),
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
  """What is wrong with the sound of files that are used."""
  if found is None:
    return "The store does not say which files were incomplete, silent, out of range or phase."
  incomplete = found["incomplete"]
  missing = f"incomplete, {incomplete['seconds']:.2f} s missing"
  if incomplete["seconds_not_known"]:
    missing += f" and more of {incomplete['seconds_not_known']}"
  names = {
    missing: incomplete,
    "silent": found["silent"],
    "out of range (float samples far above 1)": found["out_of_range"],
    "out of phase (channels that cancel)": found["out_of_phase"],
  }
  rows = [
    (what, _told({"count": one["clips"], "first": one["first"]})) for what, one in names.items()
  ]
  return _table(("sound of the files", "clips"), [*rows, ("not known", found["not_known"])])


def _labels(card: dict[str, Any]) -> list[str]:
  labels, ratings = card["labels"], card["ratings"]
  mean = labels["per_clip_mean"]
  parts = [
    "## Labels",
    f"{labels['classes']} classes, {labels['positives']} labels, "
    f"{'–' if mean is None else f'{mean:.3f}'} a clip on average.",
    _table(("labels in a clip", "clips"), labels["per_clip"].items()),
    f"Labels without a clip: {_told(labels['without_a_clip'])}",
  ]
  if ratings:
    by_class, by_label = (
      "–" if ratings[key] is None else f"{ratings[key]:.1%}"
      for key in ("mean_by_class", "mean_by_label")
    )
    parts.append(
      f"Labels that are true, as raters estimate: {by_class} as a mean of "
      f"{ratings['classes_rated']} rated classes, {by_label} as a mean of the store's labels. "
      f"Classes not rated: {_told(ratings['classes_not_rated'])}"
    )
  return parts


def _classes(card: dict[str, Any]) -> str:
  head = ["label", "id", "clips"]
  for one in card["lists"]:
    head += [f"present of {one['list']}", "share"]
  if card["ratings"]:
    head += ["true of rated", "quality"]
  rows = []
  for one in card["classes"]:
    row = [one["name"], one["id"], one["clips"]]
    for present, listed in zip(one["present"], one["listed"]):
      row += [f"{present} of {listed}", f"{present / listed:.1%}" if listed else "–"]
    if card["ratings"]:
      quality = one["quality"]
      row += [f"{one['true']} of {one['rated']}", "–" if quality is None else f"{quality:.0%}"]
    rows.append(row)
  return _table(head, rows)


def _told(some: dict[str, Any]) -> str:
  if not some["count"]:
    return "none."
  names = ", ".join(map(_cell, some["first"]))
  rest = some["count"] - len(some["first"])
  return f"{some['count']} ({names}{f' and {rest} more' if rest else ''})."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
  """Text that stays in its cell."""
  return " ".join(str(value).replace("|", "\\|").split())
