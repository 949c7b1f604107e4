"""Labels that are added to a tagger and to an evaluation."""

import dataclasses
import json
import re
import warnings

import jax
import numpy as np
import pytest
from runs_support import REPOSITORY, VOCABULARY, saved_run, tiny_config, trained, wav, waveforms

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import AddedLabel, read_added_labels
from atgcn_jax.labels.adjacency import propagation_matrix
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.vocabulary import AUDIOSET, read_vocabulary, write_vocabulary
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs.added_labels import NODE_SHARE, added_to
from atgcn_jax.runs.added_weights import counts_at_hand
from atgcn_jax.runs.calibrated_labels import calibrated, fit_calibrations
from atgcn_jax.runs.calibrations import (
  DEFAULTS,
  Calibrations,
  read_calibrations,
  write_calibrations,
)
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.run_store import store_of
from atgcn_jax.runs.thresholds import Thresholds, tune
from atgcn_jax.serving.detections import rules_of
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import sharding

pytestmark = pytest.mark.usefixtures("plain_pages")

FILE = "Chirp: 0.5 Whistle, 0.25 Piping\nBuzz: {parents: Hum}\nHissing:\n"


@pytest.fixture(scope="module")
def tagger():
  return Tagger.restore(trained())


@pytest.fixture
def file(tmp_path):
  (tmp_path / "labels.yaml").write_text(FILE)
  return tmp_path / "labels.yaml"


def test_known_scores_stay_and_estimates_follow_the_relations(tagger, file):
  extended = tagger.with_labels(file)
  sounds = list(waveforms(4, 9)[0])
  before, after = np.array(tagger.scores(sounds)), np.array(extended.scores(sounds))
  np.testing.assert_allclose(after[:, :6], before, atol=1e-6)
  assert extended.vocabulary.names[6:] == (
    "Chirp (estimated)",
    "Buzz (estimated)",
    "Hissing (estimated)",
  )
  assert ((after > 0) & (after < 1)).all()
  names = [tag.name for tag in extended.tag(sounds[0], top=9)]
  assert sorted(names) == sorted(extended.vocabulary.names)
  assert tagger.vocabulary == VOCABULARY, "the first tagger does not change"
  assert extended.timeline(sounds[0]).scores.shape[-1] == 9


def test_estimates_are_the_documented_formula(tagger, file):
  extended = tagger.with_labels(file)
  loaded = load_run(trained(), "latest", sharding.data_mesh(jax.devices()[:1]))
  sound = waveforms(1, 9)[0][0]
  scores = extended.scores(sound).astype(np.float64)
  line = DEFAULTS.by_kind["relations"]
  total = 0.5 * scores[2] ** 0.5 + 0.25 * scores[3] ** 0.5
  carried = line.intercept + line.slope * np.log(total)
  # The node's own logit: the label vector of a network with one more node.
  added = added_to(loaded.run, _labels(tagger, file), None, DEFAULTS)
  variables = added.run.for_inference()(loaded.state)
  vector = np.asarray(variables["constants"]["head"]["label_vectors"])[6]
  logit = tagger.embed(sound) @ vector
  expected = (1 - NODE_SHARE) * carried + NODE_SHARE * logit
  assert scores[6] == pytest.approx(1 / (1 + np.exp(-expected)), rel=2e-3)


def _labels(tagger, file):
  return read_added_labels(file, tagger.run.vocabulary)


def test_labels_that_were_added_before_stay(tagger, file):
  first, second = _labels(tagger, file)[:2]
  both = tagger.with_labels([first]).with_labels([second])
  sound = waveforms(1, 9)[0][0]
  expected = tagger.with_labels([first, second])
  assert both.vocabulary == expected.vocabulary
  np.testing.assert_array_equal(both.scores(sound), expected.scores(sound))
  with pytest.raises(ValueError, match="label id Chirp is repeated"):
    both.with_labels([first])


def test_estimates_are_reported_from_a_half_on(tagger, file):
  extended = tagger.with_labels(file)
  extended._thresholds = Thresholds(tagger.step, {"/m/0": 0.3})
  np.testing.assert_array_equal(extended.thresholds, [0.3, *[np.nan] * 5, *[0.5] * 3])
  assert rules_of(extended, None, 0.5, 0).least[6:].tolist() == [0.5] * 3
  tags = extended.choice(above_threshold=True)(np.full(9, 0.6))
  assert [tag.name for tag in tags] == [VOCABULARY.names[0], *extended.vocabulary.names[6:]]


