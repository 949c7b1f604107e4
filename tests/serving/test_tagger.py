"""Tagging of all kinds of sound with a trained run."""

import io
import json
import re
import shutil

import jax
import numpy as np
import pytest
import soundfile
from runs_support import FRONTEND, VOCABULARY, make_store, trained, wav, waveforms

import atgcn_jax
from atgcn_jax import cli
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.scoring import score_clips
from atgcn_jax.serving import many_files
from atgcn_jax.serving.sources import float_samples
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import sharding
from atgcn_jax.training.step import make_score_step

RATE, SIZE = FRONTEND.sample_rate, FRONTEND.samples


@pytest.fixture(scope="module")
def tagger():
  return atgcn_jax.Tagger.restore(trained())


@pytest.fixture(scope="module")
def sounds():
  return waveforms(6, 4)[0]


def test_tagger_is_exported_by_the_package(tagger):
  assert isinstance(tagger, Tagger)


@pytest.mark.parametrize(("dtype", "rounding"), [("uint8", 0.02), ("float16", 0.002)])
def test_scores_are_those_of_evaluation(tagger, tmp_path, dtype, rounding):
  # A store rounds log-mels to 0.3 dB or to float16; the tagger does not.
  store = open_store(make_store(tmp_path / "store.h5", clips=16, seed=4, dtype=dtype))
  loaded = load_run(trained(), "latest", sharding.data_mesh())
  step = make_score_step(loaded.run.model(), sharding.data_mesh(), normaliser=loaded.run.normaliser)
  expected, _ = score_clips(step, loaded.state, store, np.arange(16), 8, sharding.data_mesh())
  found = np.array([tagger.scores(sound) for sound in waveforms(16, 4)[0]])
  assert np.ptp(expected, axis=0).min() > 0.05, "scores that do not differ would show nothing"
  np.testing.assert_allclose(found, expected, atol=rounding)
  assert np.abs(found - expected).mean() < rounding / 4


def test_windows_are_averaged(tagger, sounds):
  parts = np.array([tagger.scores(sound) for sound in sounds])
  assert parts.dtype == np.float32
  for count in (2, 3, 6):
    long = tagger.scores(np.concatenate(sounds[:count]))
    np.testing.assert_allclose(long, parts[:count].mean(axis=0), atol=1e-5)
  # More windows than in one batch.
  np.testing.assert_allclose(
    tagger.scores(np.concatenate([*sounds, *sounds])), parts.mean(axis=0), atol=1e-5
  )


def test_short_sound_is_padded_with_silence(tagger, sounds):
  short = sounds[0, :1500]
  padded = np.pad(short, (0, SIZE - 1500))
  np.testing.assert_allclose(tagger.scores(short), tagger.scores(padded), atol=1e-6)
  assert np.isfinite(tagger.scores(np.zeros(1))).all()


def test_files_bytes_and_arrays_have_the_same_scores(tagger, sounds, tmp_path):
  path = wav(tmp_path / "one.wav", sounds[1])
  expected = tagger.scores(sounds[1])
  assert (expected > 0).all()
  assert (expected < 1).all()
  for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), sounds[1]):
    np.testing.assert_array_equal(tagger.scores(source), expected)
  np.testing.assert_array_equal(tagger.scores(jax.numpy.array(sounds[1])), expected)


def test_stereo_of_another_rate(tagger, tmp_path):
  tones_hz = np.arange(50, 1950, 95)[:, None]  # sound in all bands

  def sound(rate, samples):
    return 0.03 * np.sin(2 * np.pi * tones_hz * np.arange(samples) / rate + tones_hz).sum(axis=0)

  tone = sound(44100, 44100)
  stereo = np.stack([1.5 * tone, 0.5 * tone], axis=1)
  expected = tagger.scores(sound(RATE, SIZE).astype(np.float32))
  for scores in (
    tagger.scores(wav(tmp_path / "stereo.flac", stereo, 44100, subtype="PCM_24")),
    tagger.scores(stereo, rate=44100),
  ):
    np.testing.assert_allclose(scores, expected, atol=0.05)
    assert scores.argmax() == expected.argmax()
  np.testing.assert_allclose(
    tagger.scores(stereo, rate=44100), tagger.scores(tone, rate=44100), atol=1e-2
  )


