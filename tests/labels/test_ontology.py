import json

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import (
  Ontology,
  ancestors,
  label_edges,
  read_ontology,
  top_categories,
)
from atgcn_jax.labels.vocabulary import read_vocabulary

# Two trees, top1 and top2. `middle` and `inner` are not labels. d is in both trees.
CHILDREN = {
  "top1": ["a", "middle"],
  "top2": ["c"],
  "a": ["b"],
  "middle": ["inner"],
  "inner": ["d"],
  "c": ["d"],
  "b": [],
  "d": [],
}
LABELS = ["b", "top1", "d", "c", "a"]


def nodes(children):
  return [
    {"id": key, "name": key.upper(), "child_ids": group, "restrictions": []}
    for key, group in children.items()
  ]


@pytest.fixture
def small(tmp_path):
  path = tmp_path / "ontology.json"
  path.write_text(json.dumps(nodes(CHILDREN)))
  return read_ontology(path)


def test_reads_names_and_children(small):
  assert small.names["middle"] == "MIDDLE"
  assert small.children == {key: tuple(group) for key, group in CHILDREN.items()}
  assert small.parents["d"] == ("inner", "c")
  assert small.parents["top1"] == ()


def test_ancestors(small):
  assert ancestors(small, "d") == {"inner", "middle", "top1", "c", "top2"}
  assert ancestors(small, "b") == {"a", "top1"}
  assert ancestors(small, "top2") == set()


def test_edges_skip_categories_that_are_not_labels(small):
  edges = label_edges(small, LABELS)
  found = {(LABELS[i], LABELS[j]) for i, j in np.argwhere(edges)}
  one_way = {("b", "a"), ("a", "top1"), ("d", "top1"), ("d", "c")}
  assert found == one_way | {(j, i) for i, j in one_way}
  assert edges.dtype == bool


def test_top_categories(small):
  assert top_categories(small, LABELS) == [["top1"], ["top1"], ["top1", "top2"], ["top2"], ["top1"]]


def test_label_outside_the_ontology(small):
  for ask in (label_edges, top_categories):
    with pytest.raises(UserError, match="stranger"):
      ask(small, ["a", "stranger"])
  with pytest.raises(UserError, match="stranger"):
    ancestors(small, "stranger")


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("", "JSON"),
    ("[", "JSON"),
    ("[]", "no category"),
    ("{}", "not an ontology"),
    ('{"id": 1}', "JSON"),
    ("3", "JSON"),
    ('[{"id": "a", "name": "A"}]', "child_ids"),
    ('[{"id": ["a"], "name": "A", "child_ids": []}]', "JSON"),
    (json.dumps(nodes({"a": ["b"]})), "child b"),
    (json.dumps(nodes({"a": []}) * 2), "twice"),
    (json.dumps(nodes({"r": ["a"], "a": ["b"], "b": ["a"]})), "own descendants"),
  ],
)
def test_bad_file(tmp_path, text, part):
  path = tmp_path / "ontology.json"
  path.write_text(text)
  with pytest.raises(UserError, match=part) as error:
    read_ontology(path)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    read_ontology(tmp_path / "ontology.json")


def test_empty_vocabulary_has_no_edges():
  assert label_edges(Ontology({"a": "A"}, {"a": ()}), []).shape == (0, 0)


def test_audioset(shared):
  folder = shared / "data/audioset"
  ontology = read_ontology(folder / "ontology.json")
  ids = read_vocabulary(folder / "class_labels_indices.csv").ids
  assert len(ontology.names) == 632
  tops = [set(top) for top in top_categories(ontology, ids)]
  assert len(set().union(*tops)) == 7
  assert sum(len(top) > 1 for top in tops) == 29
  common = np.array([[bool(mine & other) for other in tops] for mine in tops])
  np.fill_diagonal(common, False)
  assert common.sum() == 65988
  edges = label_edges(ontology, ids)
  np.testing.assert_array_equal(edges, edges.T)
  assert not edges.diagonal().any()
  assert not (edges & ~common).any()
  # There is an edge wherever parent and child are both labels.
  index = {label_id: k for k, label_id in enumerate(ids)}
  for parent, children in ontology.children.items():
    for child in children:
      if parent in index and child in index:
        assert edges[index[child], index[parent]]
