"""F1 of events against slow references and against another implementation."""

import itertools

import numpy as np
import pytest

from atgcn_jax.event_metrics import Counts, added, event_counts, segment_counts


def drawn(random, count):
  """Return events on a grid of 50 ms within ten seconds, away from ties of the conditions."""
  onsets = random.integers(0, 190, count) * 0.05 + 0.011
  return [(float(on), float(on + length)) for on, length in zip(onsets, random.random(count) + 0.1)]


def test_segments_against_a_fine_grid():
  random = np.random.default_rng(0)
  for _ in range(20):
    reference, found = drawn(random, random.integers(0, 6)), drawn(random, random.integers(0, 6))
    middles = np.arange(0, 12, 0.002) + 0.001
    rows = []
    for spans in (reference, found):
      inside = np.zeros(len(middles), bool)
      for onset, offset in spans:
        inside |= (middles > onset) & (middles < offset)
      rows.append(inside.reshape(-1, 250).any(axis=1))  # segments of half a second
    there, heard = rows
    counts = segment_counts(reference, found, 0.5)
    expected = ((there & heard).sum(), (~there & heard).sum(), (there & ~heard).sum())
    assert tuple(map(int, counts)) == expected


@pytest.mark.parametrize("with_offset", [False, True])
def test_events_against_all_assignments(with_offset):
  random = np.random.default_rng(1)
  matched = 0
  for _ in range(60):
    reference, found = drawn(random, 4), drawn(random, 4)
    found[:3] = [(a + random.normal(0, 0.2), b + random.normal(0, 0.3)) for a, b in reference[:3]]

    def fits(event, detection):
      (onset, offset), (start, end) = event, detection
      most = max(0.2, 0.5 * (offset - onset))
      return abs(onset - start) <= 0.2 and (not with_offset or abs(offset - end) <= most)

    best = max(sum(map(fits, reference, order)) for order in itertools.permutations(found))
    counts = event_counts(reference, found, 0.2, with_offset=with_offset)
    assert tuple(map(int, counts)) == (best, 4 - best, 4 - best)
    matched += best
  assert matched > 50


def test_times_on_the_bounds_count():
  assert event_counts([(0.3, 0.9)], [(0.1, 1.2)], 0.2).hits == 1  # 0.3 - 0.1 is above 0.2 in binary
  counts = segment_counts([(0.6, 0.9)], [(0.0, 0.6)], 0.2)  # 0.6 / 0.2 is below 3 in binary
  assert tuple(map(int, counts)) == (0, 3, 2)


def test_nothing_is_undefined():
  counts = added([segment_counts([], [], 1.0), event_counts([], [], 0.2)])
  assert tuple(map(int, counts)) == (0, 0, 0)
  assert np.isnan([counts.f1(), counts.precision(), counts.recall()]).all()


def test_f1_precision_and_recall():
  counts = Counts(np.array([3, 0]), np.array([1, 2]), np.array([2, 0]))
  np.testing.assert_allclose(counts.f1(), [6 / 9, 0])
  np.testing.assert_allclose(counts.precision(), [0.75, 0])
  np.testing.assert_allclose(counts.recall(), [0.6, np.nan])
