import math

import numpy as np
import pytest

from atgcn_jax.labels.adjacency import (
  METHODS,
  adjacency_from_counts,
  normalise,
  propagation_matrix,
  reweight,
  threshold_edges,
)
from atgcn_jax.labels.counts import load_counts
from atgcn_jax.labels.vocabulary import read_vocabulary


def recipe():
  """Counts of 12 labels and a ring of edges: 3 and 4 imply 5, 10 has no pairs, 11 never occurs."""
  clips = np.random.RandomState(7).rand(200, 12) < np.linspace(0.6, 0.02, 12)
  clips[:, 5] |= clips[:, 3] | clips[:, 4]
  clips[clips[:, 10], :10] = False
  clips[:, 11] = False
  pairs = [[int(sum(clips[:, i] & clips[:, j])) for j in range(12)] for i in range(12)]
  occurrences = [pairs[i][i] for i in range(12)]
  edges = [[abs(i - j) in (1, 9) and max(i, j) < 10 for j in range(12)] for i in range(12)]
  return np.array(occurrences), np.array(pairs), np.array(edges)


def by_loops(occurrences, pairs, edges, method, tau, p):
  """Return the matrices, computed element by element from the equations."""
  n = len(occurrences)
  a = [[0.0] * n for _ in range(n)]
  for i in range(n):
    for j in range(n):
      if i == j:
        continue
      if method == "ontology":
        a[i][j] = 1.0 if edges[i][j] else 0.0
      elif method != "identity" and pairs[i][j]:
        share = int(pairs[i][j]) / int(occurrences[i])
        if method in ("none", "reweight") or share >= tau:
          a[i][j] = 1.0 if method == "binary" else share
  if method == "author":
    columns = [sum(a[i][j] for i in range(n)) for j in range(n)]
    q = [[p * a[i][j] / (columns[j] + 1e-6) + (i == j) for j in range(n)] for i in range(n)]
    degrees = [sum(row) for row in q]
    q = [[q[j][i] for j in range(n)] for i in range(n)]
  else:
    if method in ("reweight", "paper", "binary", "ontology"):
      for i in range(n):
        total = sum(a[i])
        a[i] = [p * weight / total if total else 0.0 for weight in a[i]]
        a[i][i] = 1 - p
    q = [[a[i][j] + (i == j) for j in range(n)] for i in range(n)]
    degrees = [sum(row) for row in q]
  return [[q[i][j] / math.sqrt(degrees[i] * degrees[j]) for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
  ("tau", "p"), [(0.3, 0.2), (0.0, 0.2), (1.0, 0.2), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0), (1, 1)]
)
def test_fingerprint_of_every_method(method, tau, p):
  occurrences, pairs, edges = recipe()
  matrix = propagation_matrix(
    occurrences, pairs, method=method, threshold=tau, neighbour_weight=p, edges=edges
  )
  assert matrix.dtype == np.float32
  expected = by_loops(occurrences, pairs, edges, method, tau, p)
  np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-6)


# fmt: off
ROW_4 = {
  "paper": [0.017761, 0.0139, 0.013127, 0.015058, 0.9, 0.030502, 0, 0.009653, 0, 0, 0, 0],
  "author": [0.018625, 0.018666, 0.016647, 0.020881, 0.876296, 0.025014, 0.018201, 0.022926,
             0.014665, 0.018026, 0, 0],
}
# fmt: on


@pytest.mark.parametrize("method", ROW_4)
def test_values_of_the_fingerprint(method):
  occurrences, pairs, _ = recipe()
  assert occurrences.tolist() == [118, 90, 97, 87, 79, 149, 58, 52, 29, 21, 13, 0]
  assert pairs[3].tolist() == [49, 44, 43, 87, 39, 87, 29, 28, 16, 8, 0, 0]
  matrix = propagation_matrix(occurrences, pairs, method=method)
  np.testing.assert_allclose(matrix[4], ROW_4[method], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [0, 0.2, 1])
@pytest.mark.parametrize("tau", [0, 0.3, 1])
def test_always_finite(method, p, tau):
  for occurrences, pairs in [
    (np.zeros(4, int), np.zeros((4, 4), int)),
    (np.zeros(1, int), np.zeros((1, 1), int)),
    (np.array([3]), np.array([[3]])),
    (
      np.array([1, 10**18, 10**18, 0]),
      np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0] * 4]),
    ),
    (np.full(4, 2), np.full((4, 4), 2)),
  ]:
    edges = np.zeros(pairs.shape, bool)
    matrix = propagation_matrix(
      occurrences, pairs, method=method, threshold=tau, neighbour_weight=p, edges=edges
    )
    assert matrix.shape == pairs.shape
    assert np.isfinite(matrix).all()
    assert (matrix.diagonal() > 0).all()
    if not pairs.any():
      np.testing.assert_allclose(matrix, np.eye(len(pairs)), atol=1e-6)


