"""Benchmarks of the label graph and of label counting, on synthetic labels of any number."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from atgcn_jax.bench.steps import alone
from atgcn_jax.labels.adjacency import propagation_matrix
from atgcn_jax.labels.counts import count_labels
from atgcn_jax.labels.sparse import csr, sized
from atgcn_jax.models.heads import GraphHead
from atgcn_jax.models.sparse_product import sparse_product
from atgcn_jax.runtime.process_setup import peak_bytes

VECTOR, HIDDEN, EMBEDDING = 300, 256, 512  # widths of the paper's two layers
CLIPS = 32  # clips per batch
OCCURRENCES = 1000  # clips with each label


def bench_graph(labels: int, edges: int, repeats: int, hubs: bool = False) -> dict[str, Any]:
  """Measure time and memory of the graph network over a synthetic graph, in a separate process.

  Args:
    labels: K, the number of labels.
    edges: Number of edges per label, on average if there are hubs.
    repeats: Number of timings of each part, taken in turn; the result has the medians.
    hubs: If true, few labels have very many edges; otherwise all labels have the same number.

  Returns:
    Seconds to compute the matrix from counts; seconds of the propagation and of the products of
    nodes and weights, forward (`_seconds`) and with gradients (`_and_back_seconds`), and the
    `ratio` of both; seconds of the first and of later gradients of the complete head; `peak_bytes`
    of the process; the rates that the two parts reach, and the limits of `machine_limits` to
    compare them with.
  """
  found = alone(_graph_figures, labels, edges, repeats, hubs)
  limits = machine_limits(repeats)
  return found | limits


def bench_counts(clips: int, labels: int) -> dict[str, Any]:
  """Measure time and memory of counting labels and pairs in synthetic clips, in a separate process.

  Args:
    clips: N, the number of clips. Each has about two labels, and a few labels are far more frequent
      than the others.
    labels: K, the number of labels.

  Returns:
    `seconds`, number of `pairs` that occur together, `input_bytes` of the label lists, and
    `peak_bytes` of the process.
  """
  return alone(_counts_figures, clips, labels)


def _graph_figures(labels: int, edges: int, repeats: int, hubs: bool) -> dict[str, Any]:
  random = np.random.default_rng(0)
  counts = sized(made_up_counts(labels, edges, hubs))
  start = time.perf_counter()
  # The method reweight has no threshold, so all edges remain.
  matrix = propagation_matrix(np.full(labels, OCCURRENCES), counts, method="reweight")
  matrix_seconds = time.perf_counter() - start
  sparse = scipy.sparse.issparse(matrix)
  degrees = np.diff(csr(matrix).indptr) - 1
  product = sparse_product(matrix) if sparse else jnp.asarray(matrix)

  def numbers(*shape):
    return jnp.asarray(random.standard_normal(shape, np.float32))

  vectors, hidden = numbers(labels, VECTOR), numbers(labels, HIDDEN)
  first, second = numbers(VECTOR, HIDDEN), numbers(HIDDEN, EMBEDDING)
  # With a sparse graph, the second layer propagates its narrower side.
  wide = hidden if sparse else numbers(labels, EMBEDDING)

  def propagation(one, two):
    return product @ one, product @ two

  def nodes(one, other, second):  # the vectors are constants: no gradient
    return vectors @ one, other @ second

  head = GraphHead(matrix, np.asarray(vectors), hidden=HIDDEN)
  embedding = numbers(CLIPS, EMBEDDING)
  params = {"gc1": {"weight": first}, "gc2": {"weight": second}}

  def loss(params):
    scored: Any = head.apply({"params": params}, embedding)
    return jnp.square(scored["logits"]).mean()

  runs = {
    "propagation": _jitted(propagation, hidden, wide),
    "propagation_and_back": _jitted(_and_back(propagation), hidden, wide),
    "nodes": _jitted(nodes, first, hidden, second),
    "nodes_and_back": _jitted(_and_back(nodes), first, hidden, second),
    "head_gradient": _jitted(jax.grad(loss), params),
  }
  once, seconds = timed(runs, repeats)
  return {
    "labels": labels,
    "edges": int(degrees.sum()),
    "most_edges": int(degrees.max()),
    "form": "sparse" if sparse else "dense",
    "matrix_seconds": matrix_seconds,
    **{f"{name}_seconds": value for name, value in seconds.items()},
    "ratio": seconds["propagation"] / seconds["nodes"],
    "ratio_and_back": seconds["propagation_and_back"] / seconds["nodes_and_back"],
    "head_first_seconds": once["head_gradient"],
    "nodes_floats_per_second": 2 * labels * (VECTOR + EMBEDDING) * HIDDEN / seconds["nodes"],
    "gathered_bytes_per_second": csr(matrix).nnz * 2 * HIDDEN * 4 / seconds["propagation"],
    "peak_bytes": peak_bytes(),
  }


def _jitted(function: Callable, *args: Any) -> Callable[[], Any]:
  compiled = jax.jit(function)
  return lambda: compiled(*args)


def _and_back(function: Callable) -> Callable:
  """Return a function that computes the values of a function and the gradients of all arguments."""

  def both(*args):
    values, gradients = jax.vjp(function, *args)
    return values, gradients(values)

  return both


def timed(
  runs: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
  """Return the seconds of the first call of each function, and the medians of later calls in turn.

  Args:
    runs: Functions by name.
    repeats: Number of calls after the first.
  """
  taken: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(repeats + 1):
    for name, run in runs.items():
      start = time.perf_counter()
      jax.block_until_ready(run())
      taken[name].append(time.perf_counter() - start)
  later = {name: statistics.median(values[1:]) for name, values in taken.items()}
  return {name: values[0] for name, values in taken.items()}, later


def machine_limits(repeats: int, size: int = 3000) -> dict[str, float]:
  """Measure the FLOP/s of a float32 matrix product and the bytes per second of a copy.

  Args:
    repeats: Number of timings; the result has the medians.
    size: Number of rows and columns of the matrices.
  """
  matrix = jnp.ones((size, size), jnp.float32)
  many = jnp.ones((12 * size, size), jnp.float32)
  runs = {
    "product": _jitted(lambda x: x @ x, matrix),
    "copy": _jitted(lambda x: x + 1, many),
  }
  _, seconds = timed(runs, repeats)
  return {
    "floats_per_second": 2 * size**3 / seconds["product"],
    "bytes_per_second": 2 * many.nbytes / seconds["copy"],  # read and written
  }


def made_up_counts(labels: int, edges: int, hubs: bool) -> scipy.sparse.csr_array:
  """Return synthetic symmetric counts of pairs, int64[K, K].

  Counts are below `OCCURRENCES`. The diagonal is empty.

  Args:
    labels: K, the number of labels.
    edges: Number of edges per label, an even number below K; with hubs, the approximate average.
    hubs: If true, one end of each edge is label k with a probability proportional to
      (k + 10)^-0.8.
  """
  random = np.random.default_rng(0)
  if hubs:
    popularity = (np.arange(labels) + 10.0) ** -0.8
    one = random.choice(labels, labels * edges // 2, p=popularity / popularity.sum())
    other = random.integers(0, labels, len(one))
  else:
    # In a random order, each label is paired with the labels at some distances after it.
    order = random.permutation(labels)
    distances = random.choice(np.arange(1, (labels + 1) // 2), edges // 2, replace=False)
    one = np.tile(order, len(distances))
    other = np.concatenate([np.roll(order, -distance) for distance in distances])
  between = one != other
  ends = np.sort(np.stack([one[between], other[between]]), axis=0)
  one, other = np.divmod(np.unique(ends[0] * labels + ends[1]), labels)
  together = random.integers(1, OCCURRENCES, len(one))
  both = (np.append(together, together), (np.append(one, other), np.append(other, one)))
  return csr(scipy.sparse.coo_array(both, shape=(labels, labels)))


def _counts_figures(clips: int, labels: int) -> dict[str, Any]:
  offsets, indices = made_up_clips(clips, labels)
  start = time.perf_counter()
  counts = count_labels(offsets, indices, labels)
  seconds = time.perf_counter() - start
  pairs = counts.cooccurrences
  return {
    "clips": clips,
    "labels": labels,
    "pairs": int(csr(pairs).nnz // 2),
    "form": "sparse" if scipy.sparse.issparse(pairs) else "dense",
    "seconds": seconds,
    "input_bytes": offsets.nbytes + indices.nbytes,
    "peak_bytes": peak_bytes(),
  }


def made_up_clips(clips: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
  """Return offsets int64[N + 1] and label indices int64[M] of clips with one to three labels each.

  Args:
    clips: N, the number of clips.
    labels: K, the number of labels; label k has a probability proportional to 1 / (k + 10).
  """
  random = np.random.default_rng(0)
  offsets = np.append(0, np.cumsum(random.integers(1, 4, clips)))
  popularity = 1 / (np.arange(labels) + 10.0)
  return offsets, random.choice(labels, offsets[-1], p=popularity / popularity.sum())
