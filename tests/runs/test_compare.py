"""Comparisons of two runs, and evaluations on other stores and labels, against manual results."""

import csv
import functools
import hashlib
import itertools
import json
import pathlib
import re
import shutil

import h5py
import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from marks import slow
from runs_support import HOME, VOCABULARY, contents, make_store, saved_run, tiny_config, trained
from sklearn.metrics import average_precision_score, roc_auc_score
from test_cli import run

from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary, read_label_ids
from atgcn_jax.paper import tables
from atgcn_jax.paper.experiment_runs import ScoredRun
from atgcn_jax.paper.experiments import CNN10
from atgcn_jax.reports.comparison import comparison_markdown, comparison_text
from atgcn_jax.reports.comparison_plot import draw_comparison
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs.compare import (
  compare,
  most_changed,
  neighbours_of,
  rank_correlation,
)
from atgcn_jax.runs.scoring import score_split

pytestmark = pytest.mark.usefixtures("plain_pages")

PART = Vocabulary(("/m/4", "/m/0", "/m/2"), ("Hiss", "Hum", "Whistle"))


@functools.cache
def plain():
  """Return the read-only folder of an untrained CNN10."""
  return saved_run(HOME / "plain", tiny_config(trained().parent, "model.head=linear"))


@functools.cache
def found():
  """Return the comparison of the untrained CNN10 and the trained AT-GCN."""
  return compare(plain(), trained())


@functools.cache
def turned_around():
  """Return the comparison of the trained AT-GCN and the untrained CNN10."""
  return compare(trained(), plain())


@functools.cache
def scores_of(*workdirs):
  """Return the scores of the test clips of the read-only runs."""
  return [score_split(workdir, "latest", None, "test") for workdir in workdirs]


def relabelled(path, vocabulary, **changes):
  """Write the tiny store with the labels of another vocabulary, without the labels it lacks."""
  make_store(path, **changes)
  with h5py.File(path, "r+") as file:
    settings = json.loads(file.attrs["settings"])
    offsets, indices = file["label_offsets"][()], file["label_indices"][()]
    kept = [
      [
        vocabulary.index[VOCABULARY.ids[k]]
        for k in indices[start:end]
        if VOCABULARY.ids[k] in vocabulary.index
      ]
      for start, end in itertools.pairwise(offsets)
    ]
    settings |= {"label_ids": vocabulary.ids, "label_names": vocabulary.names}
    file.attrs["settings"] = json.dumps(settings)
    file.attrs["fingerprint"] = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    for name, array in (
      ("label_offsets", np.cumsum([0, *map(len, kept)], dtype=np.int64)),
      ("label_indices", np.array([*itertools.chain(*kept)], np.int32)),
    ):
      del file[name]
      file[name] = array
  return str(path)


def test_metrics_match_scikit_learn():
  a, b = scores_of(plain(), trained())
  for metrics, scored in zip(found().metrics, (a, b)):
    for key, measure in (("average_precision", average_precision_score), ("auc", roc_auc_score)):
      by_hand = [measure(scored.labels[:, k], scored.scores[:, k]) for k in range(6)]
      np.testing.assert_allclose(metrics[key], by_hand, atol=1e-9)
    assert metrics["mAP"] == pytest.approx(metrics["average_precision"].mean())
  assert found().steps == (0, 30)
  assert found().clips == 15
  np.testing.assert_array_equal(found().positives, b.labels.sum(axis=0))


def test_interval_matches_that_of_the_paper_tables():
  a, b = (
    ScoredRun(CNN10, 0, "", pathlib.Path(), s.scores, s.labels)
    for s in scores_of(plain(), trained())
  )
  expected = tables.paired_difference([b], [a])
  assert (found().difference, found().low, found().high) == pytest.approx(expected)
  assert found().low < found().difference < found().high
  auc_a, auc_b = (metrics["mAUC"] for metrics in found().metrics)
  assert found().mauc_low < auc_b - auc_a < found().mauc_high
  turned = turned_around()
  assert (turned.difference, turned.low, turned.high) == pytest.approx(
    (-expected[0], -expected[2], -expected[1])
  )


