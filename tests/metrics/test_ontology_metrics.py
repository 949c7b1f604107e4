"""Ontology-aware mAP, against a slow reference in plain Python."""

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import (
  label_ancestors,
  label_distances,
  label_levels,
  ontology_of,
)
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.ontology_metrics import carried_up, map_by_level, ontology_map

NODES = [
  {"id": "top", "name": "Top", "child_ids": ["a", "b"]},
  {"id": "a", "name": "A", "child_ids": ["c", "d"]},
  {"id": "b", "name": "B", "child_ids": ["d"]},
  {"id": "c", "name": "C", "child_ids": []},
  {"id": "d", "name": "D", "child_ids": []},
  {"id": "alone", "name": "Alone", "child_ids": []},
]
ONTOLOGY, IDS = ontology_of(NODES), ["a", "c", "b", "d", "alone"]


def slow_ontology_map(scores, labels, distances):
  """Return the values by level, label by label and threshold by threshold."""
  clips, size = scores.shape
  values = []
  for level in range(distances.max() + 1):
    masked = [[d if d > level else 0 for d in row] for row in distances.tolist()]
    pairs = [masked[i][j] for i in range(size) for j in range(size) if i != j]
    mean = sum(pairs) / len(pairs) or 1
    precisions = []
    for k in range(size):
      positives = [n for n in range(clips) if labels[n, k]]
      if not positives:
        continue
      total = 0.0
      for positive in positives:
        hits = [n for n in positives if scores[n, k] >= scores[positive, k]]
        misses = 0.0
        for n in range(clips):
          if not labels[n, k] and scores[n, k] >= scores[positive, k]:
            own = [masked[j][k] for j in range(size) if labels[n, j]]
            misses += min(own, default=max(masked[j][k] for j in range(size))) / mean
        total += len(hits) / (len(hits) + misses)
      precisions.append(total / len(positives))
    values.append(sum(precisions) / len(precisions))
  return values


@pytest.mark.parametrize("seed", range(3))
def test_ontology_map_is_that_of_the_slow_reference(seed):
  rng = np.random.default_rng(seed)
  scores = np.round(rng.random((40, 5)), 1)  # with ties
  labels = rng.random((40, 5)) < 0.25
  labels[:, 2] = False  # a label without positives
  distances = label_distances(ONTOLOGY, IDS)
  found = ontology_map(scores, labels, distances)
  expected = slow_ontology_map(scores, labels, distances)
  np.testing.assert_allclose(found.by_level, expected, rtol=1e-12)
  assert found.mean == pytest.approx(np.mean(expected))
  assert found.by_level[-1] == 1, "no miss is farther than the largest distance"


def test_equal_distances_give_map():
  rng = np.random.default_rng(0)
  scores, labels = rng.random((60, 4)), rng.random((60, 4)) < 0.3
  distances = 3 * (1 - np.eye(4, dtype=int))
  plain = tagging_metrics(scores, labels)["mAP"]
  np.testing.assert_allclose(ontology_map(scores, labels, distances).by_level[:3], plain)


def test_distances_levels_and_ancestors():
  np.testing.assert_array_equal(
    label_distances(ONTOLOGY, IDS),
    [[0, 1, 2, 1, 3], [1, 0, 3, 2, 3], [2, 3, 0, 1, 3], [1, 2, 1, 0, 3], [3, 3, 3, 3, 0]],
  )
  assert label_levels(ONTOLOGY, IDS).tolist() == [2, 3, 2, 3, 1]
  assert label_ancestors(ONTOLOGY, IDS) == [[], [0], [], [0, 2], []]
  with pytest.raises(UserError, match="label other is not in the ontology"):
    label_levels(ONTOLOGY, ["other"])


def test_map_by_level_leaves_undefined_labels_out():
  found = map_by_level(np.array([0.5, np.nan, 0.1, 0.3]), np.array([1, 2, 3, 3]))
  assert found[1] == 0.5
  assert np.isnan(found[2])
  assert found[3] == pytest.approx(0.2)


def test_labels_above_a_label_are_added():
  labels = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.uint8)
  carried = carried_up(labels, [[], [0], [0, 1]])
  np.testing.assert_array_equal(carried, [[1, 1, 0], [1, 1, 1], [1, 0, 0]])
  assert carried.dtype == labels.dtype
  assert labels.sum() == 3, "the argument does not change"
