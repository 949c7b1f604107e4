"""F1 of detected events against annotated ones: segment-based and event-based.

Source:
  Mesaros, Heittola and Virtanen, Metrics for Polyphonic Sound Event Detection, Applied Sciences,
  2016, as used by the DCASE challenges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

Span = tuple[float, float]  # onset and offset, in seconds
SHARE_OF_LENGTH = 0.5  # of an event, by which its offset may differ
TOLERANCE = 1e-9  # for sums of times that are not exact in binary


class EventCounts(NamedTuple):
  """Numbers of true positives, false positives and false negatives, int[...] each."""

  hits: np.ndarray
  false_alarms: np.ndarray
  misses: np.ndarray

  def f1(self) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN), NaN where all are 0."""
    total = 2 * self.hits + self.false_alarms + self.misses
    return np.where(total > 0, 2 * self.hits / np.where(total > 0, total, 1), np.nan)

  def precision(self) -> np.ndarray:
    """Return TP / (TP + FP), NaN where both are 0."""
    return _share(self.hits, self.false_alarms)

  def recall(self) -> np.ndarray:
    """Return TP / (TP + FN), NaN where both are 0."""
    return _share(self.hits, self.misses)


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
  total = part + rest
  return np.where(total > 0, part / np.where(total > 0, total, 1), np.nan)


def added(counts: Sequence[EventCounts]) -> EventCounts:
  """Return the sums of counts of equal shape."""
  return EventCounts(*(np.sum(column, axis=0) for column in zip(*counts)))


def segment_counts(reference: Sequence[Span], found: Sequence[Span], segment: float) -> EventCounts:
  """Return the counts of one label in one file over segments from its start.

  A label is active in a segment if an event overlaps it.

  Args:
    reference: The annotated events.
    found: The detected events.
    segment: The length of a segment, in seconds.
  """
  rows = [_active(spans, segment) for spans in (reference, found)]
  size = max(map(len, rows))
  there, heard = (np.pad(row, (0, size - len(row))) for row in rows)
  return EventCounts(*(np.sum(x) for x in (there & heard, ~there & heard, there & ~heard)))


def _active(spans: Sequence[Span], segment: float) -> np.ndarray:
  """Return which segments have an event, bool[n], up to the last one that has."""
  bounds = [
    (math.floor(onset / segment + TOLERANCE), math.ceil(offset / segment - TOLERANCE))
    for onset, offset in spans
  ]
  active = np.zeros(max((end for _, end in bounds), default=0), bool)
  for start, end in bounds:
    active[start:end] = True
  return active


def event_counts(
  reference: Sequence[Span],
  found: Sequence[Span],
  collar: float,
  *,
  with_offset: bool = True,
) -> EventCounts:
  """Return the counts of one label in one file over events.

  A detected event matches an annotated one if their onsets differ by at most the collar and, with
  `with_offset`, their offsets by at most the collar or half of the annotated event, whichever is
  longer. Each event matches at most one other, so that as many as possible match.

  Args:
    reference: The annotated events.
    found: The detected events.
    collar: The collar, in seconds.
    with_offset: Whether offsets must match too.
  """
  starts, ends = np.array(found, np.float64).reshape(-1, 2).T
  pairs = np.zeros((len(reference), len(found)), bool)
  for row, (onset, offset) in zip(pairs, reference):
    row[:] = np.abs(starts - onset) <= collar + TOLERANCE
    if with_offset:
      most = max(collar, SHARE_OF_LENGTH * (offset - onset)) + TOLERANCE
      row &= np.abs(ends - offset) <= most
  matched = 0
  if pairs.any():
    partners = maximum_bipartite_matching(csr_array(pairs.astype(np.int8)), perm_type="column")
    matched = int((partners >= 0).sum())
  return EventCounts(
    np.array(matched), np.array(len(found) - matched), np.array(len(reference) - matched)
  )