def test_neighbours():
  graph = scores_of(trained())[0].loaded.run.propagation
  by_hand = [sum(graph[i, j] != 0 for j in range(6) if j != i) for i in range(6)]
  for comparison, graph_of in ((found(), "B"), (turned_around(), "A")):
    np.testing.assert_array_equal(comparison.neighbours, by_hand)
    assert comparison.graph_of == graph_of
  np.testing.assert_array_equal(neighbours_of(scipy.sparse.csr_array(graph)), by_hand)
  alone = compare(plain(), plain())
  assert alone.neighbours is None
  assert "Neither run has a label graph" in comparison_text(alone)
  assert (alone.difference, alone.low, alone.high) == (0, 0, 0)


def test_rank_correlation():
  changes, neighbours = np.array([0.1, -0.2, 0.3, np.nan, 0.2, 0.2]), np.array([3, 0, 9, 50, 4, 1])
  expected = scipy.stats.spearmanr(changes[[0, 1, 2, 4, 5]], neighbours[[0, 1, 2, 4, 5]])
  defined = rank_correlation(changes, neighbours)
  assert defined == {"correlation": expected.statistic, "p_value": expected.pvalue}
  assert f"rank correlation {expected.statistic:+.3f}" in comparison_text(
    found()._replace(**defined)
  )
  for undefined in (
    rank_correlation(changes, None),
    rank_correlation(changes, np.full(6, 5)),
    rank_correlation(np.full(6, np.nan), neighbours),
  ):
    assert np.isnan(list(undefined.values())).all()
    text = comparison_text(found()._replace(**undefined))
    assert "the rank correlation is undefined" in text


def test_labels_that_gain_and_lose_most():
  metrics = tuple(
    metrics | {"average_precision": np.array(values)}
    for metrics, values in zip(
      found().metrics, ([0.5, 0.2, np.nan, 0.9, 0.1, 0.4], [0.6, 0.7, np.nan, 0.9, 0.0, 0.1])
    )
  )
  changed = found()._replace(metrics=metrics)
  gaining, losing = most_changed(changed, 10)
  assert (gaining.tolist(), losing.tolist()) == ([1, 0], [5, 4])
  assert [part.tolist() for part in most_changed(changed, 1)] == [[1], [5]]
  text = comparison_text(changed)
  assert text.index("Drone") < text.index("Hum")
  assert "Piping" not in text


def test_a_table_of_100_columns():
  names = tuple(f"{'A name | that goes on and on ' * 3}{k}" for k in range(6))
  long = found()._replace(
    vocabulary=Vocabulary(VOCABULARY.ids, names), runs=("/folder" * 30, "b"), known=(6, 527)
  )
  assert max(map(len, comparison_text(long).splitlines())) <= 100
  for line in comparison_markdown(long).splitlines():
    if line.startswith("| A name"):
      assert line.replace("\\|", "").count("|") == 7


