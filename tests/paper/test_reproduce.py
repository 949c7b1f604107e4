"""Tests of reproducing tables and figures on a tiny store: output, resuming, errors."""

import csv
import json
import os
import pathlib
import re
import signal
import time
import types

import numpy as np
import pytest
from runs_support import (
  REPOSITORY,
  VOCABULARY,
  contents,
  make_store,
  start,
  tiny_config,
  trained,
)
from test_cli import run

from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper import experiment_runs, reproduce, tables
from atgcn_jax.paper.experiment_configs import (
  Settings,
  experiment_config,
  refuse_built_graph,
)
from atgcn_jax.paper.experiment_runs import ScoredRun, wanted_runs
from atgcn_jax.paper.experiments import (
  ABLATION,
  AT_GCN,
  CNN10,
  FIGURE3,
  TABLE1,
  TABLE2,
  chosen,
  on_curve,
  with_vectors,
)
from atgcn_jax.paper.score_files import read_scores
from atgcn_jax.runs.config import plain_config
from atgcn_jax.runs.records import read_records
from atgcn_jax.runs.scoring import score_split

CONFIGS = REPOSITORY / "configs" / "table1"
SMALL = (
  *("--config.model.width=0.03125", "--config.model.hidden=64", "--config.graph.embedding_size=9"),
  *("--config.data.batch_size=8", "--config.evaluation.batch_size=8"),
  *("--config.augment.time_width=4", "--config.augment.band_width=2"),
  *("--config.optim.steps=12", "--config.checkpoint.every=3", "--config.log.every=50"),
  "--config.evaluation.every=50",
)
NO_CHOICE = ("--head-rates", "1", "--folds", "test", "--config.data.validation_share=0.0")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  return make_store(tmp_path_factory.mktemp("store") / "store.h5")


@pytest.fixture(scope="module")
def done(tmp_path_factory, store):
  """Return a folder in which two rows were trained with two seeds, without interruption."""
  out = tmp_path_factory.mktemp("done")
  assert run(*command("ablation", store, out)) == 0
  return out


def command(what, store, out, *more):
  rows = ("--rows", "atgcn_1", "--seeds", "2") if what == "ablation" else ()
  return ["reproduce", what, "--store", store, "--out", out, *rows, *SMALL, *more]


