"""Detections: when each label sounds, from the scores of a timeline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runtime.whole_files import csv_bytes
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.serving.timeline import Timeline, nearest_spans

CSV_COLUMNS = ("file", "start_s", "end_s", "mid", "display_name", "score")
RAVEN_COLUMNS = (
  *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)"),
  *("High Freq (Hz)", "Annotation", "Score"),
)
FORMATS = {  # the ending of the file, and its media type
  "csv": (".csv", "text/csv"),
  "jsonl": (".jsonl", "application/jsonl"),
  "raven": (".selections.txt", "text/plain"),
  "audacity": (".labels.txt", "text/plain"),
}


class Detection(NamedTuple):
  """A span of a sound, in seconds, in which a label sounds. The score is the highest in it."""

  start_s: float
  end_s: float
  id: str
  name: str
  score: float


class Rules(NamedTuple):
  """What counts as a detection.

  Attributes:
    least: float64[K], the score that each label must reach. NaN for labels that are not detected.
    release: A detection continues while the score is at least this share of `least`.
    seconds: The least length of a detection.
  """

  least: np.ndarray
  release: float = 0.5
  seconds: float = 0.0


def rules_of(tagger: Tagger, min_score: float | None, release: float, min_seconds: float) -> Rules:
  """Return the rules of the options; `min_score` defaults to the thresholds of the run, or .5.

  Raises:
    UserError: An option is out of its range.
  """
  for option, value, most in (("--min-score", min_score, 1), ("--release", release, 1)):
    if value is not None and not 0 < value <= most:
      raise UserError(f"{option} {value:g}: must be above 0 and at most {most}")
  if not 0 <= min_seconds < float("inf"):
    raise UserError(f"--min-seconds {min_seconds:g}: must be at least 0")
  least = tagger.thresholds if min_score is None else None
  if least is None:
    least = np.full(len(tagger.vocabulary), 0.5 if min_score is None else min_score)
  return Rules(least, release, min_seconds)


def detections(line: Timeline, vocabulary: Vocabulary, rules: Rules) -> list[Detection]:
  """Return the detections in a timeline, by start, then by label.

  Each row of the timeline stands for the time that is nearest to its middle. Rows whose scores
  reach `least * release` are joined if one of them reaches `least` (hysteresis).

  Args:
    line: Scores of N spans.
    vocabulary: The K labels.
    rules: What counts as a detection.
  """
  starts, ends = nearest_spans(line)
  found = []
  with np.errstate(invalid="ignore"):
    reached = line.scores >= rules.least
    going_on = line.scores >= rules.least * rules.release
  for k in np.flatnonzero(reached.any(axis=0)):
    edges = np.flatnonzero(np.diff(going_on[:, k], prepend=False, append=False))
    for first, after in edges.reshape(-1, 2):
      start, end = float(starts[first]), float(ends[after - 1])
      if reached[first:after, k].any() and end - start >= rules.seconds:
        score = float(line.scores[first:after, k].max())
        found.append(Detection(start, end, vocabulary.ids[k], vocabulary.names[k], score))
  return sorted(found, key=lambda one: (one.start_s, one.name, one.id))


def as_table(
  found: Iterable[Detection], kind: str, file: str, highest_hz: float
) -> list[list[str]]:
  """Return the rows of a table of detections, without its heading.

  Args:
    found: The detections in one file.
    kind: `csv`, `raven` or `audacity`.
    file: The name of the file.
    highest_hz: The highest frequency of the front end, for `raven`.
  """
  rows = []
  for number, one in enumerate(found, 1):
    times = [f"{one.start_s:.3f}", f"{one.end_s:.3f}"]
    name = " ".join(one.name.split())  # a tab or a line break would end the field
    if kind == "csv":
      rows.append([file, *times, one.id, one.name, f"{one.score:.6f}"])
    elif kind == "raven":
      band = ["0.0", f"{highest_hz:.1f}"]
      rows.append([str(number), "Spectrogram 1", "1", *times, *band, name, f"{one.score:.6f}"])
    else:
      rows.append([*times, f"{name} {one.score:.2f}"])
  return rows


def as_json_lines(found: Sequence[Detection], file: str) -> str:
  """Return one JSON object per detection, a line each."""
  return "".join(f"{json.dumps({'file': file} | one._asdict())}\n" for one in found)


def as_file(
  parts: Iterable[tuple[str, Sequence[Detection]]], kind: str, highest_hz: float
) -> bytes:
  """Return a file of detections.

  Args:
    parts: The names of sounds, and their detections; of one sound for `raven` and `audacity`.
    kind: One of `FORMATS`.
    highest_hz: See `as_table`.
  """
  if kind == "jsonl":
    return "".join(as_json_lines(found, file) for file, found in parts).encode()
  rows = [row for file, found in parts for row in as_table(found, kind, file, highest_hz)]
  if kind == "csv":
    return csv_bytes([CSV_COLUMNS, *rows])
  heading = [RAVEN_COLUMNS] if kind == "raven" else []
  return "".join("\t".join(row) + "\n" for row in [*heading, *rows]).encode()
