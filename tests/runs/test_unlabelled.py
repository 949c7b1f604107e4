"""Runs on stores in which some training clips have no label."""

import jax
import numpy as np
import pytest
from runs_support import contents, make_store, same_bits, saved, tiny_config

from atgcn_jax import cli
from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.runs import step_inputs, training_loop
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.run import Run
from atgcn_jax.training import sharding


@pytest.fixture
def store(tmp_path):
  return make_store(tmp_path / "store.h5", unlabelled=20)


@pytest.fixture
def config(tmp_path):
  return lambda *overrides: tiny_config(tmp_path, "data.validation_folds=()", *overrides)


def write_as_before(monkeypatch):
  """Make runs describe themselves as in the version that drew no clips without a label."""
  description = Run.description

  def without(run):
    return {key: x for key, x in description(run).items() if key != "draws_unlabelled"}

  monkeypatch.setattr(Run, "description", without)


def unlabelled_share_of(config, store, placement):
  """Return the share of clips without a label in the batches of a run."""
  made = step_inputs.feed_of(
    store,
    split_clips(store, splits_of(config), "train"),
    sharding.data_mesh(),
    range(config.optim.steps),
    config.data.batch_size,
    config.seed,
    balanced=config.data.sampling == "balanced",
    placement=placement,
  )
  batch_of = jax.jit(made.batch_of)
  labels = [np.asarray(batch_of(given)["labels"]) for given in made.given]
  return np.mean(~np.concatenate(labels).any(axis=1))


@pytest.mark.parametrize("placement", step_inputs.PLACEMENTS)
@pytest.mark.parametrize("file_format", ["clip store", "array_record", "tfrecord"])
def test_every_store_draws_their_share(store, config, tmp_path, placement, file_format):
  changed = config("optim.steps=96")
  if file_format == "tfrecord" and placement == "host":
    changed.data.sampling = "shuffled"
  opened = open_store(store)
  if file_format != "clip store":
    command = ["tfds", "--store", store, "--out", tmp_path / "out", "--file-format", file_format]
    assert cli.main([*map(str, command)]) == 0
    (info,) = (tmp_path / "out").rglob("dataset_info.json")
    opened = open_clips(info.parent)
  assert unlabelled_share_of(changed, opened, placement) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("placement", step_inputs.PLACEMENTS)
@pytest.mark.usefixtures("store")
def test_a_resumed_run_equals_an_undisturbed_one(config, tmp_path, placement):
  placed = f"data.placement={placement}"
  undisturbed = training_loop.train(config("optim.steps=8", placed), tmp_path / "one")
  training_loop.train(config("optim.steps=5", placed), tmp_path / "two")
  again = training_loop.train(config("optim.steps=8", placed), tmp_path / "two")
  assert same_bits(undisturbed, again)


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_run_of_the_order_without_them_is_refused(config, tmp_path, monkeypatch, capsys):
  workdir = tmp_path / "run"
  with monkeypatch.context() as before:
    write_as_before(before)
    training_loop.train(config("optim.steps=3"), workdir)
  files = contents(workdir)
  with pytest.raises(UserError, match="never drew the 10 training clips without a label") as error:
    training_loop.train(config("optim.steps=6"), workdir)
  assert "\n" not in str(error.value)
  assert contents(workdir) == files
  # Follow the advice of the message.
  training_loop.train(
    config("optim.steps=2", f"start.run={workdir}", "start.step=latest"), tmp_path / "new"
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("unlabelled", "sampled"), [(0, "balanced"), (20, "shuffled")], ids=["labelled", "shuffled"]
)
def test_a_run_with_the_same_order_resumes(config, tmp_path, monkeypatch, unlabelled, sampled):
  make_store(tmp_path / "store.h5", unlabelled=unlabelled)
  sampled = f"data.sampling={sampled}"
  with monkeypatch.context() as before:
    write_as_before(before)
    training_loop.train(config("optim.steps=3", sampled), tmp_path / "run")
  resumed = training_loop.train(config("optim.steps=6", sampled), tmp_path / "run")
  assert same_bits(
    resumed, training_loop.train(config("optim.steps=6", sampled), tmp_path / "undisturbed")
  )
  assert saved(tmp_path / "undisturbed").run.draws_unlabelled


@pytest.mark.slow
def test_finetuning_draws_them(store, config, tmp_path, monkeypatch):
  training_loop.train(config("optim.steps=1"), tmp_path / "source")
  drawn = []
  draw = clip_order.draw
  monkeypatch.setattr(clip_order, "draw", lambda *given: drawn.append(draw(*given)) or drawn[-1])
  command = ["finetune", "--from", tmp_path / "source", "--store", store, "--workdir"]
  options = ["--config.optim.steps=2", "--config.optim.warmup_steps=0"]
  assert cli.main([*map(str, [*command, tmp_path / "run"]), *options]) == 0
  unlabelled = np.flatnonzero(np.diff(open_store(store).label_offsets) == 0)
  assert np.isin(np.concatenate(drawn), unlabelled).mean() == pytest.approx(1 / 3, abs=0.02)
