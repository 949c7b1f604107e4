"""Loss terms compared with their definitions, and the arguments that a run passes to them."""

import json

import jax
import numpy as np
import pytest
import scipy.sparse
from runs_support import VOCABULARY, saved, tiny_config

from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import members, ontology_of
from atgcn_jax.runs.training_loop import train
from atgcn_jax.training.losses import (
  binary_cross_entropy,
  hierarchical_loss,
  laplacian_penalty,
  loss_of,
  neighbour_penalty,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((3, 5)).astype("f")
LABELS = (RANDOM.random((3, 5)) < 0.4).astype("f")
WEIGHTS = RANDOM.random((5, 5)).astype("f") * (RANDOM.random((5, 5)) < 0.6)
SIMILARITY = np.triu(WEIGHTS, 1) + np.triu(WEIGHTS, 1).T
NODES = [
  {"id": "top", "name": "Top", "child_ids": ["a", "b", "c"]},
  {"id": "a", "name": "A", "child_ids": ["d", "e"]},
  *({"id": key, "name": key, "child_ids": []} for key in "bcde"),
]


def cross_entropy(scores, labels):
  return -np.where(labels, np.log(scores), np.log(1 - scores)).mean()


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_laplacian_penalty_is_half_the_sum_over_pairs(form):
  scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
  by_hand = sum(
    SIMILARITY[i, j] * (scores[:, i] - scores[:, j]) ** 2 / 2 for i in range(5) for j in range(5)
  )
  of = jax.jit(jax.value_and_grad(lambda x: laplacian_penalty(x, form(SIMILARITY))))
  penalty, gradient = of(LOGITS)
  assert float(penalty) == pytest.approx(by_hand.sum() / LOGITS.size, rel=1e-5)
  assert np.abs(gradient).max() > 1e-3


def test_equal_scores_have_no_penalty():
  equal = np.full((2, 5), 0.7, "f")
  penalty = jax.jit(lambda x: laplacian_penalty(x, SIMILARITY))(equal)
  assert float(penalty) == pytest.approx(0, abs=1e-6)


def test_members_are_the_labels_at_and_below_a_category():
  categories, labels = members(ontology_of(NODES), ["a", "c", "d", "e"])
  groups = [set(labels[categories == k].tolist()) for k in range(categories.max() + 1)]
  assert groups == [{0, 1, 2, 3}, {0, 2, 3}]  # Top, which is not a label, and A


def test_hierarchical_loss_uses_the_highest_member():
  pairs = members(ontology_of(NODES), list("abcde"))
  tops = [[0, 1, 2, 3, 4], [0, 3, 4]]
  scores = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
  by_hand = cross_entropy(
    np.stack([scores[:, group].max(axis=1) for group in tops], 1),
    np.stack([LABELS[:, group].max(axis=1) for group in tops], 1),
  )
  found = jax.jit(lambda x, y: hierarchical_loss(x, y, pairs))(LOGITS, LABELS)
  assert float(found) == pytest.approx(by_hand, rel=1e-5)


NEIGHBOURS = np.array(
  [[0, 1, 0, 0, 0], [0.5, 0, 0.5, 0, 0], [0, 0, 0, 1, 0], [0, 0.2, 0.8, 0, 0], [0] * 5], np.float32
)
VECTORS = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_the_neighbour_penalty_is_the_distance_from_their_mean(form):
  by_hand = [
    np.sum((VECTORS[k] - sum(NEIGHBOURS[k, j] * VECTORS[j] for j in range(5))) ** 2)
    for k in range(5)
  ]
  penalty = jax.jit(lambda vectors: neighbour_penalty(vectors, form(NEIGHBOURS)))
  assert float(penalty(VECTORS)) == pytest.approx(np.mean(by_hand), rel=1e-5)
  same = np.repeat(VECTORS[:1], 4, axis=0)
  assert float(
    neighbour_penalty(jax.numpy.asarray(same), form(NEIGHBOURS[:4, :4]))
  ) == pytest.approx(0, abs=1e-10)


def test_a_system_without_label_vectors_cannot_have_neighbours():
  with pytest.raises(ValueError, match=r"loss.neighbours: must be 0"):
    loss_of({"neighbours": NEIGHBOURS}, neighbours=1.0)(LOGITS, LABELS, None)


def test_terms_are_weighted():
  pairs = members(ontology_of(NODES), list("abcde"))
  relations = {"similarity": SIMILARITY, "members": pairs, "neighbours": NEIGHBOURS}
  weighted = loss_of(relations, laplacian=0.5, hierarchy=2.0, neighbours=3.0)
  unweighted = loss_of({})

  @jax.jit
  def computed(x, y):
    parts = (
      binary_cross_entropy(x, y),
      0.5 * laplacian_penalty(x, SIMILARITY),
      2.0 * hierarchical_loss(x, y, pairs),
      3.0 * neighbour_penalty(VECTORS, NEIGHBOURS),
    )
    return weighted(x, y, VECTORS), unweighted(x, y, None), parts

  whole, plain, parts = computed(LOGITS, LABELS)
  assert float(whole) == pytest.approx(float(sum(parts)))
  assert float(plain) == float(parts[0])


TOP = {"id": "all", "name": "All", "child_ids": list(VOCABULARY.ids)}
LEAVES = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]


@pytest.mark.slow
def test_a_run_trains_with_all_terms_and_resumes(tmp_path):
  (tmp_path / "ontology.json").write_text(json.dumps([TOP, *LEAVES]))
  changes = (
    "model.head=linear",
    "loss.laplacian=0.3",
    "loss.hierarchy=0.5",
    "loss.neighbours=0.1",
    f"graph.ontology={tmp_path}/ontology.json",
  )
  train(tiny_config(tmp_path, *changes, "optim.steps=2"), tmp_path / "run")
  relations = saved(tmp_path / "run").run.relations
  assert relations["similarity"].shape == (6, 6)
  assert np.array_equal(relations["similarity"], relations["similarity"].T)
  np.testing.assert_allclose(relations["neighbours"].sum(axis=1), 1, rtol=1e-6)
  assert relations["members"].tolist() == [[0] * 6, list(range(6))]
  assert int(train(tiny_config(tmp_path, *changes, "optim.steps=3"), tmp_path / "run").step) == 3


@pytest.mark.slow
def test_another_ontology_is_rejected(tmp_path):
  (tmp_path / "ontology.json").write_text(json.dumps([TOP, *LEAVES]))
  changes = ("loss.hierarchy=1.0", f"graph.ontology={tmp_path}/ontology.json", "optim.steps=1")
  train(tiny_config(tmp_path, *changes), tmp_path / "run")
  fewer = TOP | {"child_ids": TOP["child_ids"][1:]}
  (tmp_path / "ontology.json").write_text(json.dumps([fewer, *LEAVES]))
  with pytest.raises(UserError, match=r"graph\.ontology: the content differs"):
    train(tiny_config(tmp_path, *changes), tmp_path / "run")


def test_the_hierarchy_needs_an_ontology(tmp_path):
  with pytest.raises(UserError, match=r"graph\.ontology: loss\.hierarchy needs"):
    train(tiny_config(tmp_path, "loss.hierarchy=1.0"), tmp_path / "run")
