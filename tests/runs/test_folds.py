"""Folds that two splits share are refused, or reported if they decide something."""

import dataclasses
import json
import shutil
import types
import warnings

import pytest
from runs_support import contents, make_store, saved, tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.runs import training_loop
from atgcn_jax.runs.config import default_config
from atgcn_jax.runs.folds import check_folds, shared_folds, splits_of
from atgcn_jax.runs.start import continued
from atgcn_jax.training import checkpoint

pytestmark = pytest.mark.usefixtures("plain_pages")

OVERLAP = "--config.data.train_folds=('train','test')"
ON_TEST = "data.validation_folds=('validation','test')"


@pytest.fixture(scope="module", autouse=True)
def _trained():
  """Train the shared run before the output of a test is captured."""
  trained()


@pytest.fixture
def config():
  folder = trained().parent
  return lambda *overrides: tiny_config(folder, *overrides)


def folds(**changes):
  made = default_config()
  for key, value in changes.items():
    made.data[key] = value
  return made


@pytest.fixture(scope="module")
def validated_on_test(tmp_path_factory):
  """Return a short run whose validation clips are its test clips."""
  workdir = tmp_path_factory.mktemp("folds") / "run"
  folder = trained().parent
  changes = ("data.validation_folds=('test',)", "optim.plateau_factor=1.0", "optim.steps=4")
  training_loop.train(tiny_config(folder, *changes), workdir)
  return workdir


def said(capsys):
  """Return the lines on stderr, without progress bars and log lines."""
  return [line for line in capsys.readouterr().err.splitlines() if line.startswith("atgcn")]


def test_names_are_compared_as_text():
  made = folds(train_folds=(1, 2), validation_folds=("2", "3"), test_folds=("3", "1"))
  assert shared_folds(splits_of(made), "train", "test") == ["1"]
  assert shared_folds(splits_of(made), "train", "validation") == ["2"]
  assert shared_folds(splits_of(made), "validation", "test") == ["3"]
  made.data.validation_share = 0.1
  assert shared_folds(splits_of(made), "validation", "test") == ["1", "3"]


def test_folds_that_share_nothing_pass():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    made = default_config()
    made.optim.plateau_factor = 0.5
    check_folds(made)
    made.data.validation_folds, made.data.validation_share = (), 0.1
    check_folds(made)


@pytest.mark.slow
def test_training_on_the_test_clips_is_refused(tmp_path, capsys):
  file = trained().parent / "config.py"
  command = ["train", "--config", str(file), "--workdir", str(tmp_path / "run"), OVERLAP]
  assert cli.main(command) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "data.train_folds and data.test_folds both name test" in line
  assert contents(tmp_path) == {}
  allowed = "--config.data.allow_test_overlap=True"
  assert cli.main([*command, allowed, "--config.optim.steps=1"]) == 0
  # The run only resumes with the option.
  assert cli.main([*command, "--config.optim.steps=2"]) == 2
  assert cli.main([*command, allowed, "--config.optim.steps=2"]) == 0


def test_finetuning_on_the_test_clips_is_refused(tmp_path, capsys):
  store = make_store(tmp_path / "other.h5", seed=1)
  command = ["finetune", "--from", trained(), "--store", store, "--workdir", tmp_path / "run"]
  assert cli.main([*map(str, command), OVERLAP]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "both name test" in line
  assert not (tmp_path / "run").exists()


def test_reproducing_on_the_test_clips_is_refused(tmp_path, capsys):
  command = ["reproduce", "table1", "--store", trained().parent / "store.h5", "--out", tmp_path]
  assert cli.main([*map(str, command), "--rows", "cnn10", "--folds", "test", OVERLAP]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "both name test" in line


@pytest.mark.slow
def test_the_option_of_a_source_is_not_inherited(tmp_path, config, capsys):
  changes = ("data.train_folds=('train','test')", "data.allow_test_overlap=True", "optim.steps=1")
  training_loop.train(config(*changes), tmp_path / "source")
  store = trained().parent / "store.h5"
  command = ["finetune", "--from", tmp_path / "source", "--store", store, "--workdir"]
  assert cli.main([*map(str, command), str(tmp_path / "run")]) == 2
  assert "both name test" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_saved_without_the_option_is_resumed(tmp_path, config, monkeypatch):
  """A description without the key, as written by an older version."""
  save = checkpoint.start_save

  def without(manager, state, constants, description):
    description = json.loads(json.dumps(description))
    del description["config"]["data"]["allow_test_overlap"]
    save(manager, state, constants, description)

  with monkeypatch.context() as before:
    before.setattr(checkpoint, "start_save", without)
    training_loop.train(config("optim.steps=2"), tmp_path / "run")
  assert int(training_loop.train(config("optim.steps=3"), tmp_path / "run").step) == 3


def test_a_run_that_held_out_pieces_of_files_is_not_resumed(tmp_path, config):
  """Its clips would be split in another way."""
  changed = config("data.validation_share=0.1")
  earlier = saved(trained())
  run = dataclasses.replace(earlier.run, config=changed, rules=0)
  store = types.SimpleNamespace(
    fingerprint=run.store_fingerprint, clip_ids=["a.wav", "b.wav@000010.000"]
  )
  with pytest.raises(UserError, match=f"--config.start.run={tmp_path} to start from its"):
    continued(earlier._replace(run=run), changed, store, tmp_path)
  store.clip_ids = ["a.wav", "b.wav"]
  assert continued(earlier._replace(run=run), changed, store, tmp_path) == run
  odd = config("data.validation_share=0.1", "data.batch_size=10", "augment.mixup_alpha=0.2")
  run = dataclasses.replace(run, config=odd)
  with pytest.raises(UserError, match="clips of some batch sizes were mixed with themselves"):
    continued(earlier._replace(run=run), odd, store, tmp_path)


def test_the_plateau_rule_on_test_clips_is_reported(config):
  with pytest.warns(UserWarning, match=r"optim\.plateau_factor .* of fold test,") as caught:
    check_folds(config(ON_TEST))
  assert len(caught) == 1
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    check_folds(config(ON_TEST, "optim.plateau_factor=1.0"))  # the rule is disabled


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
  ("command", "words"),
  [
    (("thresholds",), "the thresholds are tuned on the clips of fold test"),
    (("evaluate", "--step", "best"), "the best step is the one with the highest mAP of fold test"),
    (("evaluate",), None),
    (("evaluate", "--split", "validation"), None),
  ],
)
def test_choices_made_on_test_clips_are_reported(validated_on_test, capsys, command, words):
  assert cli.main([command[0], "--workdir", str(validated_on_test), *command[1:]]) == 0
  lines = said(capsys)
  assert len(lines) == (words is not None)
  assert all(words in line and "data.test_folds" in line for line in lines)


@pytest.mark.parametrize("command", [("thresholds",), ("evaluate", "--step", "best")])
def test_other_clips_are_not_reported(command, capsys, tmp_path):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  assert cli.main([command[0], "--workdir", str(workdir), *command[1:]]) == 0
  assert said(capsys) == []