def rows_of(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_table_agrees_with_the_scores(done):
  first, second = rows_of(done / "ablation.csv")
  assert (first["name"], second["name"]) == ("cnn10", "atgcn_1")
  assert first["mAP_paper"] == "0.422000"
  for row in (first, second):
    figures = []
    for seed in (0, 1):
      with np.load(done / "scores" / f"{row['name']}-seed{seed}.npz") as saved:
        figures.append(tagging_metrics(saved["scores"], saved["labels"])["mAP"])
    assert float(row["mAP"]) == pytest.approx(np.mean(figures), abs=1e-6)
    assert float(row["mAP_deviation"]) == pytest.approx(np.std(figures, ddof=1), abs=1e-6)
    assert float(row["mAP_low"]) < float(row["mAP"]) < float(row["mAP_high"])
  assert float(second["difference"]) == pytest.approx(
    float(second["mAP"]) - float(first["mAP"]), abs=2e-6
  )
  assert float(second["low"]) < float(second["difference"]) < float(second["high"])
  assert first["difference"] == ""
  text = (done / "ablation.md").read_text()
  assert "| CNN10 | 0.422, 0.970, 2.653 |" in text
  assert "15 test clips, 2 seeds" in text
  assert "intervals are over clips and seeds" in text


@pytest.mark.slow
def test_finished_runs_are_not_repeated(done, store, capsys):
  before = contents(done)
  assert run(*command("ablation", store, done)) == 0
  reported = capsys.readouterr().err.splitlines()
  assert [line.split(", ")[-1] for line in reported] == ["was done"] * 4
  assert contents(done) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*its save was interrupted")
def test_a_killed_reproduction_gives_the_same_table_after_resuming(done, store, tmp_path):
  process = start(*map(str, command("ablation", store, tmp_path)))
  saved = tmp_path / "runs" / "atgcn_1-seed0" / "checkpoints" / "3"
  while not saved.exists():
    assert process.poll() is None
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert not (tmp_path / "ablation.csv").exists()
  assert not (tmp_path / "scores" / "atgcn_1-seed1.npz").exists()
  assert run(*command("ablation", store, tmp_path)) == 0
  for name in ("ablation.csv", "ablation.md"):
    assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


@pytest.mark.slow
def test_figure3_is_trained_point_by_point(store, tmp_path):
  more = ("--points", "0.3", "--folds", "validation", "--config.optim.steps=2")
  assert run(*command("figure3", store, tmp_path, *more)) == 0
  rows = rows_of(tmp_path / "figure3.csv")
  assert [(row["setting"], row["value"]) for row in rows] == [
    ("graph.threshold", "0.3"),
    ("graph.neighbour_weight", "0.3"),
    ("cnn10", ""),
  ]
  assert sorted(path.stem for path in (tmp_path / "scores").iterdir()) == [
    "atgcn_2-foldvalidation-seed0",
    "cnn10-foldvalidation-seed0",
    "neighbour_weight_0.3-foldvalidation-seed0",
  ]
  assert (tmp_path / "figure3.png").exists()


def test_a_fold_is_tested_on_and_the_others_train(store):
  settings = Settings(str(store), pathlib.Path("out"), CONFIGS, 1, ("validation",), SMALL)
  config = experiment_config(AT_GCN[1], settings, open_store(store), "validation", 4)
  assert config.data.train_folds == ("test", "train")
  assert config.data.validation_folds == ()
  assert config.data.test_folds == ("validation",)
  assert (config.seed, config.model.layers, config.optim.steps) == (4, 1, 12)
  assert (config.graph.source, config.graph.embeddings) == ("store", "builtin")
  given = settings._replace(overrides=(*SMALL, "--config.graph.embeddings=random"))
  assert experiment_config(AT_GCN[1], given, open_store(store), "", 0).graph.embeddings == "random"
  vectors = with_vectors("one_hot", "")  # the change of the row overrides the user
  assert experiment_config(vectors, given, open_store(store), "", 0).graph.embeddings == "one_hot"


@pytest.mark.slow
def test_figure4_draws_both_label_spaces(store, tmp_path, capsys):
  tops = [
    {"id": "t", "name": "Low", "child_ids": [VOCABULARY.ids[k] for k in (0, 1, 2)]},
    {"id": "u", "name": "High", "child_ids": [VOCABULARY.ids[k] for k in (3, 4, 5)]},
  ]
  leaves = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]
  (tmp_path / "ontology.json").write_text(json.dumps(tops + leaves))
  options = (f"--config.graph.ontology={tmp_path}/ontology.json", "--config.optim.steps=2")
  assert run(*command("figure4", store, tmp_path, *options)) == 0
  assert "| silhouette, High |" in capsys.readouterr().out
  assert [row["figure"] for row in rows_of(tmp_path / "figure4.csv")][:2] == [
    "silhouette, High",
    "silhouette, Low",
  ]


def test_figure4_is_of_the_tested_step(store, tmp_path, monkeypatch):
  nodes = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]
  (tmp_path / "ontology.json").write_text(json.dumps(nodes))

  def run_all(wanted, settings):
    return {one.name: [ScoredRun(one, 0, "", tmp_path, *[None] * 2)] for one in wanted}

  steps = []
  monkeypatch.setattr(reproduce, "run_all", run_all)
  monkeypatch.setattr(
    reproduce, "load_run", lambda workdir, step, mesh: steps.append(step) or 1 / 0
  )
  changed = (*SMALL, f"--config.graph.ontology={tmp_path}/ontology.json")
  settings = Settings(str(store), tmp_path, CONFIGS, 1, (), changed, step="best")
  with pytest.raises(ZeroDivisionError):
    reproduce.reproduce("figure4", settings, [], [])
  assert steps == ["best"]


@pytest.mark.slow
def test_the_restart_starts_from_the_baseline_of_its_seed(store, tmp_path):
  more = ("--rows", "atgcn_restart", "--config.optim.steps=2")
  assert run(*command("table1", store, tmp_path, *more)) == 0
  with np.load(tmp_path / "scores" / "atgcn_restart-seed0.npz") as saved:
    start_of = json.loads(str(saved["config"]))["start"]
  assert start_of == {"run": str(tmp_path / "runs" / "cnn10-seed0"), "step": "best"}
  settings = Settings(str(store), tmp_path, CONFIGS, 1, (), SMALL)
  goes_on = next(row for row in ABLATION if row.name == "cnn10_restart")
  config = experiment_config(goes_on, settings, open_store(store), "", 1)
  assert config.model.head == "linear"
  assert config.start.to_dict() == {
    "run": str(tmp_path / "runs" / "cnn10-seed1"),
    "step": "latest",
  }


