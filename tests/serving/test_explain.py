"""Explanations of a label's score."""

import dataclasses
import io
import json
import os
import warnings

import jax
import numpy as np
import pytest
from runs_support import saved, tiny_config, trained, wav, waveforms
from scipy.special import logit

from atgcn_jax import cli
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.reports import figure_style
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.run_store import store_of
from atgcn_jax.serving.explain import (
  Contribution,
  Explanation,
  draw_explanation,
  vector_parts,
)
from atgcn_jax.serving.tagger import Tagger


@pytest.fixture(scope="module")
def tagger():
  return Tagger.restore(trained())


def test_the_contributions_add_up_to_the_log_odds(tagger):
  sound = waveforms(1, 9)[0][0]
  for k, name in enumerate(tagger.vocabulary.names):
    found = tagger.explain(sound, name)
    assert found.log_odds == pytest.approx(logit(float(tagger.scores(sound)[k])), abs=1e-4)
    total = found.bias + sum(part.log_odds for part in found.contributions)
    assert total == pytest.approx(found.log_odds, abs=1e-9)
    neighbours = np.count_nonzero(tagger.run.propagation[k])
    assert len(found.contributions) == neighbours
    values = [part.log_odds for part in found.contributions]
    assert values == sorted(values, reverse=True)


def test_the_log_odds_of_the_prior_are_a_part(tagger):
  config = tagger.run.config.copy_and_resolve_references()
  config.model.prior = 0.1
  run = dataclasses.replace(tagger.run, config=config)
  variables = saved(trained()).state.variables
  before, after = (vector_parts(one, variables)(2) for one in (tagger.run, run))
  assert after[0] == before[0]
  np.testing.assert_array_equal(after[1], before[1])
  assert after[2] - before[2] == pytest.approx(np.log(1 / 9))


def test_a_second_explanation_compiles_nothing(tagger, caplog):
  sound = waveforms(1, 9)[0][0]
  tagger.explain(sound, "Hum")
  with jax.log_compiles():
    tagger.explain(sound, "Drone")
  assert [record.getMessage() for record in caplog.records] == []


def test_a_sound_warns_once(tagger):
  silence = np.zeros(len(waveforms(1, 9)[0][0]), np.float32)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    tagger.explain(silence, "Hum")
  assert [one.category for one in caught] == [SoundWarning]


def test_a_linear_head_has_one_part(tmp_path):
  config = tiny_config(tmp_path, "model.head=linear")
  run = new_run(config, store_of(config))
  variables = run.initial_state().variables
  positions, vectors, _ = vector_parts(run, variables)(2)
  assert positions == [2]
  np.testing.assert_array_equal(vectors, run.label_vectors(variables)[[2]])


def test_an_estimate_is_split_into_its_weighted_sum(tagger, tmp_path):
  (tmp_path / "labels.yaml").write_text("Chirp: 0.5 Whistle, 0.25 Piping\n")
  sound = waveforms(1, 9)[0][0]
  found = tagger.with_labels(tmp_path / "labels.yaml").explain(sound, "Chirp")
  assert found.label == "Chirp (estimated)"
  assert found.log_odds is None
  scores = tagger.scores(sound)
  parts = {part.name: part.log_odds for part in found.contributions}
  assert parts == pytest.approx(
    {"Whistle": 0.5 * scores[2] ** 0.5, "Piping": 0.25 * scores[3] ** 0.5}
  )


def test_tag_explains_as_text_json_and_picture(tmp_path, capsys):
  sound = str(wav(tmp_path / "a.wav", waveforms(1, 9)[0][0]))
  command = ["tag", "--workdir", str(trained()), "--explain", "whistle", sound]
  assert cli.main([*command, "--plot", str(tmp_path / "why.svg")]) == 0
  printed = capsys.readouterr()
  text = printed.out
  assert printed.err == f"atgcn tag: wrote {tmp_path / 'why.svg'}\n"
  assert text.startswith(f"{sound}: Whistle 0.")
  assert "highest: 0.00-1.00 s" in text
  assert "Whistle" in (tmp_path / "why.svg").read_text()
  assert cli.main([*command, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["log_odds"] == pytest.approx(
    found["bias"] + sum(part["log_odds"] for part in found["contributions"])
  )


def test_the_picture_has_windows_where_detections_have_them(tmp_path, monkeypatch):
  figures = []
  monkeypatch.setattr(figure_style, "picture", lambda figure, *_: figures.append(figure) or b"")
  starts = np.arange(3.0)
  found = Explanation("Hum", 0.5, 0.0, 0.0, [], starts, starts + 10, np.float32([0.1, 0.9, 0.1]))
  part = Contribution("Drone", 0.2, 0.04)
  for one in (found, found._replace(contributions=[part], log_odds=None)):
    draw_explanation(tmp_path / "why.png", one)
  (only,), (left, right) = (figure.axes for figure in figures)
  for axes in (only, left):
    assert axes.patches[0].get_data().edges.tolist() == [0, 5.5, 6.5, 12]
  assert right.get_title(loc="left") == "where its estimate comes from"


def test_sources_that_can_be_read_only_once(tagger, tmp_path, capsys):
  path = wav(tmp_path / "a.wav", waveforms(1, 9)[0][0])
  expected = tagger.explain(path, "Whistle")
  found = tagger.explain(io.BytesIO(path.read_bytes()), "Whistle")
  assert found.contributions == expected.contributions
  reading, writing = os.pipe()
  try:
    with os.fdopen(writing, "wb") as target:
      target.write(path.read_bytes())
    pipe = f"/dev/fd/{reading}"
    assert cli.main(["tag", "--workdir", str(trained()), "--explain", "Whistle", pipe]) == 0
  finally:
    os.close(reading)
  assert capsys.readouterr().out.startswith(f"{pipe}: Whistle {expected.score:.3f}")


def test_no_added_label(tagger):
  with pytest.raises(ValueError, match="at least one label"):
    tagger.with_labels([])


def test_only_one_sound_is_explained(tagger, tmp_path):
  with pytest.raises(ValueError, match="takes one sound"):
    tagger.explain([waveforms(1, 9)[0][0]], "Whistle")
  with pytest.raises(UserError, match="is a folder"):
    tagger.explain(tmp_path, "Whistle")
  (tmp_path / "empty.wav").touch()
  file = (tmp_path / "empty.wav").open("rb")
  with file, pytest.raises(UserError, match=r"empty\.wav: is empty"):
    tagger.explain(file, "Whistle")


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    (["--explain", "Whistl"], "--explain Whistl: no such label; did you mean Whistle"),
    (["--plot", "why.png"], "--plot: only valid with --explain"),
    (["--explain", "Hum", "--plot", "why.txt"], "--plot why.txt: must end in"),
    (["--explain", "Hum", "--plot", "missing/why.png"], "cannot be written"),
  ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, monkeypatch, extra, message):
  monkeypatch.chdir(tmp_path)
  sound = str(wav(tmp_path / "a.wav", waveforms(1, 9)[0][0]))
  assert cli.main(["tag", "--workdir", str(trained()), *extra, sound]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


def test_a_picture_is_of_one_sound(tmp_path, capsys):
  for name in ("a.wav", "b.wav"):
    wav(tmp_path / name, waveforms(1, 9)[0][0])
  plot, command = tmp_path / "why.png", ["tag", "--workdir", str(trained()), "--explain", "Hum"]
  assert cli.main([*command, "--plot", str(plot), str(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert error == f"atgcn tag: --plot {plot}: {tmp_path} has 2 sounds; name one of them\n"
  assert not plot.exists()
