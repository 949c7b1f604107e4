"""Graphs of large vocabularies: sparse matrices give the same values, from counts to a run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from marks import slow
from runs_support import VOCABULARY, saved, tiny_config
from test_adjacency import recipe

from atgcn_jax.errors import UserError
from atgcn_jax.labels import sparse
from atgcn_jax.labels.adjacency import METHODS, propagation_matrix
from atgcn_jax.labels.counts import check_counts, count_labels, load_counts
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.ontology import Ontology, label_edges
from atgcn_jax.labels.vocabulary import write_vocabulary
from atgcn_jax.models.heads import GraphHead
from atgcn_jax.models.sparse_product import WIDEST, sparse_product
from atgcn_jax.reports import page_figures
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.reports.label_graph_file import graph_text, make_graph, write_graph
from atgcn_jax.runs import training_loop
from atgcn_jax.runs.run_store import store_of
from atgcn_jax.runs.start import continued
from atgcn_jax.training import saved_checkpoints


@pytest.fixture
def large(monkeypatch):
  """Set the limit for dense matrices below six labels."""
  monkeypatch.setattr(sparse, "DENSE_LABELS", 5)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.coo_matrix])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("tau", "p"), [(0.3, 0.2), (0, 0.2), (1, 0), (0.3, 1), (0, 1)])
def test_every_method_gives_the_values_of_the_dense_form(method, tau, p, kind):
  occurrences, pairs, edges = recipe()
  settings = {"method": method, "threshold": tau, "neighbour_weight": p}
  dense = propagation_matrix(occurrences, pairs, edges=edges, **settings)
  made = propagation_matrix(occurrences, kind(pairs), edges=kind(edges), **settings)
  assert isinstance(made, scipy.sparse.csr_array)
  assert made.dtype == np.float32
  np.testing.assert_allclose(made.toarray(), dense, rtol=0, atol=1e-7)
  assert made.nnz == np.count_nonzero(dense)
  assert made.has_canonical_format


@pytest.mark.parametrize("method", METHODS)
def test_labels_without_neighbours(method):
  occurrences, pairs = np.array([3, 0, 2]), np.zeros((3, 3), int)
  edges = np.zeros((3, 3), bool)
  dense = propagation_matrix(occurrences, pairs, method=method, edges=edges)
  made = propagation_matrix(occurrences, scipy.sparse.csr_array(pairs), method=method, edges=edges)
  np.testing.assert_allclose(made.toarray(), dense, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_too_large_for_an_array(method):
  labels = 300_000  # 90 billion pairs
  sides = [np.ones(labels - 1)] * 2
  ring = scipy.sparse.diags_array(sides, offsets=[-1, 1], format="csr").astype(int)
  matrix = propagation_matrix(np.full(labels, 2), ring, method=method, edges=ring)
  assert matrix.shape == (labels, labels)
  assert matrix.nnz <= 3 * labels
  assert (matrix.diagonal() > 0).all()


def test_impossible_sparse_counts():
  occurrences, pairs, _ = recipe()
  check_counts(occurrences, scipy.sparse.csr_array(pairs))
  for wrong in (-pairs, pairs + 100, pairs[:, :4]):
    with pytest.raises(ValueError, match=r"count|together"):
      check_counts(occurrences, scipy.sparse.csr_array(wrong))


def clips_of(labels, clips=400):
  random = np.random.default_rng(0)
  offsets = np.append(0, np.cumsum(random.integers(0, 5, clips)))
  return offsets, random.integers(0, labels, offsets[-1])


def test_counts_and_edges_take_the_form_for_their_size(monkeypatch):
  offsets, indices = clips_of(9)
  dense = count_labels(offsets, indices, 9)
  tree = Ontology({k: k for k in "abcd"}, {"a": ("b", "c"), "b": ("d",), "c": (), "d": ()})
  edges = label_edges(tree, "bdac")
  monkeypatch.setattr(sparse, "DENSE_LABELS", 9)
  assert isinstance(count_labels(offsets, indices, 9).cooccurrences, np.ndarray)
  monkeypatch.setattr(sparse, "DENSE_LABELS", 3)
  made = count_labels(offsets, indices, 9)
  assert isinstance(made.cooccurrences, scipy.sparse.csr_array)
  assert made.cooccurrences.dtype == made.occurrences.dtype == np.int64
  np.testing.assert_array_equal(made.cooccurrences.toarray(), dense.cooccurrences)
  np.testing.assert_array_equal(made.occurrences, dense.occurrences)
  np.testing.assert_array_equal(label_edges(tree, "bdac").toarray(), edges)


def test_arrays_of_a_sparse_matrix():
  pairs = scipy.sparse.csr_array(recipe()[1])
  kept = sparse.pack_matrices({"pairs": pairs, "indptr": np.arange(3)})
  assert kept.keys() == {"pairs_data", "pairs_indices", "pairs_indptr", "indptr"}
  whole = sparse.unpacked(kept)
  assert whole.keys() == {"pairs", "indptr"}
  assert sparse.equal(whole["pairs"], pairs)
  assert not sparse.equal(2 * whole["pairs"], pairs)
  assert not sparse.equal(whole["pairs"][:4, :4], pairs)


def test_a_damaged_sparse_matrix_is_named(tmp_path):
  kept = sparse.pack_matrices({"pairs": scipy.sparse.csr_array(recipe()[1])})
  kept["pairs_indices"][3] = 99
  np.savez(tmp_path / "pairs.npz", **kept)
  with pytest.raises(UserError, match=r"pairs.npz: cannot be read"):
    read_arrays(tmp_path / "pairs.npz")


def test_a_sparse_matrix_of_float16_is_refused():
  kept = sparse.pack_matrices({"pairs": scipy.sparse.csr_array(recipe()[1])})
  with pytest.raises(ValueError, match="pairs has values or indices of the wrong type"):
    sparse.unpacked(kept | {"pairs_data": kept["pairs_data"].astype(np.float16)})


def matrix_of(kind):
  """Return a matrix with labels that have no, few and many neighbours."""
  random = np.random.default_rng(1)
  rows = 3 * WIDEST * WIDEST if kind == "hub" else 90
  dense = random.random((90, 90)) * (random.random((90, 90)) < 0.05)
  if kind == "even":
    dense = np.roll(np.eye(90), 1, axis=1) + np.eye(90)
  if kind == "empty":
    dense[:] = 0
  if kind == "mixed":
    dense[3], dense[:, 5], dense[7] = random.random((3, 90))
  if kind == "hub":  # so long a row that the sums of its pieces are cut into pieces again
    hub = scipy.sparse.coo_array((random.random(rows), (np.zeros(rows, int), np.arange(rows))))
    return scipy.sparse.csr_array((hub.data, hub.coords), shape=(rows, rows), dtype=np.float32)
  return scipy.sparse.csr_array(dense.astype(np.float32))


@pytest.mark.parametrize("kind", ["few", "even", "empty", "mixed", "hub"])
def test_product_and_gradient(kind):
  matrix = matrix_of(kind)
  nodes, back = np.random.default_rng(2).standard_normal((2, matrix.shape[0], 3)).astype("f")
  product = sparse_product(matrix)

  def both(nodes, back):
    made, pulled_back = jax.vjp(lambda x: product @ x, nodes)
    return made, pulled_back(back)[0]

  made, transposed = jax.jit(both)(nodes, back)
  exact = matrix.astype(np.float64)
  np.testing.assert_allclose(made, exact @ nodes, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(transposed, exact.T @ back, rtol=1e-5, atol=1e-5)


def test_no_array_of_edges_by_channels_is_allocated():
  labels, edges, channels = 2000, 60, 64
  random = np.random.default_rng(0)
  columns = random.integers(0, labels, labels * edges)
  matrix = scipy.sparse.csr_array(
    (np.ones(labels * edges, "f"), columns, np.arange(0, labels * edges + 1, edges)),
    shape=(labels, labels),
  )
  product = sparse_product(matrix)
  # The sums must not be fused with surrounding operations either.
  layer = jax.jit(jax.grad(lambda x: jax.nn.leaky_relu(product @ (3 * x)).sum()))
  memory = layer.lower(jnp.ones((labels, channels))).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 12 * labels * channels * 4


@pytest.mark.parametrize("layers", [slow(1), 2, slow(3)])
def test_head_with_either_form(layers):
  matrix = matrix_of("mixed")
  random = np.random.default_rng(3)
  vectors, embedding = random.standard_normal((90, 5)), random.standard_normal((4, 16)).astype("f")

  def gradients(propagation):
    head = GraphHead(propagation, vectors, layers=layers, hidden=8)
    params = GraphHead(matrix.toarray(), vectors, layers=layers, hidden=8).init(
      jax.random.key(0), embedding
    )

    def loss(params):
      logits = head.apply(params, embedding)["logits"]
      return jnp.sin(logits).sum(), logits

    return jax.jit(jax.grad(loss, has_aux=True))(params)

  for one, other in zip(
    *(jax.tree.leaves(gradients(form)) for form in (matrix, matrix.toarray())), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)


def test_the_heaviest_edges_of_either_form():
  matrix = matrix_of("mixed")
  for one, other in zip(
    page_figures.strongest_edges(matrix, 7), page_figures.strongest_edges(matrix.toarray(), 7)
  ):
    np.testing.assert_array_equal(one, other)


def test_a_graph_file_of_either_form(large, tmp_path, monkeypatch):
  random = np.random.default_rng(0)
  pairs = np.triu(random.integers(0, 9, (6, 6)) * (random.random((6, 6)) < 0.5), 1)
  pairs += pairs.T
  np.savez(
    tmp_path / "counts.npz",
    mids=np.array(VOCABULARY.ids)[::-1],
    occurrences=np.full(6, 20),
    cooccurrences=pairs,
  )
  write_vocabulary(tmp_path / "labels.csv", VOCABULARY)

  def made(name, counts="counts.npz"):
    graph = make_graph(
      vocabulary=tmp_path / "labels.csv",
      counts=tmp_path / counts,
      counts_set=None,
      segments=None,
      method="reweight",
      threshold=0.3,
      neighbour_weight=0.2,
      ontology="",
    )
    write_graph(tmp_path / name, graph, 0.3, 0.2)
    return graph_text(graph)

  reported = made("sparse.npz")
  with np.load(tmp_path / "sparse.npz") as stored:
    assert "propagation_indptr" in stored
    assert "cooccurrences_indptr" in stored
    assert "propagation" not in stored
  # The written file can be used as a file of counts.
  assert made("again.npz", counts="sparse.npz") == reported
  again = load_counts(tmp_path / "again.npz", VOCABULARY)
  np.testing.assert_array_equal(again.cooccurrences.toarray(), pairs[::-1, ::-1])
  monkeypatch.setattr(sparse, "DENSE_LABELS", 6)
  assert made("dense.npz") == reported
  assert f" {np.count_nonzero(pairs)} edges," in reported
  one, other = (read_arrays(tmp_path / name)["propagation"] for name in ("sparse.npz", "dense.npz"))
  np.testing.assert_allclose(one.toarray(), other, atol=1e-7)


@pytest.mark.slow
def test_a_run_on_a_sparse_graph(large, tmp_path):
  config = tiny_config(tmp_path, "optim.steps=3", "graph.method=reweight")
  workdir = tmp_path / "run"
  training_loop.train(config, workdir)
  loaded = saved(workdir)
  graph = loaded.run.propagation
  assert isinstance(graph, scipy.sparse.csr_array)
  assert graph.dtype == np.float32
  _, constants = saved_checkpoints.read_description(workdir, loaded.step)
  assert constants.keys() >= {"propagation_data", "propagation_indices", "propagation_indptr"}

  result = evaluate(workdir, split="validation")
  assert "Label graph: edges:" in (workdir / "report.html").read_text()
  json.dumps(result)

  # Resuming compares the content of the graph with that of the file.
  again = tiny_config(tmp_path, "graph.method=reweight", f"graph.source={tmp_path / 'g.npz'}")
  old = loaded._replace(run=dataclasses.replace(loaded.run, config=again))
  for factor in (1, 2):
    arrays = sparse.pack_matrices({"propagation": factor * graph, "mids": np.array(VOCABULARY.ids)})
    np.savez(tmp_path / "g.npz", **arrays)
    if factor == 1:
      assert sparse.equal(continued(old, again, store_of(again), workdir).propagation, graph)
  with pytest.raises(UserError, match=r"graph.source: the content differs"):
    continued(old, again, store_of(again), workdir)
