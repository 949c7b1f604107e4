"""Evaluation against the same metrics computed manually from the module."""

import base64
import csv
import functools
import hashlib
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
import soundfile
from runs_support import (
  VOCABULARY,
  contents,
  make_store,
  saved_run,
  tiny_config,
  trained,
  wav,
  waveforms,
)

from atgcn_jax import cli
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.intervals import intervals
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.reports import evaluation as evaluation
from atgcn_jax.reports.confusions import break_even_thresholds, worst_mistakes
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs import scoring
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.scoring import score_clips
from atgcn_jax.runs.thresholds import tune
from atgcn_jax.training import sharding
from atgcn_jax.training.step import make_score_step


@pytest.fixture
def run(tmp_path, plain_pages):
  return shutil.copytree(trained(), tmp_path / "run")


def scored_by_hand(workdir, split, step="latest"):
  """Return scores and labels [N, K] of a split, by one pass of the module over dB in NumPy."""
  loaded = load_run(workdir, step, sharding.data_mesh(jax.devices()[:1]))
  store = open_store(loaded.run.config.data.store)
  fold = {"train": "train", "validation": "validation", "test": "test"}[split]
  clips = np.flatnonzero(store.folds == fold)
  decibels = store.log_mel[clips] * (80 / 255) + store.peak_db[clips][:, None, None] - 80
  inputs = (decibels - loaded.run.normaliser.mean) / loaded.run.normaliser.deviation
  apply = jax.jit(functools.partial(loaded.run.model().apply, train=False))
  logits = apply(loaded.state, np.float32(inputs))
  labels = np.zeros((len(clips), 6))
  for row, clip in zip(labels, clips):
    row[store.label_indices[store.label_offsets[clip] : store.label_offsets[clip + 1]]] = 1
  return 1 / (1 + np.exp(-np.asarray(logits, np.float64))), labels


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_metrics_match_those_of_the_module(run, split):
  scores, labels = scored_by_hand(run, split)
  assert len(scores) % 8, "a ragged last batch is part of the test"
  expected = tagging_metrics(scores, labels)
  result = evaluate(run, split=split)
  for key in ("mAP", "mAUC", "d_prime"):
    assert result[key] == pytest.approx(expected[key], abs=1e-9), key
  assert result["clips"] == len(scores)
  assert result["classes"] == 6
  assert (result["step"], result["split"], result["folds"]) == (30, split, [split])
  assert result["positives"] == labels.sum()
  for key, limit in intervals(scores, labels).items():
    assert result[key] == pytest.approx(limit, abs=1e-6), key
  for key in ("mAP", "mAUC"):
    assert 0 < result[f"{key}_low"] < result[key] < result[f"{key}_high"] < 1


def test_the_hash_is_of_the_clips_scored(run):
  store = open_store(load_run(run, "latest", sharding.data_mesh()).run.config.data.store)
  ids = sorted(store.clip_ids[store.folds == "test"])
  expected = hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest()
  assert evaluate(run)["clip_ids_sha256"] == expected
  assert evaluate(run, split="validation")["clip_ids_sha256"] != expected


def test_eight_devices_score_as_one_does():
  assert jax.device_count() == 8
  loaded = load_run(trained(), "latest", sharding.data_mesh())
  store = open_store(loaded.run.config.data.store)
  clips = split_clips(store, splits_of(loaded.run.config), "test")
  found = []
  for devices in (jax.devices(), jax.devices()[:1]):
    mesh = sharding.data_mesh(devices)
    score = make_score_step(loaded.run.model(), mesh, normaliser=loaded.run.normaliser)
    state = jax.device_put(loaded.state, sharding.replicated(mesh))
    found.append(score_clips(score, state, store, clips, 8, mesh)[0])
  assert found[0].shape == (15, 6)
  np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_the_command_prints_one_json_object_last(run, capsys):
  assert cli.main(["evaluate", "--workdir", str(run), "--json"]) == 0
  printed = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert {"mAP", "mAUC", "d_prime", "clips", "classes", "step", "split"} <= printed.keys()
  assert {"mAP_low", "mAP_high", "mAUC_low", "mAUC_high"} <= printed.keys()
  assert {"positives", "folds", "clip_ids_sha256"} <= printed.keys()
  assert printed["split"] == "test"
  assert printed == json.loads((run / "evaluation" / "test-30.json").read_text())
  assert cli.main(["evaluate", "--workdir", str(run)]) == 0
  assert f"{printed['mAP']:.4f}" in capsys.readouterr().out