@pytest.mark.slow
def test_each_head_has_the_rate_that_validates_best(store, tmp_path, capsys):
  more = ("--head-rates", "0.001,30", "--step", "best", "--config.evaluation.every=3")
  assert run(*command("ablation", store, tmp_path, *more)) == 0
  tried = rows_of(tmp_path / "head_rates.csv")
  assert [(row["name"], row["head_rate"]) for row in tried] == [
    *(("cnn10", "0.001"), ("cnn10", "30"), ("atgcn_1", "0.001"), ("atgcn_1", "30"))
  ]
  runs = []
  for name in ("cnn10", "atgcn_1"):
    rows = [row for row in tried if row["name"] == name]
    best = max(rows, key=lambda row: float(row["validation_mAP"]))
    assert [row["chosen"] for row in rows] == [str(int(row is best)) for row in rows]
    runs += [f"{name}_head_{best['head_rate']}-seed{seed}" for seed in (0, 1)]
    recorded = history(tmp_path / "runs" / runs[-2])
    assert float(best["validation_mAP"]) == pytest.approx(max(recorded.values()), abs=1e-6)
  assert sorted(path.stem for path in (tmp_path / "scores").iterdir()) == sorted(runs)
  for name in runs:
    # The scores are those of the best step.
    recorded = history(tmp_path / "runs" / name)
    at_best = score_split(
      tmp_path / "runs" / name, str(max(recorded, key=recorded.get)), None, "test"
    )
    with np.load(tmp_path / "scores" / f"{name}.npz") as saved:
      assert np.array_equal(saved["scores"], at_best.scores)
  assert "rate was chosen from 0.001, 30" in (tmp_path / "ablation.md").read_text()
  capsys.readouterr()
  assert run(*command("ablation", store, tmp_path, *more)) == 0
  assert [line.split(", ")[-1] for line in capsys.readouterr().err.splitlines()] == ["was done"] * 4