def test_conditional_probabilities():
  probabilities = adjacency_from_counts(
    np.array([4, 2, 0]), np.array([[4, 1, 0], [1, 2, 0], [0] * 3])
  )
  assert probabilities.dtype == np.float64
  assert probabilities.tolist() == [[0, 0.25, 0], [0.5, 0, 0], [0, 0, 0]]


def test_weights_equal_to_the_threshold_are_kept():
  probabilities = adjacency_from_counts(
    np.array([10, 10, 10]), np.array([[0, 3, 2], [3, 0, 4], [2, 4, 0]])
  )
  kept = threshold_edges(probabilities, 0.3)
  assert kept.tolist() == [[0, 0.3, 0], [0.3, 0, 0.4], [0, 0.4, 0]]


def test_reweighted_rows_and_unchanged_input():
  adjacency = np.array([[9.0, 1, 3], [0, 0, 0], [0, 2, 0]])
  before = adjacency.copy()
  weights = reweight(adjacency, 0.2)
  np.testing.assert_allclose(weights, [[0.8, 0.05, 0.15], [0, 0.8, 0], [0, 0.2, 0.8]])
  np.testing.assert_array_equal(adjacency, before)


def test_symmetric_normalisation_has_the_root_degree_as_eigenvector():
  adjacency = np.random.RandomState(0).rand(6, 6)
  adjacency += adjacency.T
  root = np.sqrt(1 + adjacency.sum(1))
  np.testing.assert_allclose(normalise(adjacency) @ root, root)


def test_the_ontology_graph_depends_only_on_edges():
  occurrences, pairs, edges = recipe()
  graph = propagation_matrix(occurrences, pairs, method="ontology", edges=edges)
  other = propagation_matrix(occurrences * 0, pairs * 0, method="ontology", edges=edges)
  np.testing.assert_array_equal(graph, other)
  np.testing.assert_array_equal((graph > 0) & ~np.eye(12, dtype=bool), edges)


@pytest.mark.parametrize(
  ("changes", "part"),
  [
    ({"method": "papers"}, "papers"),
    ({"threshold": -0.1}, "threshold"),
    ({"threshold": 1.1}, "threshold"),
    ({"threshold": float("nan")}, "threshold"),
    ({"neighbour_weight": -0.1}, "neighbour_weight"),
    ({"neighbour_weight": 1.1}, "neighbour_weight"),
    ({"neighbour_weight": float("nan")}, "neighbour_weight"),
    ({"method": "ontology"}, "edges"),
    ({"method": "ontology", "edges": np.zeros((3, 3), bool)}, "edges"),
    ({"occurrences": np.arange(11)}, "shapes"),
    ({"cooccurrences": np.ones((12, 12), int)}, "together"),
  ],
)
def test_wrong_arguments(changes, part):
  occurrences, pairs, _ = recipe()
  arguments = {"occurrences": occurrences, "cooccurrences": pairs, "method": "paper", **changes}
  with pytest.raises(ValueError, match=part):
    propagation_matrix(arguments.pop("occurrences"), arguments.pop("cooccurrences"), **arguments)


@pytest.fixture(scope="module")
def audioset_counts(shared):
  folder = shared / "data/audioset"
  vocabulary = read_vocabulary(folder / "class_labels_indices.csv")
  return {
    name: load_counts(folder / "cooccurrence.npz", vocabulary, name)
    for name in ("balanced", "full")
  }


@pytest.mark.parametrize(
  ("method", "key"),
  [
    ("author", "author_balanced"),
    ("paper", "paper_balanced"),
    ("threshold", "threshold_only_balanced"),
    ("reweight", "reweight_only_balanced"),
    ("none", "none_balanced"),
  ],
)
def test_matrices_of_the_authors_and_the_paper(shared, audioset_counts, method, key):
  counts = audioset_counts["balanced"]
  matrix = propagation_matrix(counts.occurrences, counts.cooccurrences, method=method)
  with np.load(shared / "golden/adjacency_balanced.npz") as golden:
    np.testing.assert_allclose(matrix, golden[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "alone"), [("author", 365), ("paper", 46)])
def test_labels_without_neighbours_on_audioset(audioset_counts, method, alone):
  counts = audioset_counts["full"]
  matrix = propagation_matrix(counts.occurrences, counts.cooccurrences, method=method)
  np.fill_diagonal(matrix, 0)
  assert (matrix == 0).all(1).sum() == alone


@pytest.mark.parametrize(("name", "certain"), [("full", 3), ("balanced", 48)])
def test_pairs_that_remain_at_threshold_one(audioset_counts, name, certain):
  counts = audioset_counts[name]
  probabilities = adjacency_from_counts(counts.occurrences, counts.cooccurrences)
  assert np.count_nonzero(threshold_edges(probabilities, 1.0)) == certain
