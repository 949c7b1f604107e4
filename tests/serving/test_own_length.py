"""The tagger with EfficientAT's weights, which score short sounds at their own length."""

import dataclasses

import jax.export
import numpy as np
import pytest
import scipy.special
from runs_support import REPOSITORY

from atgcn_jax import Tagger
from atgcn_jax.audio.windows import Window, shortened
from atgcn_jax.interop.export import export
from atgcn_jax.interop.importing import import_torch
from atgcn_jax.runs.config import load_config


@pytest.fixture(scope="module")
def run(shared, tmp_path_factory):
  folder = tmp_path_factory.mktemp("mn04") / "run"
  config = load_config(REPOSITORY / "configs/pretrained/mn04.py")
  import_torch(shared / "data/weights/mn04_as_mAP_432.pt", config, folder)
  return folder


@pytest.fixture(scope="module")
def tagger(run):
  return Tagger.restore(run)


@pytest.fixture(scope="module")
def golden(shared):
  """Return waveforms of 5 s with the logits and embeddings of EfficientAT's code."""
  with np.load(shared / "golden" / "mn04.npz") as arrays:
    return {
      "waveform": (arrays["waveform"] / 32768).astype(np.float32),
      "scores": scipy.special.expit(arrays["logits"].astype(np.float64)),
      "embedding": arrays["embedding"],
    }


@pytest.mark.slow  # test_mobilenet.py compares the logits
def test_scores_are_those_of_efficientats_code(tagger, golden):
  order = tagger.run.vocabulary.index
  for waveform, expected in zip(golden["waveform"], golden["scores"]):
    tags = tagger.tag(waveform, rate=32000, top=527)
    found = np.zeros(527)
    found[[order[tag.id] for tag in tags]] = [tag.score for tag in tags]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  assert np.ptp(golden["scores"], axis=0).max() > 0.5


@pytest.mark.slow
def test_embeddings_are_those_of_efficientats_code(tagger, golden):
  sounds = [*golden["waveform"], golden["waveform"][1][:32000]]  # of two lengths
  found = tagger.embed(sounds, rate=32000)
  np.testing.assert_allclose(found[:4], golden["embedding"], rtol=0, atol=1e-4)
  assert np.abs(found[4] - golden["embedding"][1]).max() > 0.1


def test_lengths_are_whole_seconds(tagger):
  step = tagger.run.length_step
  assert step == 32000
  window = np.ones(tagger.run.frontend.samples, np.float32)
  lengths = [len(shortened(Window(0, n, window), step).waveform) for n in (1, 32000, 32001)]
  assert lengths == [32000, 32000, 64000]
  for full in (Window(0, len(window), window), Window(32000, 32001, window)):
    assert shortened(full, step).waveform.size == window.size


def test_trained_runs_pad_like_their_store(tagger):
  trained = dataclasses.replace(tagger.run, store_fingerprint="a store")
  assert trained.length_step == trained.frontend.samples


def test_the_clips_of_a_store_may_have_another_length(tagger):
  run = tagger.run
  assert run.takes(dataclasses.replace(run.frontend, seconds=5.0))
  assert not run.takes(dataclasses.replace(run.frontend, fmax=14000.0, seconds=5.0))
  config = run.config.copy_and_resolve_references()
  config.model.encoder = "cnn10"
  other = dataclasses.replace(run, config=config)
  assert not other.takes(dataclasses.replace(run.frontend, seconds=5.0))
  assert other.takes(run.frontend)


@pytest.mark.slow
def test_exports_score_short_sounds_at_their_own_length(run, tagger, golden, tmp_path):
  export(run, "stablehlo", tmp_path / "exported")
  program = jax.export.deserialize(bytearray((tmp_path / "exported/model.stablehlo").read_bytes()))
  found = program.call(golden["waveform"])
  np.testing.assert_allclose(found, golden["scores"], rtol=0, atol=1e-4)
  odd = golden["waveform"][1:2, :70001]
  np.testing.assert_allclose(program.call(odd)[0], tagger.scores(odd[0]), rtol=0, atol=1e-4)