def history(workdir):
  """Return validation mAP by step."""
  return {record["step"]: record["mAP"] for record in read_records(workdir) if "mAP" in record}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("table1", "--rows", "vgg"), "--rows vgg: not a row; choose from google_cnn,"),
    (("table1", "--seeds", "0"), "--seeds 0: must be at least 1"),
    (("figure3", "--points", "0,x"), "--points 0,x: give numbers"),
    (("figure3", "--points", "2"), "--points 2: give numbers"),
    (("table1", "--head-rates", "1,x"), "--head-rates 1,x: give numbers above 0, as in 1,3,10"),
    (("table1", "--head-rates", "0"), "--head-rates 0: give numbers above 0"),
    (
      ("table1", *NO_CHOICE),
      "--head-rates: .* has no validation clips; set --config.data.validation_share",
    ),
    (("table1", "--folds", "9"), "has no fold 9; it has test, train, validation"),
    (("table1", "--configs", "nowhere"), "--configs nowhere: has no cnn10.py"),
    (("table1", "--config.model.widht=1"), "unknown config key"),
    (("figure5",), "invalid choice"),
    (("unseen", "--folds", "1,2"), "--folds 1,2: unseen tests on one fold; name one"),
    (("figure4", "--folds", "1,2"), "--folds 1,2: figure4 tests on one fold; name one"),
    (("figure4", "--seeds", "3"), "--seeds 3: figure4 shows the run with seed 0; leave it out"),
    (
      ("unseen", "--rows", "cnn10"),
      "--rows: only for table1, table2, ablation; unseen does not use",
    ),
    (
      ("table1", "--points", "0.1"),
      "--points: only for figure3; table1 does not use it",
    ),
    (("few", "--draws", "3"), "--draws: only for unseen; few does not"),
    (("few", "--head-rates", "1,3"), "--head-rates: few does not choose rates; set --config"),
    (("few", "--config.data.vocabulary=a.csv"), "--config.data.vocabulary: few sets it itself"),
    (("figure3", "--config.graph.threshold=0.4"), "--config.graph.threshold: figure3 sets it"),
  ],
)
def test_bad_arguments(store, tmp_path, capsys, arguments, message):
  what, *more = arguments
  assert run("reproduce", what, "--store", store, "--out", tmp_path / "out", *more) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert re.search(message, lines[0])
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["table2", "figure3"])
def test_one_graph_for_rows_that_build_it_in_different_ways(store, tmp_path, capsys, what):
  built = tmp_path / "graph.npz"
  np.savez(built, mids=VOCABULARY.ids, propagation=np.eye(6))
  source = f"--config.graph.source={built}"
  assert run(*command(what, store, tmp_path / "out", source)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"graph.source: {built} is a graph that is built already, but the run " in line
  assert not (tmp_path / "out").exists()
  # Rows that only change the system may share a graph.
  settings = Settings(str(store), tmp_path, CONFIGS, 1, (), (*SMALL, source))
  refuse_built_graph(TABLE1, settings, open_store(store))


@pytest.mark.parametrize("in_file", [False, True])
def test_a_reproduction_bit_for_bit_on_a_gpu(store, tmp_path, monkeypatch, in_file):
  monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")

  def check_runs(*_):
    raise UserError("stop")

  monkeypatch.setattr(experiment_runs, "check_runs", check_runs)
  for name in ("cnn10", "atgcn"):
    text = f"def get_config(): return dict(deterministic={in_file})"
    (tmp_path / f"{name}.py").write_text(text)
  more = () if in_file else ("--config.deterministic=True",)
  words = command("figure3", store, tmp_path / "out", "--configs", tmp_path, *more)
  assert run(*words) == 2
  assert os.environ["XLA_FLAGS"] == "--xla_of_the_user=1 --xla_gpu_deterministic_ops=true"


def test_the_runs_have_the_steps_of_their_passes(store):
  settings = Settings(str(store), pathlib.Path("out"), CONFIGS, 1, (), SMALL)
  passes = settings._replace(overrides=(*SMALL, "--config.optim.passes=8"))
  opened = open_store(store)
  steps = [wanted_runs([CNN10], s, opened)[0].config.optim.steps for s in (settings, passes)]
  assert steps == [12, 30], "30 training clips in batches of 8"


@pytest.mark.parametrize("what", ["table1", "unseen", "few"])
def test_a_folder_that_cannot_be_made(store, tmp_path, capsys, what):
  (tmp_path / "file").touch()
  assert run(*command(what, store, tmp_path / "file" / "out")) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert lines[0].startswith(f"atgcn reproduce: --out {tmp_path}/file/out: ")


@pytest.mark.slow
def test_another_store_in_the_same_folder_is_refused(done, tmp_path, capsys):
  other = make_store(tmp_path / "other.h5", seed=5)
  before = contents(done)
  assert run(*command("ablation", other, done)) == 2
  assert "not the clip store that the run" in capsys.readouterr().err
  assert contents(done) == before


def test_the_papers_rows():
  figures = {e.name: e.published.map for e in (*TABLE1, *TABLE2) if e.published}
  assert figures == {
    "google_cnn": 0.314,
    "multilevel_attention": 0.362,
    "talnet": 0.367,
    "deepres": 0.392,
    "cnn10": 0.422,
    "atgcn_1": 0.428,
    "atgcn_2": 0.434,
    "atgcn_3": 0.430,
    "graph_binary": 0.431,
    "graph_ontology": 0.429,
    "graph_none": 0.132,
    "graph_threshold": 0.267,
    "graph_reweight": 0.188,
  }
  assert on_curve(FIGURE3[0], 0.3) == on_curve(FIGURE3[1], 0.2) == AT_GCN[2]
  assert on_curve(FIGURE3[0], 0.2).changes == ("graph.threshold=0.2",)
  assert [e.name for e in chosen(ABLATION, ["atgcn_3"])] == ["cnn10", "atgcn_3"]


def scored_runs(experiment, shifts, folds=("",), clips=60):
  """Return runs of an experiment; scores are noise plus the labels times the shift of the seed."""
  runs = []
  for fold in folds:
    random = np.random.default_rng(len(fold))
    labels = (random.random((clips, 3)) < 0.4).astype(np.uint8)
    noise = random.standard_normal((clips, 3))
    runs += [
      ScoredRun(experiment, seed, fold, None, noise + shift * labels, labels)
      for seed, shift in enumerate(shifts)
    ]
  return runs


def test_intervals_are_over_seeds_if_there_are_several():
  baseline, ours = scored_runs(CNN10, (0.5, 0.5, 0.5)), scored_runs(AT_GCN[2], (0.2, 0.8, 2.0))
  widths = []
  for runs in (ours, [ours[1]._replace(seed=0)]):
    row = tables.table_row(runs, baseline[: len(runs)], AT_GCN[2])
    assert row.map_low < row.means[0] < row.map_high
    assert row.low < row.difference < row.high
    widths.append((row.map_high - row.map_low, row.high - row.low))
  assert np.all(np.array(widths[0]) > 2 * np.array(widths[1]))
  text = tables.table_markdown([row], "", "")
  assert "intervals are over clips only: one seed does not show how trainings differ" in text
  assert f"[{row.map_low:.3f}, {row.map_high:.3f}]" in text


def test_folds_add_clips():
  pairs = [
    (scored_runs(AT_GCN[2], (1,), folds), scored_runs(CNN10, (0.5,), folds))
    for folds in (("1",), ("1", "22"))
  ]
  (one, one_low, one_high), (both, low, high) = (tables.paired_difference(*pair) for pair in pairs)
  assert high - low < one_high - one_low
  figures = [tagging_metrics(run.scores, run.labels)["mAP"] for run in (*pairs[1][0], *pairs[1][1])]
  assert both == pytest.approx(np.mean(figures[:2]) - np.mean(figures[2:]))
  assert one == pytest.approx(figures[0] - figures[2])


def test_the_interval_covers_a_known_difference():
  """Check the coverage for two systems of known true difference, over many draws of clips."""
  covered = []
  for draw in range(12):
    random = np.random.default_rng(draw)
    labels = (random.random((150, 3)) < 0.4).astype(np.uint8)
    noise = random.standard_normal((2, 150, 3))
    runs = [
      ScoredRun(experiment, 0, "", None, labels + spread * noise[i], labels)
      for i, (experiment, spread) in enumerate(((CNN10, 1.0), (AT_GCN[2], 0.8)))
    ]
    difference, low, high = tables.paired_difference([runs[1]], [runs[0]])
    assert low < difference < high
    covered.append(low < 0.0663 < high)  # the mean of 3,000 draws
  assert sum(covered) >= 9


@pytest.mark.parametrize(
  ("change", "is_kept"),
  [
    ("data.vocabulary=part.csv", False),
    ("graph.source=counts.npz", False),
    ("graph.embeddings=glove.npz", False),
    ("graph.ontology=ontology.json", False),
    ("start.run=elsewhere/runs/cnn10-seed0", True),  # a folder that was moved
    ("start.run=paper/runs/cnn10_head_0.1-seed0", False),
  ],
)
def test_scores_with_other_files_are_not_reused(tmp_path, change, is_kept):
  config = tiny_config(trained().parent, "start.run=paper/runs/cnn10-seed0")
  np.savez(
    tmp_path / "scores.npz",
    scores=np.zeros((2, 3), np.float32),
    labels=np.zeros((2, 3), np.uint8),
    names=np.array(["A", "B", "C"]),
    config=np.array(json.dumps(plain_config(config))),
    store=np.array("store"),
  )
  changed = tiny_config(trained().parent, "start.run=paper/runs/cnn10-seed0", change)
  store = types.SimpleNamespace(fingerprint="store")
  assert read_scores(tmp_path / "scores.npz", config, store, "latest") is not None
  assert (read_scores(tmp_path / "scores.npz", changed, store, "latest") is not None) == is_kept


def test_the_rate_is_chosen_at_the_step_that_is_tested(monkeypatch, tmp_path):
  def run_of(*precisions):
    history = [{"step": step, "mAP": value} for step, value in enumerate(precisions)]
    return types.SimpleNamespace(workdir=tmp_path, history=history)

  monkeypatch.setattr(experiment_runs, "finished_run", lambda run: run)
  assert experiment_runs.validation_map(run_of(0.1, 0.5, 0.3), "latest") == 0.3
  assert experiment_runs.validation_map(run_of(0.1, 0.5, 0.3), "best") == 0.5
  with pytest.raises(UserError, match=r"--head-rates: the validation mAP of .* is undefined"):
    experiment_runs.validation_map(run_of(None, None), "best")
