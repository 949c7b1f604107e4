"""Tests of exports to ONNX, which onnxruntime loads in processes without this package."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest
from runs_support import (
  FRONTEND,
  REPOSITORY,
  VOCABULARY,
  contents,
  make_store,
  onnx_python,
  tiny_config,
  trained,
)
from test_export import (  # noqa: F401
  SNIPPETS,
  STEP,
  assert_scores_of,
  outside,
  run,
  sounds,
  tagger,
  workdir,
)

from atgcn_jax import Tagger
from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.audio.spectrogram import spectrogram
from atgcn_jax.runs.training_loop import train


@pytest.fixture(scope="module")
def python():
  return onnx_python()


@pytest.fixture(scope="module")
def exported(python, workdir, tmp_path_factory):  # noqa: F811
  """Return the folder that contains the export `demo-onnx`."""
  folder = tmp_path_factory.mktemp("onnx")
  arguments = ["--workdir", workdir, "--out", folder / "demo-onnx", "--step", STEP]
  assert run("--to", "onnx", *arguments) == 0
  return folder


def test_exports_give_the_scores_of_the_tagger(exported, python, sounds, tagger):  # noqa: F811
  sounds = {**sounds, "one sample": sounds["one"][:, :1]}
  size = FRONTEND.samples
  tail = -(-size // 10)
  for samples in (size + tail - 1, size + tail, 2 * size):
    sounds[f"{samples} samples"] = np.tile(sounds["three"], 2)[:, :samples]
  found = outside(SNIPPETS["ONNX"], exported, sounds, python)
  assert_scores_of(tagger, sounds, found)


def test_the_folder_holds_the_model_and_its_labels(exported):
  folder = exported / "demo-onnx"
  assert sorted(contents(folder)) == ["config.json", "model.onnx"]
  config = json.loads((folder / "config.json").read_text())
  assert (config["format"], config["step"]) == ("onnx", int(STEP))
  assert config["label_ids"] == list(VOCABULARY.ids)
  assert [path.name for path in exported.iterdir() if path.is_dir()] == ["demo-onnx"]


@pytest.mark.slow
def test_recurrent_layers_are_converted(python, tmp_path, sounds):  # noqa: F811
  make_store(tmp_path / "store.h5", frontend=dataclasses.replace(FRONTEND, n_fft=512, n_mels=64))
  changes = ("model.encoder=talnet", "optim.steps=24", "optim.learning_rate=0.01")
  train(tiny_config(tmp_path, *changes), tmp_path / "run")
  arguments = ["--workdir", tmp_path / "run", "--out", tmp_path / "demo-onnx"]
  assert run("--to", "onnx", *arguments) == 0
  found = outside(SNIPPETS["ONNX"], tmp_path, sounds, python)
  assert_scores_of(Tagger.restore(tmp_path / "run"), sounds, found)


def test_scores_that_differ_are_refused(exported, python):
  code = f"""
import onnx, onnxruntime
from atgcn_jax.interop.onnx_child import check_scores
model = onnx.load("demo-onnx/model.onnx")
session = onnxruntime.InferenceSession("demo-onnx/model.onnx")
scores = lambda windows: session.run(None, {{"waveforms": windows}})[0]
check_scores(model, scores, {FRONTEND.samples}, {FRONTEND.samples})
check_scores(model, lambda windows: scores(windows) + 1e-3, {FRONTEND.samples}, {FRONTEND.samples})
"""
  environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
  words = [python, "-c", code]
  done = subprocess.run(
    words, cwd=exported, env=environment, capture_output=True, text=True, check=False
  )
  assert "ValueError: the scores of the converted model differ by 0.001" in done.stderr


def test_a_missing_environment_is_reported_with_the_command_that_creates_it(
  tmp_path, monkeypatch, capfd
):
  trained()
  capfd.readouterr()  # discard the output of training
  monkeypatch.setenv("ATGCN_ONNX", str(tmp_path / "nowhere"))
  assert run("--to", "onnx", "--workdir", trained(), "--out", tmp_path / "out") == 2
  (error,) = capfd.readouterr().err.splitlines()
  assert "./launch/onnx.sh" in error
  assert str(tmp_path / "nowhere") in error
  assert not list(tmp_path.iterdir())


def test_a_failing_converter_leaves_no_files(tmp_path, monkeypatch, capfd):
  place = tmp_path / "environment" / "bin"
  place.mkdir(parents=True)
  (place / "python").write_text("#!/bin/sh\necho 'ValueError: no such operator' >&2\nexit 1\n")
  (place / "python").chmod(0o755)
  monkeypatch.setenv("ATGCN_ONNX", str(place.parent))
  trained()
  capfd.readouterr()  # discard the output of training
  assert run("--to", "onnx", "--workdir", trained(), "--out", tmp_path / "out") == 1
  (error,) = capfd.readouterr().err.splitlines()
  assert "vectors could not be converted" in error
  assert "no such operator" in error
  assert [path.name for path in tmp_path.iterdir()] == ["environment"]


@pytest.mark.parametrize("name", FRONTENDS)
def test_the_matrix_transform_equals_the_fft(name):
  settings = FRONTENDS[name]
  stft = {k: getattr(settings, k) for k in ("n_fft", "win_length", "hop", "pad_mode")}
  sound = np.random.default_rng(0).uniform(-1, 1, 4000).astype(np.float32)
  fast, by_matrix = (
    spectrogram(sound, power=1, by_matrix=chosen, **stft) for chosen in (False, True)
  )
  np.testing.assert_allclose(by_matrix, fast, atol=1e-5 * np.abs(fast).max())
