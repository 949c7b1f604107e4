"""The summary and the plots of a label graph."""

import json
import struct

import numpy as np
import pytest
import scipy.sparse
from test_cli import run

from atgcn_jax.errors import UserError
from atgcn_jax.labels.summary import find_label, graph_row, summary_of
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.reports.label_graph_plots import draw_graph, ordered

NAMES = ("Dog", "Bark", "Rain", "Music", "Piano", "Organ")
VOCABULARY = Vocabulary(tuple(f"/m/{k}" for k in range(6)), NAMES)
# Row i gathers from column j.
MATRIX = np.diag(np.full(6, 0.8)).astype("f")
for receiver, sender, weight in ((0, 1, 0.1), (1, 0, 0.3), (4, 3, 0.2), (5, 3, 0.2), (4, 5, 0.05)):
  MATRIX[receiver, sender] = weight


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_a_summary_counts_senders_and_receivers(form):
  found = summary_of(form(MATRIX))
  assert found.in_degree.tolist() == [1, 1, 0, 0, 2, 1]
  assert found.out_degree.tolist() == [1, 1, 0, 2, 0, 1]
  assert found.isolated.tolist() == [2, 3]
  edges = list(zip(found.receivers.tolist(), found.senders.tolist()))
  assert edges == [(1, 0), (4, 3), (5, 3), (0, 1), (4, 5)]
  assert graph_row(form(MATRIX), 4) == pytest.approx([0, 0, 0, 0.2, 0.8, 0.05])


def test_labels_are_found_by_id_and_name():
  assert find_label(VOCABULARY, "/m/3") == find_label(VOCABULARY, "music") == 3
  with pytest.raises(UserError, match=r"--label Pianno: no such label; did you mean Piano"):
    find_label(VOCABULARY, "Pianno")
  with pytest.raises(UserError, match="give a name or an id"):
    find_label(VOCABULARY, "qqqq")
  twice = Vocabulary(("a", "b", "c"), ("Bell", "bell", "Dog"))
  with pytest.raises(UserError, match="several labels; give one of the ids a, b"):
    find_label(twice, "BELL")
  assert find_label(twice, "b") == 1


def test_similar_labels_are_adjacent():
  weights = np.zeros((6, 6))
  for one, other in ((0, 3), (1, 4), (2, 5)):
    weights[one, other] = 1
  order = ordered(weights, None).tolist()
  assert all(abs(order.index(one) - order.index(other)) == 1 for one, other in ((0, 3), (1, 4)))
  kinds = list("bababa")
  assert [kinds[k] for k in ordered(weights, kinds)] == list("aaabbb")


def size_of(path):
  """Return the width and height of a PNG file."""
  data = path.read_bytes()
  assert data[:8] == b"\x89PNG\r\n\x1a\n"
  return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array])
def test_plots_of_both_forms(form, tmp_path):
  for label in (4, 2):  # one with neighbours, one without
    draw_graph(form(MATRIX), NAMES, summary_of(form(MATRIX)), label, tmp_path / "g.png")
    assert min(size_of(tmp_path / "g.png")) > 500


def test_a_large_graph_is_drawn_in_part(tmp_path):
  random = np.random.default_rng(0)
  matrix = scipy.sparse.random_array((900, 900), density=0.003, rng=random, format="csr")
  names = [f"label {k}" for k in range(900)]
  draw_graph(matrix, names, summary_of(matrix), 0, tmp_path / "g.svg")
  text = (tmp_path / "g.svg").read_text()
  assert "600 of 900 labels, with the most edges" in text
  assert "label 0 and its neighbours" in text


@pytest.fixture
def files(tmp_path):
  write_vocabulary(tmp_path / "v.csv", VOCABULARY)
  pairs = np.zeros((6, 6), np.int64)
  for i, j, count in ((0, 1, 9), (3, 4, 8), (3, 5, 7)):
    pairs[i, j] = pairs[j, i] = count
  np.savez(
    tmp_path / "c.npz",
    mids=np.array(VOCABULARY.ids),
    occurrences=np.array([10, 10, 5, 40, 10, 10]),
    cooccurrences=pairs,
  )
  tops = [
    {"id": "t", "name": "Things", "child_ids": ["/m/0", "/m/1", "/m/2"]},
    {"id": "u", "name": "Tunes", "child_ids": ["/m/3", "/m/4", "/m/5"]},
  ]
  leaves = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]
  (tmp_path / "ontology.json").write_text(json.dumps(tops + leaves))
  return ["graph", "--counts", tmp_path / "c.npz", "--vocabulary", tmp_path / "v.csv"]


def test_the_command_prints_and_plots(files, tmp_path, capsys):
  options = ("--label", "piano", "--plot", tmp_path / "g.svg", "--out", tmp_path / "g.npz")
  assert run(*files, *options, "--ontology", tmp_path / "ontology.json") == 0
  output = capsys.readouterr().out
  assert max(map(len, output.replace(str(tmp_path), "").splitlines())) <= 100
  assert "6 labels, 4 edges, 2 labels without a neighbour" in output
  assert "\n  Rain, Music\n" in output
  assert "median 1, highest:\n  Dog 1, Bark 1, Piano 1, Organ 1, Rain 0" in output
  rows = {
    line.split()[0]: line.split()[1:] for line in output.splitlines() if line.startswith("  ")
  }
  assert "Piano gathers with             paper     author" in output
  weight = f"{0.2 / (2 * 1.8) ** 0.5:.4f}"  # Eq. 7 and Eq. 1; Music has only its own weight
  assert rows["Music"] == [weight, "0.0000"]  # for the two methods; P(music | piano) is 0.8
  assert ["Piano", "<-", "Music", weight, "0.800"] in [line.split() for line in output.splitlines()]
  picture = (tmp_path / "g.svg").read_text()
  assert all(text in picture for text in ("Piano and its neighbours", "Music", "Organ"))


def test_bad_arguments_write_nothing(files, tmp_path, capsys):
  out = ("--out", tmp_path / "g.npz")
  for arguments, message in (
    (("--label", "Pianno"), "did you mean Piano"),
    (("--plot", tmp_path / "g.txt"), "must end in .png, .svg or .pdf"),
    (("--label", "Piano", "--against", "best"), "best"),
    (("--label", "Piano", "--against", "ontology"), "graph.ontology"),
  ):
    assert run(*files, *out, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "g.npz").exists()
  assert run(*files, *out, "--plot", tmp_path / "v.csv" / "g.png") == 2
  assert "--plot" in capsys.readouterr().err
  assert not (tmp_path / "g.npz").exists()