def test_written_files(tmp_path):
  run = shutil.copytree(trained(), tmp_path / "run")
  result = evaluate(run)
  with open(run / "evaluation" / "test-30.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [row["mid"] for row in rows] == list(VOCABULARY.ids)
  assert [row["display_name"] for row in rows] == list(VOCABULARY.names)
  scores, labels = scored_by_hand(run, "test")
  expected = tagging_metrics(scores, labels)
  np.testing.assert_array_equal([int(row["positives"]) for row in rows], labels.sum(axis=0))
  for column, key in (("average_precision", "average_precision"), ("auc", "auc")):
    np.testing.assert_allclose([float(row[column]) for row in rows], expected[key], atol=1e-9)
  page = (run / "report.html").read_text(encoding="utf-8")
  assert "vectors with a label graph" in page
  assert f"{result['mAP']:.3f}" in page
  assert f"{result['mAP_low']:.4f}" in page
  assert result["clip_ids_sha256"] in page


def test_the_title_names_the_folder(run, monkeypatch):
  monkeypatch.chdir(run)
  evaluate(".")
  assert ": run run, split test, step 30</h1>" in (run / "report.html").read_text()


@pytest.mark.slow
def test_pages_of_other_splits_and_steps_do_not_replace_each_other(run):
  evaluate(run)
  first = (run / "report.html").read_bytes()
  best = load_run(run, "best", sharding.data_mesh()).step
  evaluate(run, split="validation")
  evaluate(run, step="best")
  evaluate(run, step="best", split="validation")
  assert (run / "report.html").read_bytes() == first
  pages = {path.name: path.read_text() for path in (run / "evaluation").glob("*.html")}
  assert pages.keys() == {
    *("validation-30.html", f"test-{best}.html", f"validation-{best}.html"),
  }
  for name, page in pages.items():
    split, step = name.removesuffix(".html").split("-")
    assert f": run run, split {split}, step {step}</h1>" in page


def test_the_page_has_the_sounds_of_mistakes(run, tmp_path):
  store = open_store(load_run(run, "latest", sharding.data_mesh()).run.config.data.store)
  sound, _ = waveforms(60, 0)
  for name in store.clip_ids[store.folds == "test"][1:]:
    wav(tmp_path / "clips" / name, sound[int(name[4:])], format="WAV")
  result = evaluate(run, audio=tmp_path / "clips")
  page = (run / "report.html").read_text()
  pictures = re.findall(r'<img alt="Log-mel spectrogram of (clip\d+)" src="data:image/png;', page)
  scores, labels = scored_by_hand(run, "test")
  mistakes = worst_mistakes(scores, labels, break_even_thresholds(scores, labels), 8)
  assert len(pictures) == sum(map(len, mistakes)) >= 4
  sounds = re.findall(r'<audio [^>]*src="data:audio/mpeg;base64,([^"]+)"', page)
  assert len(sounds) == sum(name != "clip3" for name in pictures)
  heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0])))
  assert rate == 8000
  assert len(heard) / rate == pytest.approx(1, abs=0.2)  # the codec pads
  # The sounds change nothing else, and a folder without the clips is reported.
  assert evaluate(run) == result
  assert "<audio" not in (run / "report.html").read_text()
  wav(tmp_path / "others" / "other.wav", sound[0])
  with pytest.warns(UserWarning, match="has none of the clips"):
    evaluate(run, audio=tmp_path / "others")
  with pytest.raises(UserError, match="no such folder"):
    evaluate(run, audio=tmp_path / "missing")


def test_confusions_use_the_thresholds_of_the_step(run):
  tune(run, step="30")
  evaluate(run)
  assert "its threshold, stored with the run" in (run / "report.html").read_text()
  evaluate(run, step="best")
  best = load_run(run, "best", sharding.data_mesh()).step
  page = (run / "evaluation" / f"test-{best}.html").read_text()
  assert "as many clips reach as have the label" in page


@pytest.mark.slow
def test_steps(run):
  best = load_run(run, "best", sharding.data_mesh()).step
  assert best != 30
  scores, labels = scored_by_hand(run, "test", "best")
  expected = tagging_metrics(scores, labels)["mAP"]
  for step in ("best", str(best)):
    result = evaluate(run, step=step)
    assert result["step"] == best
    assert result["mAP"] == pytest.approx(expected, abs=1e-9)
  assert evaluate(run, step="latest")["step"] == 30


def test_validation_agrees_with_what_training_logged(run):
  logged = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  (last,) = [record for record in logged if record["step"] == 30 and "mAP" in record]
  result = evaluate(run, split="validation")
  assert (result["mAP"], result["mAUC"]) == (last["mAP"], last["mAUC"])


def test_evaluations_are_kept_by_store_and_split(run, tmp_path):
  own = evaluate(run)
  assert own["store"] == "store.h5"
  before = contents(run)
  others = []
  for k in range(2):  # stores of equal names in two folders
    (tmp_path / str(k)).mkdir()
    path = make_store(tmp_path / str(k) / "other.h5", clips=41, seed=k + 8, dtype="float16")
    for split in ("test", "train"):
      others.append(evaluate(run, store_path=str(path), split=split))
  assert others[0]["clips"] == 10
  assert own["mAP"] not in [other["mAP"] for other in others]
  after = contents(run)
  assert {name: after[name] for name in before} == before, "the run's own are as they were"
  stems = [
    f"evaluation/{other['split']}-30-other-{other['store_fingerprint'][:8]}" for other in others
  ]
  suffixes = ("json", "csv", "html")
  assert after.keys() - before.keys() == {f"{s}.{suffix}" for s in stems for suffix in suffixes}
  for stem, other in zip(stems, others):
    assert json.loads(after[f"{stem}.json"]) == other
    assert other["store"] == "other.h5"
    assert other["store_fingerprint"].encode() in after[f"{stem}.html"]