def test_the_nodes_of_known_labels_do_not_change(tagger, file):
  added = added_to(tagger.run, _labels(tagger, file), None, DEFAULTS)
  graph = added.run.propagation
  np.testing.assert_array_equal(graph[:6, :6], tagger.run.propagation)
  assert not graph[:6, 6:].any()
  np.testing.assert_allclose(graph[6:].sum(axis=1), 1, atol=1e-6)
  assert (graph[6, [2, 3]] > 0).all()


def test_the_nodes_gather_as_those_of_the_graph_and_not_as_the_config_says(tagger, file):
  counts = np.full(6, 9), np.full((6, 6), 4)
  for method, own in (("paper", 0.75), ("identity", None)):
    graph = propagation_matrix(*counts, method=method, neighbour_weight=0.5)
    run = dataclasses.replace(tagger.run, propagation=graph)
    added = added_to(run, _labels(tagger, file), None, DEFAULTS)
    assert (added.run and added.run.propagation[6, 6]) == own


def test_a_label_without_any_relation(tagger):
  with pytest.raises(UserError, match="label 'Buzz': relations relate it to no known label; give"):
    tagger.with_labels([AddedLabel("Buzz", "Buzz", relations={0: 0.0})])


def test_counts_without_those_of_the_run_name_the_file(tagger, tmp_path):
  (tmp_path / "labels.yaml").write_text("Kettle: {clips: 9, counts: {Whistle: 3, Hum: 2}}")
  with pytest.raises(UserError, match=r"labels.yaml: label 'Kettle'.*`Kettle: 0.5 Whistle`"):
    tagger.with_labels(tmp_path / "labels.yaml")


def test_a_graph_file_may_hold_the_counts(tagger, tmp_path):
  path, pairs = tmp_path / "graph.npz", np.ones((6, 6), int) - np.eye(6, dtype=int)
  config = tiny_config(trained().parent, f"graph.source={path}")
  run = dataclasses.replace(tagger.run, config=config)
  graph = {"mids": VOCABULARY.ids, "propagation": np.eye(6, dtype=np.float32)}
  np.savez(path, **graph)
  assert counts_at_hand(run, None) is None
  np.savez(path, **graph, occurrences=np.full(6, 9), cooccurrences=pairs)
  np.testing.assert_array_equal(counts_at_hand(run, None).cooccurrences, pairs)


