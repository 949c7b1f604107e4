"""F1 of events against slow references and against another implementation."""

import itertools

import numpy as np
import pytest

from atgcn_jax.event_metrics import EventCounts, added, event_counts, segment_counts

# Events of two labels in three files, annotated and detected.
EVENTS = {
  ("a", "x"): ([(2.572, 2.753), (4.638, 5.313), (7.271, 7.984)], [(2.684, 3.407), (4.453, 4.93)]),
  ("a", "y"): (
    [(3.532, 3.723), (4.437, 5.37), (6.09, 6.597), (7.598, 9.017)],
    [(3.593, 4.055), (4.398, 4.978), (5.897, 6.605), (7.552, 8.598), (6.45, 7.45)],
  ),
  ("b", "x"): ([(1.341, 2.489)], [(1.448, 1.69), (6.399, 7.399)]),
  ("b", "y"): ([(4.557, 5.011), (4.564, 4.686)], [(4.387, 4.981)]),
  ("c", "x"): (
    [(2.161, 3.373), (5.005, 6.117), (8.428, 9.554)],
    [(2.07, 3.345), (4.946, 6.193), (8.519, 9.408), (6.383, 7.383)],
  ),
  ("c", "y"): ([(3.424, 4.443), (6.419, 7.931)], [(6.564, 7.787)]),
}
# F1 of both labels together, of x and of y, as sed_eval 0.2.1 computed it from these events, with
# segments of 1 s, a collar of 0.2 s, half the length of an event for its offset, and optimal
# matching. Its results of 0.7499… and the like are written as fractions.
SED_EVAL = {
  "segment": (0.75, 9 / 13, 9 / 11),
  "event": (8 / 15, 0.4, 2 / 3),
  "onset": (0.8, 0.8, 0.8),
}


@pytest.mark.parametrize("kind", SED_EVAL)
def test_scores_are_those_of_sed_eval(kind):
  def counts(reference, found):
    if kind == "segment":
      return segment_counts(reference, found, 1.0)
    return event_counts(reference, found, 0.2, with_offset=kind == "event")

  of_labels = [
    added([counts(*pair) for (_, label), pair in EVENTS.items() if label == name]) for name in "xy"
  ]
  found = (added(of_labels).f1(), *(one.f1() for one in of_labels))
  np.testing.assert_allclose(found, SED_EVAL[kind], atol=1e-12)


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


def test_many_events():
  events = [(float(k), k + 0.5) for k in range(6000)]
  late = [(onset + 0.3 * (k % 3 == 0), offset) for k, (onset, offset) in enumerate(events)]
  assert event_counts(events, events, 0.2).hits == 6000
  assert event_counts(events, late, 0.2).hits == 4000


def test_times_on_the_bounds_count():
  assert event_counts([(0.3, 0.9)], [(0.1, 1.2)], 0.2).hits == 1  # 0.3 - 0.1 is above 0.2 in binary
  counts = segment_counts([(0.6, 0.9)], [(0.0, 0.6)], 0.2)  # 0.6 / 0.2 is below 3 in binary
  assert tuple(map(int, counts)) == (0, 3, 2)


def test_nothing_is_undefined():
  counts = added([segment_counts([], [], 1.0), event_counts([], [], 0.2)])
  assert tuple(map(int, counts)) == (0, 0, 0)
  assert np.isnan([counts.f1(), counts.precision(), counts.recall()]).all()


def test_f1_precision_and_recall():
  counts = EventCounts(np.array([3, 0]), np.array([1, 2]), np.array([2, 0]))
  np.testing.assert_allclose(counts.f1(), [6 / 9, 0])
  np.testing.assert_allclose(counts.precision(), [0.75, 0])
  np.testing.assert_allclose(counts.recall(), [0.6, np.nan])