def test_what_the_command_writes_and_prints(tmp_path, capsys):
  before = contents(trained()), contents(plain())
  out = tmp_path / "new" / "folder"
  assert run("compare", plain(), trained(), "--out", out, "--json") == 0
  printed = capsys.readouterr()
  assert printed.err == ""
  result = json.loads(printed.out.splitlines()[-1])
  assert result["difference"] == pytest.approx(result["mAP_b"] - result["mAP_a"])
  assert result["mAUC_difference"] == pytest.approx(result["mAUC_b"] - result["mAUC_a"])
  assert result["mAUC_low"] < result["mAUC_difference"] < result["mAUC_high"]
  assert result["clip_ids_sha256"] == found().clip_ids_sha256
  assert (result["clips"], result["classes"], result["graph_of"]) == (15, 6, "B")
  assert sorted(contents(out)) == ["compare.csv", "compare.md", "compare.png"]
  with open(out / "compare.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [row["mid"] for row in rows] == list(VOCABULARY.ids)
  for k, row in enumerate(rows):
    a, b = (float(row[f"average_precision_{name}"]) for name in "ab")
    assert float(row["difference"]) == pytest.approx(b - a)
    assert b == pytest.approx(found().metrics[1]["average_precision"][k])
    assert int(row["positives"]) == found().positives[k]
    assert int(row["neighbours"]) == found().neighbours[k]
  assert contents(out)["compare.png"].startswith(b"\x89PNG")
  assert "![" in (out / "compare.md").read_text()
  assert run("compare", plain(), trained(), "--out", out) == 0
  printed = capsys.readouterr().out
  assert f"{result['mAP_b']:.4f}" in printed
  assert "95 % interval" in printed
  assert str(out / "compare.png") in printed
  assert (contents(trained()), contents(plain())) == before


def test_default_output_is_in_the_second_run(tmp_path):
  copy = shutil.copytree(plain(), tmp_path / "run")
  assert run("compare", plain(), copy) == 0
  assert sorted(contents(copy / "compare")) == ["compare.csv", "compare.md", "compare.png"]


@pytest.mark.slow
def test_plot_of_many_labels_with_many_neighbours():
  random = np.random.default_rng(0)
  K = 120
  values = random.uniform(0, 1, (2, K))
  values[:, 3] = np.nan
  many = found()._replace(
    vocabulary=Vocabulary(tuple(map(str, range(K))), tuple(f"$Label_{k}" for k in range(K))),
    positives=random.integers(1, 900, K),
    neighbours=random.integers(0, 400, K),
    metrics=tuple(m | {"average_precision": ap} for m, ap in zip(found().metrics, values)),
  )
  picture = draw_comparison(many)
  assert picture == draw_comparison(many)
  assert picture != draw_comparison(many._replace(neighbours=None))
  undefined = tuple(m | {"average_precision": np.full(K, np.nan)} for m in found().metrics)
  assert draw_comparison(many._replace(metrics=undefined))


@pytest.mark.slow
def test_a_store_of_the_same_labels_in_another_order(tmp_path):
  turned = Vocabulary(VOCABULARY.ids[::-1], VOCABULARY.names[::-1])
  store = relabelled(tmp_path / "turned.h5", turned)
  there = shutil.copytree(trained(), tmp_path / "run")
  one, other = evaluate(there, store_path=store), evaluate(there)
  assert {one.pop("store"), other.pop("store")} == {"turned.h5", "store.h5"}
  assert one.pop("store_fingerprint") != other.pop("store_fingerprint")
  assert one == other
  comparison = compare(plain(), trained(), store_path=store)
  assert comparison.vocabulary == VOCABULARY
  assert comparison.difference == found().difference


def test_a_store_of_some_of_the_labels(tmp_path):
  store = relabelled(tmp_path / "part.h5", PART)
  there = shutil.copytree(trained(), tmp_path / "run")
  (scored,) = scores_of(trained())
  result = evaluate(there, store_path=store)
  chosen = [0, 2, 4]
  by_hand = [average_precision_score(scored.labels[:, k], scored.scores[:, k]) for k in chosen]
  assert result["mAP"] == pytest.approx(np.mean(by_hand))
  assert (result["classes"], result["clips"]) == (3, 15)
  stem = f"test-30-part-{result['store_fingerprint'][:8]}"
  with open(there / "evaluation" / f"{stem}.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["mid"] for row in rows] == ["/m/0", "/m/2", "/m/4"]
  np.testing.assert_allclose([float(row["average_precision"]) for row in rows], by_hand, atol=1e-9)
  page = (there / "evaluation" / f"{stem}.html").read_text()
  assert "Squeak" not in page.split("<pre")[0]
  comparison = compare(plain(), trained(), store_path=store)
  np.testing.assert_array_equal(comparison.neighbours, found().neighbours[chosen])
  assert "Of the 6 labels of A and 6 of B" in comparison_text(comparison)


@pytest.mark.parametrize(
  "text",
  [slow("/m/4\n\n/m/0\n/m/4\n"), 'index,mid,display_name\n9,/m/4,"Hiss, long"\n2,/m/0,Hum\n'],
)
def test_named_labels(tmp_path, text, capsys):
  (tmp_path / "two.csv").write_text(text)
  there = shutil.copytree(trained(), tmp_path / "run")
  (scored,) = scores_of(trained())
  assert read_label_ids(tmp_path / "two.csv") == ["/m/4", "/m/0"]
  options = ("--labels", tmp_path / "two.csv", "--json")
  assert run("evaluate", "--workdir", there, *options) == 0
  result = json.loads(capsys.readouterr().out.splitlines()[-1])
  by_hand = [average_precision_score(scored.labels[:, k], scored.scores[:, k]) for k in (0, 4)]
  assert result["mAP"] == pytest.approx(np.mean(by_hand))
  assert (result["classes"], result["clips"]) == (2, 15)
  written = json.loads((there / "evaluation" / "test-30-two.json").read_text())
  assert written == result
  comparison = compare(plain(), trained(), labels_path=str(tmp_path / "two.csv"))
  assert comparison.vocabulary.ids == ("/m/0", "/m/4")
  assert comparison.metrics[1]["mAP"] == pytest.approx(result["mAP"])


def test_labels_that_a_run_does_not_have(tmp_path):
  more = Vocabulary((*VOCABULARY.ids, "/m/9"), (*VOCABULARY.names, "Thud"))
  store = make_store(tmp_path / "more.h5", vocabulary=more)
  there = shutil.copytree(trained(), tmp_path / "run")
  with pytest.raises(UserError, match=r"more.h5: has another .* /m/9, Thud"):
    evaluate(there, store_path=str(store))
  (tmp_path / "known.txt").write_text("/m/1\n/m/3\n")
  result = evaluate(there, store_path=str(store), labels_path=str(tmp_path / "known.txt"))
  assert result["classes"] == 2
  assert compare(plain(), trained(), store_path=str(store)).difference == found().difference


def test_all_clips_of_a_store_in_any_fold(tmp_path):
  there = shutil.copytree(trained(), tmp_path / "run")
  result = evaluate(there, split="all")
  assert (result["clips"], result["folds"]) == (60, ["test", "train", "validation"])
  assert (there / "evaluation" / "all-30.json").exists()


def test_clips_in_another_order_and_a_run_of_other_labels(tmp_path):
  store = relabelled(tmp_path / "store.h5", PART)
  other = saved_run(tmp_path / "run", tiny_config(tmp_path, "model.head=linear"))
  comparison = compare(trained(), other)
  assert comparison.vocabulary == PART
  assert (comparison.known, comparison.graph_of) == ((6, 3), "A")
  np.testing.assert_array_equal(comparison.neighbours, found().neighbours[[4, 0, 2]])
  # The same clips in reverse order.
  with h5py.File(store, "r+") as file:
    lists = np.split(file["label_indices"][()], file["label_offsets"][1:-1])[::-1]
    file["label_offsets"][...] = np.cumsum([0, *map(len, lists)])
    file["label_indices"][...] = np.concatenate(lists)
    for name in ("log_mel", "peak_db", "clip_ids", "folds"):
      file[name][...] = file[name][()][::-1]
  turned = compare(trained(), other)
  assert turned.difference == pytest.approx(comparison.difference, abs=1e-9)
  np.testing.assert_allclose(
    turned.metrics[1]["average_precision"], comparison.metrics[1]["average_precision"], atol=1e-9
  )


@pytest.mark.parametrize(
  ("changes", "shifted", "complaint"),
  [
    ({"clips": 64}, False, "only .* has clip63"),
    ({}, True, "clip clip3 has other labels"),
    ({"vocabulary": Vocabulary(tuple("abcdef"), tuple("ABCDEF"))}, False, "has no label of"),
  ],
)
def test_runs_that_cannot_be_compared(tmp_path, changes, shifted, complaint, capsys):
  make_store(tmp_path / "store.h5", **changes)
  if shifted:
    with h5py.File(tmp_path / "store.h5", "r+") as file:
      file["label_indices"][...] = (file["label_indices"][()] + 1) % 6
  other = saved_run(tmp_path / "run", tiny_config(tmp_path, "model.head=linear"))
  before = contents(tmp_path)
  assert run("compare", trained(), other) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("atgcn compare: ")
  assert re.search(complaint, line), line
  assert contents(tmp_path) == before