def test_the_store_of_the_training_by_another_name_is_the_same(run, tmp_path):
  own = evaluate(run)
  before = contents(run).keys()
  store = open_store(load_run(run, "latest", sharding.data_mesh()).run.config.data.store)
  copy = shutil.copy(store.path, tmp_path / "copy.h5")
  assert evaluate(run, store_path=copy) == own | {"store": "copy.h5"}
  assert contents(run).keys() == before


def test_a_store_that_was_replaced_after_the_training_is_another(run, tmp_path, monkeypatch):
  path = make_store(tmp_path / "store.h5", clips=41, seed=9)
  monkeypatch.setattr(scoring, "store_of", lambda config: open_store(path))
  result = evaluate(run)
  stem = f"test-30-store-{result['store_fingerprint'][:8]}"
  assert (run / "evaluation" / f"{stem}.html").exists()
  assert not (run / "report.html").exists()


def test_stores_that_do_not_fit(run, tmp_path):
  before = contents(run)
  other = Vocabulary((*VOCABULARY.ids[:5], "/m/9"), VOCABULARY.names)
  path = make_store(tmp_path / "labels.h5", clips=8, vocabulary=other)
  with pytest.raises(UserError, match=r"labels.h5: has another vocabulary"):
    evaluate(run, store_path=str(path))
  with pytest.raises(UserError, match=r"missing.h5: no such clip store"):
    evaluate(run, store_path=str(tmp_path / "missing.h5"))
  assert contents(run) == before


def test_labels_that_the_ontology_lacks(tmp_path, plain_pages):
  nodes = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]
  path = tmp_path / "ontology.json"
  path.write_text(json.dumps(nodes))
  run = saved_run(tmp_path / "run", tiny_config(tmp_path, f"graph.ontology={path}"))
  assert "OmAP" in evaluate(run)
  path.write_text(json.dumps(nodes[1:]))
  message = f"label {VOCABULARY.ids[0]} is not in the ontology; name another --ontology"
  with pytest.warns(UserWarning, match=f"without metrics of the ontology: {message}"):
    assert "OmAP" not in evaluate(run)
  with pytest.raises(UserError, match=message):
    evaluate(run, ontology=str(path))


def test_a_bad_ontology_is_refused_before_scoring(run, tmp_path, monkeypatch):
  monkeypatch.setattr(evaluation, "score_split", None)
  with pytest.raises(UserError, match=r"missing\.json"):
    evaluate(run, ontology=str(tmp_path / "missing.json"))


def test_a_split_without_clips(run, tmp_path):
  path = make_store(tmp_path / "short.h5", clips=2)
  with pytest.raises(UserError, match="test"):
    evaluate(run, store_path=str(path))


def test_undefined_values_are_null(run, tmp_path, capsys):
  # With one test clip, no class has both a positive and a negative clip.
  path = make_store(tmp_path / "one.h5", clips=4)
  command = ["evaluate", "--workdir", str(run), "--store", str(path), "--json"]
  assert cli.main(command) == 0
  line = capsys.readouterr().out.splitlines()[-1]
  assert "NaN" not in line
  result = json.loads(line)
  undefined = ("mAP", "mAUC", "d_prime", "mAP_low", "mAP_high", "mAUC_low", "mAUC_high")
  assert {result[key] for key in undefined} == {None}
  assert (result["clips"], result["classes_scored"]) == (1, 0)


def test_scores_that_are_not_finite_are_refused(run, monkeypatch):
  made = scoring.make_score_step

  def with_nan(*arguments, **named):
    step = made(*arguments, **named)
    return lambda *given: step(*given).at[:, 2].set(np.nan)

  monkeypatch.setattr(scoring, "make_score_step", with_nan)
  with pytest.raises(WorkFailed, match=r"store.h5: the scores of clip3 are not finite"):
    evaluate(run)


def test_a_run_without_a_graph(tmp_path, plain_pages):
  saved_run(tmp_path, tiny_config(trained().parent, "model.head=linear"))
  result = evaluate(tmp_path)
  assert (result["step"], result["clips"]) == (0, 15)
  assert "vectors" in (tmp_path / "report.html").read_text(encoding="utf-8")
  with pytest.raises(UserError, match="to select the best"):
    evaluate(tmp_path, step="best")


def test_json_has_no_nan():
  assert evaluation.finite_or_none(float("nan")) is None
  assert evaluation.finite_or_none(float("inf")) is None
  assert evaluation.finite_or_none(np.float64(0.5)) == 0.5
