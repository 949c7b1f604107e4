"""Runs on AudioSet's features: training, evaluation, and what needs sound and is refused."""

import feature_files
import numpy as np
import pytest
import runs_support

from atgcn_jax import cli
from atgcn_jax.audio.frontend import VGGISH_FEATURES
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.interop.export import FORMATS, export
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.training_loop import train
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import checkpoint
from atgcn_jax.training.step import normalised_log_mel

pytestmark = pytest.mark.usefixtures("plain_pages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Return a folder with a store of features, and the step 0 of a run on it."""
  path = tmp_path_factory.mktemp("features")
  feature_files.release(path / "r", 8, files=1)
  vocabulary = feature_files.vocabulary_file(path)
  with pytest.MonkeyPatch.context() as patch:
    runs_support.prepare_here(patch)
    with pytest.warns(SoundWarning, match="padded with repeated embeddings"):
      prepare(path / "r", None, path / "s.h5", layout="audioset-features", vocabulary=vocabulary)
  runs_support.write_config(path / "config.py", path / "s.h5")
  run = new_run(config_of(path), open_store(path / "s.h5"))
  description = run.description() | {"history": []}
  (path / "run").mkdir()
  with checkpoint.open_manager(path / "run") as manager:
    checkpoint.start_save(manager, run.initial_state(), run.constants(), description)
  return path


def config_of(folder, encoder="multilevel_attention_embeddings"):
  changes = (
    f"model.encoder={encoder}",
    "model.head=linear",
    "model.dropout.pooled=0.0",
    "data.train_folds=('bal_train','unbal_train')",
    "data.validation_folds=()",
    "data.test_folds=('eval',)",
    "augment.time_stripes=0",
    "optim.steps=1",
    "optim.plateau_factor=1.0",
  )
  return load_config(folder / "config.py", [f"--config.{change}" for change in changes])


def test_the_step_sees_values_of_vggish(folder):
  store = open_store(folder / "s.h5")
  loaded = runs_support.saved(folder / "run")
  run = loaded.run
  assert run.frontend == VGGISH_FEATURES
  assert run.normaliser.uint8_range == run.range_db == 4.0
  assert run.description()["frontend"]["value_limit"] == 2.0
  batch = store.read(np.arange(len(store)))
  values = -2 + np.asarray(store.log_mel) * (4 / 255)
  trained_on = store.folds != "eval"
  mean, deviation = (f(values[trained_on], axis=(0, 1)) for f in (np.mean, np.std))
  got = np.asarray(normalised_log_mel(batch, run.normaliser))
  np.testing.assert_allclose(got, (values - mean) / deviation, atol=1e-5)


@pytest.mark.slow
def test_training_and_evaluation(folder):
  train(config_of(folder), folder / "trained")
  result = evaluate(folder / "trained", split="test")
  assert result["clips"] == 8
  assert np.isfinite(result["mAUC"])


def test_sound_is_refused(folder, tmp_path, capsys):
  with pytest.raises(UserError, match="its inputs are vggish-features, which only Google's VGGish"):
    Tagger.restore(folder / "run")
  for command in ("tag", "embed"):
    words = [command, "--workdir", str(folder / "run"), "sound.wav"]
    assert cli.main([*words, *(["--out", str(tmp_path / "e")] if command == "embed" else [])]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "which only Google's VGGish network computes from sound" in error
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "onnx"])
def test_an_export_is_refused(folder, tmp_path, form):
  with pytest.raises(UserError, match="its inputs are vggish-features"):
    export(folder / "run", form, tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_an_encoder_of_spectrograms_is_refused(folder):
  config = config_of(folder, "cnn10")
  with pytest.raises(UserError, match=r"model\.encoder cnn10: cannot take clips of 10 embeddings"):
    new_run(config, open_store(folder / "s.h5"))
