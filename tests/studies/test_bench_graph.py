"""Tests of the benchmarks of the label graph and of counting, at small sizes."""

import functools

import numpy as np
import pytest
from marks import slow

from atgcn_jax.bench import graph
from atgcn_jax.bench.graph import bench_counts, bench_graph, made_up_clips, made_up_counts
from atgcn_jax.labels.counts import count_labels


@pytest.mark.parametrize("hubs", [False, True])
def test_made_up_counts(hubs):
  counts = made_up_counts(700, 10, hubs).toarray()
  np.testing.assert_array_equal(counts, counts.T)
  assert not counts.diagonal().any()
  degrees = (counts > 0).sum(1)
  assert abs(degrees.mean() - 10) < 0.5
  assert (degrees.max() > 60) if hubs else set(degrees) == {10}


def test_made_up_clips():
  offsets, labels = made_up_clips(5000, 50)
  assert len(offsets) == 5001
  assert 1.9 < len(labels) / 5000 < 2.1
  counts = count_labels(offsets, labels, 50)
  assert counts.occurrences[0] > 3 * counts.occurrences[-1] > 0


@pytest.mark.parametrize(("labels", "form"), [(60, "dense"), slow(700, "sparse")])
def test_graph_figures(labels, form, monkeypatch):
  # The matrices of the complete measurement take a gigabyte.
  small = functools.partial(graph.machine_limits, size=300)
  monkeypatch.setattr(graph, "machine_limits", small)
  found = bench_graph(labels, 6, repeats=1)
  assert (found["labels"], found["form"]) == (labels, form)
  assert (found["edges"], found["most_edges"]) == (6 * labels, 6)
  numbers = [value for value in found.values() if isinstance(value, float)]
  assert min(numbers) > 0
  assert found["ratio"] == found["propagation_seconds"] / found["nodes_seconds"]
  assert found["peak_bytes"] > 5e7


def test_counts_figures(monkeypatch):
  monkeypatch.setattr(graph, "alone", lambda work, *args: work(*args))
  found = bench_counts(3000, 600)
  assert found["form"] == "sparse"
  assert found["pairs"] > 100
  assert found["seconds"] > 0
