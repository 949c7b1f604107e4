"""Studies of labels without clips and of forgotten labels."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from runs_support import VOCABULARY, make_store, tiny_config
from test_cli import run
from test_reproduce import SMALL

from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts
from atgcn_jax.paper import few, forgotten, reproduce, unseen
from atgcn_jax.paper.experiments import AT_GCN, CNN10
from atgcn_jax.paper.forgotten import SHARES, with_forgotten
from atgcn_jax.paper.scored_runs import write_head_rates
from atgcn_jax.paper.unseen import draw_labels, estimate_weights, without
from atgcn_jax.paper.unseen_nodes import labels_of
from atgcn_jax.paper.unseen_table import TRAINED, UnseenRow, table_of
from atgcn_jax.runs.added_labels import added_to
from atgcn_jax.runs.calibrations import DEFAULTS
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.run_store import store_of


@pytest.fixture
def draw(tmp_path):
  return draw_labels(VOCABULARY, 0, 2, tmp_path / "known.csv")


def test_a_draw_is_determined_by_its_number(draw, tmp_path):
  again, other = (draw_labels(VOCABULARY, k, 2, tmp_path / f"{k}.csv") for k in (0, 1))
  np.testing.assert_array_equal(again.new, draw.new)
  assert other.new.tolist() != draw.new.tolist()
  assert sorted([*draw.known, *draw.new]) == list(range(6))
  assert len(draw.path.read_text().splitlines()) == 5, "the file of the known labels"
  changed = without(AT_GCN[2], draw, "draw3")
  assert changed.name == "atgcn_2_draw3"
  assert changed.changes[-1] == f"data.vocabulary={draw.path}"


def test_each_form_of_estimate(draw):
  rng = np.random.default_rng(0)
  labels = (rng.random((200, 6)) < 0.4).astype(np.int64)
  together = labels.T @ labels
  counts = Counts(np.diag(together).copy(), together - np.diag(np.diag(together)))
  edges = np.zeros((6, 6), bool)
  edges[draw.new[0], draw.known[1]] = True
  found = estimate_weights(counts, rng.standard_normal((6, 8)), edges, draw)
  k, j = draw.new[0], draw.known[1]
  both = (labels[:, k] & labels[:, j]).sum()
  assert found["along P(k given j)"][0, 1] == pytest.approx(both / labels[:, j].sum())
  assert found["along P(j given k)"][0, 1] == pytest.approx(both / labels[:, k].sum())
  assert found["parents and children in the ontology"].sum() == 1
  cosine = together[k] @ together[j] / np.linalg.norm(together[k]) / np.linalg.norm(together[j])
  assert found["along the cosine of counts"][0, 1] == pytest.approx(cosine)
  assert {matrix.shape for matrix in found.values()} == {(2, 4)}


def test_nodes_gather_by_the_counts_of_the_study(draw, tmp_path):
  labels = (np.random.default_rng(0).random((200, 6)) < 0.4).astype(np.int64)
  together = labels.T @ labels
  counts = Counts(np.diag(together).copy(), together - np.diag(np.diag(together)))
  path = tmp_path / "counts.npz"
  np.savez(path, mids=VOCABULARY.ids, **dataclasses.asdict(counts))
  known, found = VOCABULARY.part(draw.known), {}
  for source in ("store", path):
    config = tiny_config(tmp_path, f"graph.source={source}", f"data.vocabulary={draw.path}")
    made = dataclasses.replace(new_run(config, store_of(config)), propagation=None)
    assert made.vocabulary == known
    found[source] = added_to(made, *labels_of(counts, VOCABULARY, draw), DEFAULTS)
  weights = estimate_weights(counts, np.ones((6, 2)), np.zeros((6, 6), bool), draw)
  np.testing.assert_allclose(found["store"].weights, weights["regression on the known labels"])
  # These are, bit for bit, the weights of labels without counts of their own and a counts file.
  plain = [AddedLabel(VOCABULARY.ids[k], VOCABULARY.names[k]) for k in draw.new]
  read = added_to(made, plain, None, DEFAULTS)
  for one in found.values():
    assert one.kinds == read.kinds == ("counts", "counts")
    np.testing.assert_array_equal(one.weights, read.weights)


def test_the_table_has_intervals_over_draws():
  draws = [
    {"a": np.array([[0.1, np.nan]]), TRAINED: np.array([[0.2, 0.2]])},
    {"a": np.array([[0.3, 0.3]]), TRAINED: np.array([[0.4, 0.2]])},
  ]
  first, _ = table_of(draws)
  assert isinstance(first, UnseenRow)
  assert first.mean == pytest.approx(0.2)
  assert first.share == pytest.approx((0.5 + 1) / 2)
  assert first.low < 0.1
  assert first.share_low < 0.5 < 1 < first.share_high


def test_rates_of_another_table_stay_in_the_file(tmp_path):
  path = tmp_path / "head_rates.csv"
  write_head_rates({"a": {0.3: 0.1, 1.0: 0.2}, "b": {}}, path)
  write_head_rates({"c": {3.0: 0.3}}, path)
  write_head_rates({"a": {1.0: 0.5}}, path)
  rows = list(csv.reader(path.open()))[1:]
  assert rows == [["c", "3", "0.300000", "1"], ["a", "1", "0.500000", "1"]]


def test_forgotten_positives_are_a_change_of_the_config():
  assert with_forgotten(CNN10, 0.0) == CNN10
  assert with_forgotten(CNN10, 0.3).changes == ("data.forgotten_positives=0.3",)
  assert len({with_forgotten(CNN10, share).name for share in SHARES}) == 4


def write_ontology(path):
  """Write an ontology with all labels below one category."""
  nodes = [{"id": "top", "name": "Top", "child_ids": list(VOCABULARY.ids)}]
  pairs = zip(VOCABULARY.ids, VOCABULARY.names)
  nodes += [{"id": label, "name": name, "child_ids": []} for label, name in pairs]
  path.write_text(json.dumps(nodes))
  return path


@pytest.mark.parametrize("what", ["unseen", "few"])
def test_one_fold_of_a_store_with_numbered_folds(what, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(unseen, "LEFT_OUT", 2)

  def score_runs(runs, *_):
    raise UserError(f"folds {runs[0].config.data.test_folds}")

  for module in (unseen, few):
    monkeypatch.setattr(module, "score_runs", score_runs)
  store = make_store(tmp_path / "store.h5", folds="12345")
  command = ("reproduce", what, "--store", store, "--out", tmp_path / "out", "--folds", "3", *SMALL)
  ontology = f"--config.graph.ontology={write_ontology(tmp_path / 'ontology.json')}"
  # The built-in label vectors are not in that folder.
  more = (
    ontology,
    f"--config.data.root={tmp_path}",
    "--config.data.validation_share=0.3",
    "--config.graph.source=store",
  )
  assert run(*command, *more) == 2
  assert "folds ('3',)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_studies_from_training_to_picture(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(unseen, "LEFT_OUT", 2)
  store = make_store(tmp_path / "store.h5")
  ontology = write_ontology(tmp_path / "ontology.json")
  monkeypatch.setattr(forgotten, "SHARES", (0.0, 0.5))
  monkeypatch.setattr(reproduce, "VARIANTS", (CNN10,))
  common = (
    *SMALL,
    "--config.optim.steps=2",
    f"--config.graph.ontology={ontology}",
    "--config.graph.source=store",
  )
  out = tmp_path / "out"
  assert run("reproduce", "unseen", "--store", store, "--out", out, "--draws", "1", *common) == 0
  text = capsys.readouterr().out
  assert "| regression on the known labels |" in text
  assert (out / "unseen.png").stat().st_size > 10_000
  rows = list(csv.DictReader((out / "unseen.csv").open()))
  assert len(rows) == 2
  assert run("reproduce", "forgotten", "--store", store, "--out", out, *common) == 0
  assert "50% removed" in capsys.readouterr().out
  assert len(list(csv.DictReader((out / "forgotten.csv").open()))) == 2 * 2 * 2
  assert run("reproduce", "few", "--store", store, "--out", out, "--seeds", "2", *common) == 0
  printed = capsys.readouterr()
  assert "| classifier | 0 | 1 | 2 |" in printed.out
  assert "positives" not in printed.out.splitlines()[0], "progress is on standard error"
  assert "seed 0, 5 positives" in printed.err
  assert len(list(csv.DictReader((out / "few.csv").open()))) == 4 * 2 * len(few.POSITIVES)
  assert (out / "few.png").stat().st_size > 10_000