def test_integers_are_full_scale_pcm(tagger, sounds):
  whole = np.round(sounds[2] * 32768).astype(np.int16)
  np.testing.assert_allclose(tagger.scores(whole), tagger.scores(whole / 32768), atol=1e-6)
  np.testing.assert_array_equal(float_samples(np.array([-32768, 16384], np.int16)), [[-1], [0.5]])
  np.testing.assert_array_equal(
    float_samples(np.array([[0, 255], [128, 128]], np.uint8)), [[-1, 127 / 128], [0, 0]]
  )
  np.testing.assert_array_equal(float_samples(np.array([-(2**31), 2**30], np.int32)), [[-1], [0.5]])


@pytest.mark.parametrize(
  "samples",
  [np.zeros(0), np.zeros((2, 2, 2)), np.array([0, np.nan]), np.array([np.inf]), np.float32(3)],
)
def test_invalid_arrays(tagger, samples):
  with pytest.raises(ValueError, match="samples"):
    tagger.scores(samples)


@pytest.mark.parametrize(
  ("samples", "message"),
  [
    (np.zeros((2, 65)), r"shape \(2, 65\); transpose"),
    (np.zeros(9, "datetime64[s]"), "got datetime64"),
    (np.zeros(9, "timedelta64[s]"), "got timedelta64"),
    (np.zeros(9, complex), "got complex128"),
    (np.zeros(9, object), "got object"),
    (np.zeros(9, bool), "got bool"),
    (np.ma.masked_greater(np.arange(9.0), 5), "masked"),
  ],
)
def test_arrays_that_are_no_samples(samples, message):
  with pytest.raises(ValueError, match=message):
    float_samples(samples)


def test_all_types_of_floats_are_samples():
  for samples in (
    np.ones(2, np.float16),
    np.ones(2, np.longdouble),
    jax.numpy.ones(2, jax.numpy.bfloat16),
    np.ma.masked_greater(np.ones(2), 5),  # none is masked
  ):
    np.testing.assert_array_equal(float_samples(samples), [[1], [1]])


@pytest.mark.parametrize("rate", [0, -1, np.inf, -np.inf, np.nan, 1e300, 1e-300])
def test_invalid_rates(tagger, sounds, rate):
  with pytest.raises(ValueError, match="rate must be positive and finite"):
    tagger.tag(sounds[0], rate=rate)


def test_tags_are_the_highest_scores(tagger, sounds):
  scores, tags = tagger.scores(sounds[3]), tagger.tag(sounds[3], top=3)
  best = np.argsort(-scores)[:3]
  assert [tag.id for tag in tags] == [VOCABULARY.ids[k] for k in best]
  assert [tag.name for tag in tags] == [VOCABULARY.names[k] for k in best]
  np.testing.assert_array_equal([tag.score for tag in tags], scores[best])
  assert len(tagger.tag(sounds[3])) == 5
  assert len(tagger.tag(sounds[3], top=99)) == 6
  with pytest.raises(UserError, match="--top 0"):
    tagger.tag(sounds[3], top=0)


def test_a_step_can_be_chosen(sounds):
  loaded = load_run(trained(), "best", sharding.data_mesh())
  by_name, by_number = (Tagger.restore(trained(), s) for s in ("best", str(loaded.step)))
  scores = by_name.scores(sounds[0])
  np.testing.assert_array_equal(scores, by_number.scores(sounds[0]))
  assert (scores != Tagger.restore(trained()).scores(sounds[0])).any()


def test_a_folder_without_a_run(tmp_path):
  with pytest.raises(UserError, match="no run"):
    Tagger.restore(tmp_path)


# The command.


def tag(*arguments):
  return cli.main(["tag", "--workdir", str(trained()), *map(str, arguments)])


def test_the_command_prints_a_table(tagger, sounds, tmp_path, capsys):
  path = wav(tmp_path / "one.wav", sounds[0])
  assert tag("--top", 2, path) == 0
  printed = capsys.readouterr()
  expected = tagger.tag(sounds[0], top=2)
  lines = printed.out.splitlines()
  assert lines[0] == str(path)
  assert [line.split() for line in lines[1:]] == [
    [f"{tag.score:.3f}", tag.name, f"({tag.id})"] for tag in expected
  ]
  assert printed.err == ""