def test_the_file_of_the_page_adds_labels_to_those_of_audioset(tagger, tmp_path):
  page = (REPOSITORY / "docs/using.md").read_text()
  (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
  (tmp_path / "labels.yaml").write_text(text)
  known = read_vocabulary(AUDIOSET)
  config = load_config(str(REPOSITORY / "configs/pretrained/mn04.py"))
  parts = {"vocabulary": known, "propagation": None, "label_embeddings": None}
  run = dataclasses.replace(tagger.run, config=config, **parts)
  added = added_to(run, read_added_labels(tmp_path / "labels.yaml", known), None, DEFAULTS)
  assert added.kinds == ("relations", "parents", "words")
  assert "Kettle" in text.splitlines()[-1], "the comment is an entry too, for runs with counts"
  (tmp_path / "labels.yaml").write_text(text.splitlines()[-1].lstrip("# "))
  (kettle,) = read_added_labels(tmp_path / "labels.yaml", known)
  with pytest.raises(UserError, match=r"labels.yaml: label 'Kettle': `counts` need"):
    added_to(run, [kettle], None, DEFAULTS)
  counts = Counts(np.full(len(known), 900), np.zeros((len(known),) * 2))
  assert added_to(run, [kettle], counts, DEFAULTS).kinds == ("counts",)


def test_tag_prints_estimates(file, tmp_path, capsys):
  sound = wav(tmp_path / "a.wav", waveforms(1, 9)[0][0])
  arguments = ["tag", "--workdir", str(trained()), "--add-labels", str(file), "--top", "9"]
  assert cli.main([*arguments, "--json", str(sound)]) == 0
  tags = json.loads(capsys.readouterr().out)["tags"]
  assert sum(tag["name"].endswith(" (estimated)") for tag in tags) == 3
  file.write_text("Chirp: 0.5 Whistling\n")
  assert cli.main([*arguments, str(sound)]) == 2
  error = capsys.readouterr().err
  assert "did you mean Whistle" in error
  assert error.count("\n") == 1


def test_calibrations_are_stored_and_read(tmp_path):
  assert read_calibrations(tmp_path) is DEFAULTS
  write_calibrations(tmp_path, Calibrations(7, DEFAULTS.by_kind))
  assert read_calibrations(tmp_path) == Calibrations(7, DEFAULTS.by_kind)
  file = tmp_path / "added-labels.json"
  found = json.loads(file.read_text())
  del found["checkpoint"]  # as earlier versions have stored them
  file.write_text(json.dumps(found))
  assert read_calibrations(tmp_path).fit(7, "any")
  with pytest.warns(UserWarning, match="calibrated at step 7, but this is step 8"):
    read_calibrations(tmp_path).check_checkpoint(8, "any")
  file.write_text('{"step": 7, "calibrations": {}}')
  with pytest.raises(UserError, match="cannot be read as calibrations"):
    read_calibrations(tmp_path)


def test_kinds_without_files_keep_their_default(tagger, tmp_path):
  config = tiny_config(tmp_path, f"graph.embeddings={tmp_path / 'moved.npz'}")
  run = dataclasses.replace(tagger.run, config=config)
  random = np.random.default_rng(0)
  scores, labels = random.random((40, 6)), random.random((40, 6)) < 0.3
  fitted = fit_calibrations(run, None, scores, labels)
  assert fitted == DEFAULTS.by_kind


def test_clips_without_labels_leave_the_default(tmp_path):
  config = tiny_config(tmp_path)
  run = saved_run(tmp_path / "run", config)
  loaded = load_run(run, "latest", sharding.data_mesh())
  store = store_of(config)
  store = store.with_positives(np.zeros(len(store.label_indices), bool))
  with pytest.warns(UserWarning, match="no validation clip has a label, or all have all"):
    assert calibrated(run, loaded, lambda: store, None) is DEFAULTS


def test_the_page_of_an_evaluation_with_added_labels(tmp_path):
  write_vocabulary(tmp_path / "known.csv", VOCABULARY.part([0, 1, 3, 4, 5]))
  write_vocabulary(tmp_path / "new.csv", VOCABULARY.part([2]))
  config = tiny_config(tmp_path, f"data.vocabulary={tmp_path / 'known.csv'}")
  run = saved_run(tmp_path / "run", config)
  tune(run)
  evaluate(run, added_path=str(tmp_path / "new.csv"))
  page = next((run / "evaluation").glob("*-new.html")).read_text()
  assert page.count("Not shown with added labels; evaluate without --add-labels to see it.") == 2
  assert "This system has no" not in page
  assert "stored with the run by atgcn thresholds (for an added label, the score that" in page
  # As many clips reach the break-even threshold as have the label, so not all of them are missed.
  row = re.search(r"<td>Whistle \(estimated\)</td><td[^>]*>(\d+)</td><td[^>]*>(\d+)</td>", page)
  assert row
  assert int(row[2]) < int(row[1])


def test_evaluation_with_labels_that_a_run_was_not_trained_on(tmp_path):
  part = VOCABULARY.part([0, 1, 3, 4, 5])
  write_vocabulary(tmp_path / "known.csv", part)
  write_vocabulary(tmp_path / "new.csv", VOCABULARY.part([2]))
  config = tiny_config(tmp_path, f"data.vocabulary={tmp_path / 'known.csv'}")
  saved_run(tmp_path / "run", config)
  result = evaluate(tmp_path / "run", added_path=str(tmp_path / "new.csv"))
  assert result["classes"] == 6
  assert result["mAP"] == pytest.approx((5 * result["mAP_known"] + result["mAP_added"]) / 6)
  stored = read_calibrations(tmp_path / "run")
  assert stored.step == 0, "fitted on the validation clips"
  table = next((tmp_path / "run" / "evaluation").glob("*-new.csv")).read_text()
  assert table.count(" (estimated)") == 1
  file = tmp_path / "run" / "added-labels.json"
  before = file.read_bytes()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    Tagger.restore(tmp_path / "run").with_labels(tmp_path / "new.csv")
  # Calibrations of other weights at the same step are fitted again.
  write_calibrations(tmp_path / "run", stored._replace(checkpoint="other"))
  with pytest.warns(UserWarning, match="at step 0, but the run was trained again"):
    Tagger.restore(tmp_path / "run").with_labels(tmp_path / "new.csv")
  evaluate(tmp_path / "run", added_path=str(tmp_path / "new.csv"))
  assert file.read_bytes() == before
  with pytest.raises(UserError, match="has another vocabulary"):
    evaluate(tmp_path / "run", store_path=config.data.store)
