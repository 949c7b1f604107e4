"""Scores of detections against tables of events, for `atgcn detect --score`."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from atgcn_jax.audio.folders import contents
from atgcn_jax.data.layouts.event_files import SoundNames, events_of
from atgcn_jax.data.layouts.event_tables import Event
from atgcn_jax.errors import PART, UserError, counted, printable
from atgcn_jax.event_metrics import EventCounts, Span, added, event_counts, segment_counts
from atgcn_jax.labels.summary import find_label
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.serving.detections import Detection

SEGMENT_SECONDS = 1.0
COLLAR_SECONDS = 0.2
TABLES = (".txt", ".csv", ".tsv")
KINDS = {
  "segment": "segments",
  "event": "events, onset and offset",
  "onset": "events, onset only",
}

Events = dict[str, dict[int, list[Span]]]  # by sound, then by label


class Reference:
  """Annotated events of sounds.

  Attributes:
    labels: The positions of the labels in the tables.
    events: The events of each sound that the tables name, by label.
    unknown: The labels in the tables that are not in the vocabulary.
    absent: The files in the tables that are not among the sounds, and the tables that name no file
      and that no sound is named like.
  """

  def __init__(self, tables: Sequence[str], sounds: Sequence[str], vocabulary: Vocabulary):
    """Read the events.

    Args:
      tables: Tables of events, or folders of them (`read_events`). A table without a column of
        files is that of the sound whose name, with or without suffix, its own name starts with. If
        it is empty, each detection in the sound is a false alarm.
      sounds: The paths of the sounds. Tables name them by path or by the end of it.
      vocabulary: The labels. Tables have ids or names.

    Raises:
      UserError: If a table cannot be used, or no event of a known label is in one of the sounds.
    """
    self.events: Events = {}
    self.unknown: collections.Counter[str] = collections.Counter()
    self.absent: dict[str, None] = {}
    self._sounds, self._vocabulary = sounds, vocabulary
    self._known: dict[str, int | None] = {}
    names = SoundNames(sounds)
    for path in table_files(tables):
      for event, sound in events_of(path, names, otherwise=os.path.basename(path)):
        self._add(event, sound)
    self.labels = sorted({k for found in self.events.values() for k in found})
    if not self.labels:
      labels = printable(", ".join(list(self.unknown)[:3]), PART)
      files = printable(", ".join(list(self.absent)[:3]), PART)
      why = f"; unknown labels: {labels}" if labels else ""
      why += f"; other files: {files}" if files else ""
      raise UserError(f"--score {tables[0]}: no event of a known label in one of the sounds{why}")

  def _add(self, event: Event, sound: str) -> None:
    if not sound:
      self.absent[event.file] = None
      return
    spans = self.events.setdefault(sound, {})
    if math.isnan(event.onset):
      return
    if event.label not in self._known:
      self._known[event.label] = _position(self._vocabulary, event.label)
    label = self._known[event.label]
    if label is None:
      self.unknown[event.label] += 1
    else:
      spans.setdefault(label, []).append((event.onset, event.offset))

  def remarks(self) -> list[str]:
    """Return lines about what is not scored."""
    lines = []
    if self.unknown:
      shown = printable(", ".join(list(self.unknown)[:3]), PART)
      lines.append(
        f"left out: {counted(self.unknown.total(), 'event', 'events')} of labels that the system "
        f"does not have: {shown}"
      )
    if self.absent:
      shown = printable(", ".join(list(self.absent)[:3]), PART)
      files = counted(len(self.absent), "file of the tables is", "files of the tables are")
      lines.append(f"{files} not among the sounds: {shown}")
    if others := [sound for sound in self._sounds if sound not in self.events]:
      lines.append(
        f"{counted(len(others), 'sound is', 'sounds are')} in no table and not scored: "
        f"{printable(others[0], PART)}"
      )
    return lines


def score_detections(
  found: Mapping[str, Iterable[Detection]],
  reference: Reference,
  vocabulary: Vocabulary,
  *,
  collar: float = COLLAR_SECONDS,
  segment: float = SEGMENT_SECONDS,
) -> dict[str, Any]:
  """Return the F1 of detections, for the labels and the sounds in the tables.

  Args:
    found: The detections of each sound.
    reference: The annotated events.
    vocabulary: The labels.
    collar: See `event_counts`, in seconds.
    segment: See `segment_counts`, in seconds.

  Returns:
    `collar_s`, `segment_s`, `sounds`, `overall` and `labels`, which maps the id of each label to
    its scores and `name`. Scores are `segment`, `event` (onset and offset) and `onset`, each with
    `f1`, `precision` and `recall`, None where undefined, and `hits`, `false_alarms` and `misses`.
    `overall` is over all labels together (micro average); it also has `mean_f1`, the mean over the
    labels (macro average).
  """
  sounds = [sound for sound in reference.events if sound in found]
  spans: dict[str, dict[str, list[Span]]] = {}
  for sound in sounds:
    of_label = spans.setdefault(sound, {})
    for one in found[sound]:
      of_label.setdefault(one.id, []).append((one.start_s, one.end_s))
  counts: dict[str, list[EventCounts]] = {kind: [] for kind in KINDS}
  for k in reference.labels:
    pairs = [
      (reference.events[sound].get(k, []), spans[sound].get(vocabulary.ids[k], []))
      for sound in sounds
    ]
    counts["segment"].append(added([segment_counts(*pair, segment) for pair in pairs]))
    counts["event"].append(added([event_counts(*pair, collar) for pair in pairs]))
    counts["onset"].append(
      added([event_counts(*pair, collar, with_offset=False) for pair in pairs])
    )
  overall = {}
  for kind, of_labels in counts.items():
    means = [float(one.f1()) for one in of_labels if not np.isnan(one.f1())]
    mean = float(np.mean(means)) if means else None
    overall[kind] = _as_json(added(of_labels)) | {"mean_f1": mean}
  return {
    "collar_s": collar,
    "segment_s": segment,
    "sounds": len(sounds),
    "overall": overall,
    "labels": {
      vocabulary.ids[k]: {"name": vocabulary.names[k]}
      | {kind: _as_json(counts[kind][i]) for kind in KINDS}
      for i, k in enumerate(reference.labels)
    },
  }


def scores_text(result: dict[str, Any]) -> str:
  """Return the result of `score_detections` as a table."""
  lines = [
    f"F1 of {len(result['labels'])} labels in {result['sounds']} sounds: segments of "
    f"{result['segment_s']:g} s; events with a collar of {result['collar_s'] * 1000:g} ms",
    " segment    event    onset  label",
  ]
  overall = result["overall"]
  rows = [
    ("all together", [overall[kind]["f1"] for kind in KINDS]),
    ("mean of the labels", [overall[kind]["mean_f1"] for kind in KINDS]),
    *((one["name"], [one[kind]["f1"] for kind in KINDS]) for one in result["labels"].values()),
  ]
  for name, values in rows:
    cells = ["–" if value is None else f"{value:.3f}" for value in values]
    lines.append(" ".join(f"{cell:>8}" for cell in cells) + f"  {name:.70}")
  return "\n".join(lines)


def _as_json(counts: EventCounts) -> dict[str, Any]:
  values = {"f1": counts.f1(), "precision": counts.precision(), "recall": counts.recall()}
  return {name: None if np.isnan(value) else float(value) for name, value in values.items()} | {
    name: int(value) for name, value in counts._asdict().items()
  }


def table_files(tables: Sequence[str]) -> list[str]:
  """Return the tables, with those in a folder in its place, except hidden files.

  Raises:
    UserError: If a folder has none.
  """
  files: list[str] = []
  for table in tables:
    if not os.path.isdir(table):
      files.append(table)
      continue
    inside = [os.path.join(table, path) for path in contents(table, TABLES).files]
    if not inside:
      raise UserError(f"--score {table}: has no {', '.join(TABLES)}; name a folder of tables")
    files += inside
  return files


def _position(vocabulary: Vocabulary, label: str) -> int | None:
  """Return the position of a label, by id or name, or None."""
  try:
    return find_label(vocabulary, label)
  except UserError:
    return None