def test_the_command_prints_json(tagger, sounds, tmp_path, capsys):
  paths = [wav(tmp_path / f"{i}.wav", np.concatenate(sounds[: i + 1])) for i in range(3)]
  assert tag("--json", *paths) == 0
  lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [line["file"] for line in lines] == list(map(str, paths))
  for line, path in zip(lines, paths):
    # A single window is scored by a program of its own size, which rounds differently.
    expected = tagger.tag(path)
    assert [t["id"] for t in line["tags"]] == [t.id for t in expected]
    assert [t["name"] for t in line["tags"]] == [t.name for t in expected]
    np.testing.assert_allclose(
      [t["score"] for t in line["tags"]], [t.score for t in expected], atol=1e-5
    )


def test_a_bad_file_does_not_stop_the_others(sounds, tmp_path, capsys):
  good, bad = wav(tmp_path / "good.wav", sounds[0]), tmp_path / "bad.wav"
  bad.write_text("no sound")
  missing = tmp_path / "missing.wav"
  assert tag("--json", bad, good, missing) == 1
  printed = capsys.readouterr()
  assert [json.loads(line)["file"] for line in printed.out.splitlines()] == [str(good)]
  errors = printed.err.splitlines()
  assert len(errors) == 2
  assert "bad.wav" in errors[0]
  assert "missing.wav" in errors[1]
  assert tag(bad, missing) == 2
  assert len(capsys.readouterr().err.splitlines()) == 2
  assert tag(bad) == 2
  assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_moved_run_tags_without_its_store(sounds, tmp_path, tagger):
  moved = shutil.copytree(trained(), tmp_path / "moved")
  found = Tagger.restore(moved).scores(sounds[0])
  np.testing.assert_array_equal(found, tagger.scores(sounds[0]))


# Sound that is used, although it is incomplete or doubtful.


def doubtful(folder, sounds):
  """Return truncated, int16-scaled and out-of-phase files, with the expected text for each."""
  cut = wav(folder / "cut.wav", sounds[0])
  cut.write_bytes(cut.read_bytes()[: -RATE // 2])
  scale, phase = folder / "scale.wav", folder / "phase.wav"
  soundfile.write(scale, 32768 * sounds[1], RATE, subtype="FLOAT")
  soundfile.write(phase, np.outer(sounds[2], [1, -1]), RATE)
  return {cut: "bytes of sound are missing; ", scale: "divide int16 values", phase: "out of phase"}


def test_doubtful_sound_issues_a_warning(tagger, sounds, tmp_path):
  for path, text in doubtful(tmp_path, sounds).items():
    with pytest.warns(SoundWarning, match=f"^{re.escape(str(path))}: .*{text}") as caught:
      tagger.tag(path)
    assert [warning.filename for warning in caught] == [__file__]
  with pytest.warns(SoundWarning, match="^sound data: .*divide int16 values"):
    tagger.embed(32768 * sounds[1])
  (outcome,) = tagger.clips([tmp_path / "phase.wav"])
  assert [finding.kind for finding in outcome.findings] == ["out of phase"]
  with pytest.warns(SoundWarning) as caught:
    assert len(tagger.scores(tmp_path)) == 3
  assert len(caught) == 3


def test_a_strict_tagger_refuses_incomplete_files(sounds, tmp_path):
  cut, scale, _ = doubtful(tmp_path, sounds)
  strict = Tagger.restore(trained(), strict=True)
  with pytest.raises(UserError, match=r"cut\.wav: is cut short or damaged"):
    strict.tag(cut)
  with pytest.warns(SoundWarning):
    strict.tag(scale)


def test_the_command_prints_a_line_for_doubtful_sound(sounds, tmp_path, capsys, monkeypatch):
  paths = doubtful(tmp_path, sounds)
  assert tag(*paths) == 0
  printed = capsys.readouterr()
  assert sum(line.startswith(str(tmp_path)) for line in printed.out.splitlines()) == 3
  lines = printed.err.splitlines()
  assert len(lines) == 3
  for line, (path, text) in zip(lines, paths.items()):
    assert line.startswith(f"atgcn tag: {path}: ")
    assert text in line
  assert tag("--strict", *paths) == 1
  printed = capsys.readouterr()
  assert sum(line.startswith(str(tmp_path)) for line in printed.out.splitlines()) == 2
  assert printed.err.splitlines()[-1].startswith(f"atgcn tag: {tmp_path}/cut.wav: is cut short")
  monkeypatch.setattr(many_files, "FINDINGS", 2)
  assert tag(*paths) == 0
  assert capsys.readouterr().err.splitlines()[2:] == [
    "atgcn tag: only the first 2 warnings are shown, of 1 incomplete, 1 out of range, "
    "1 out of phase"
  ]
