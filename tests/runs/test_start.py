"""Runs that start with the parameters of another run, and the learning rate of the head."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from marks import slow
from runs_support import FRONTEND, VOCABULARY, make_store, saved, tiny_config, trained

from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models import NORMALISING
from atgcn_jax.runs import start, training_loop
from atgcn_jax.runs.carry_over import carried_over
from atgcn_jax.runs.checks import check_start
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.run import Loaded, named_apart, new_run
from atgcn_jax.runs.training_loop import train
from atgcn_jax.training import sharding
from atgcn_jax.training.optim import optimiser


def begun_from(folder, run, *changes):
  """Return parameters and normaliser of a run at its first checkpoint, step 0."""
  config = tiny_config(folder, "optim.steps=1", "checkpoint.keep=9", *changes, f"start.run={run}")
  train(config, folder / "next")
  steps = sorted(int(path.name) for path in (folder / "next" / "checkpoints").iterdir())
  assert steps[0] == 0
  return load_run(folder / "next", "0", sharding.data_mesh())


def same(one, other):
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def test_a_run_starts_with_the_parameters_that_fit(tmp_path):
  # The trained run has a graph head. The new run copies the encoder and gets a new head.
  given = saved(trained())
  loaded = begun_from(tmp_path, trained(), "model.head=linear", "start.step=latest")
  for kind in ("params", "batch_stats"):
    ours, theirs = loaded.state[kind]["encoder"], getattr(given.state, kind)["encoder"]
    assert same(ours, theirs)
  assert set(loaded.state["params"]["head"]) == {"fc"}


@pytest.mark.slow
def test_the_head_is_copied_for_the_same_labels(tmp_path):
  loaded = begun_from(tmp_path, trained(), "start.step=latest")
  assert same(loaded.state["params"], saved(trained()).state.params)


@pytest.mark.slow
@pytest.mark.parametrize("head", [slow("linear"), "graph"])
def test_only_a_graph_head_is_copied_for_other_labels(tmp_path, head, capsys):
  folder, run = tmp_path / "given", trained()
  if head == "linear":
    folder.mkdir()
    train(tiny_config(folder, "model.head=linear", "optim.steps=1"), run := folder / "run")
  names = tuple(f"other {name}" for name in VOCABULARY.names)
  others = Vocabulary(tuple(f"/m/x{k}" for k in range(6)), names)
  make_store(tmp_path / "store.h5", vocabulary=others)
  loaded = begun_from(tmp_path, run, f"model.head={head}", "start.step=latest")
  given = saved(run).state.params
  assert same(loaded.state["params"]["encoder"], given["encoder"])
  assert same(loaded.state["params"]["head"], given["head"]) == (head == "graph")
  assert ("0 of 6 labels start" in capsys.readouterr().err) == (head == "linear")


def run_and_variables(folder, *changes):
  config = tiny_config(folder, "start.run=source", *changes)
  run = new_run(config, open_store(folder / "store.h5"))
  return run, run.initial_state().variables


def test_a_linear_head_starts_with_the_labels_of_the_same_name(tmp_path):
  (tmp_path / "given").mkdir()
  source, known = run_and_variables(tmp_path / "given", "model.head=linear")
  names = ("Bark", "SQUEAK", "Wind", "hum", "Drone ", "Rain")
  make_store(tmp_path / "store.h5", vocabulary=Vocabulary(source.vocabulary.ids[::-1], names))
  run, own = run_and_variables(tmp_path, "model.head=linear", "seed=5")
  carried, remark = carried_over(run, Loaded(0, source, [], known))
  assert remark == "2 of 6 labels start with the weights of the label of that name in source"
  found = carried(own, known)
  assert same(found["params"]["encoder"], known["params"]["encoder"])
  ours, theirs = [1, 3], [VOCABULARY.names.index(name) for name in ("Squeak", "Hum")]
  others = [0, 2, 4, 5]
  for name in ("kernel", "bias"):
    new, before, old = (np.asarray(x["params"]["head"]["fc"][name]) for x in (found, own, known))
    np.testing.assert_array_equal(new[..., ours], old[..., theirs])
    np.testing.assert_array_equal(new[..., others], before[..., others])
  graph, _ = run_and_variables(tmp_path, "seed=5")
  assert carried_over(graph, Loaded(0, source, [], known))[1] == ""


def test_a_head_keeps_its_prior(tmp_path):
  source, known = run_and_variables(tmp_path, "model.head=linear")
  run, _ = run_and_variables(tmp_path, "model.head=linear", "model.prior=0.1")
  with pytest.raises(UserError, match=r"model.prior: source was trained with 0.5, got 0.1"):
    carried_over(run, Loaded(0, source, [], known))
  graph, _ = run_and_variables(tmp_path, "model.prior=0.1")  # has a head of its own
  carried_over(graph, Loaded(0, source, [], known))


def test_whose_normaliser_a_run_has(tmp_path, monkeypatch):
  assert "cnn10" in NORMALISING
  assert "mobilenet" not in NORMALISING
  run, variables = run_and_variables(tmp_path, "model.head=linear")
  theirs = run.normaliser._replace(mean=run.normaliser.mean + 1)
  source = Loaded(0, dataclasses.replace(run, normaliser=theirs), [], variables)
  monkeypatch.setattr(start, "load_either", lambda *_: source)
  layout = sharding.Layout(sharding.data_mesh())
  assert start.start_run(run, layout)[0].normaliser is run.normaliser
  monkeypatch.setattr(start, "NORMALISING", ())
  assert start.start_run(run, layout)[0].normaliser is theirs


def test_another_front_end_is_refused(tmp_path):
  make_store(tmp_path / "store.h5", frontend=dataclasses.replace(FRONTEND, name="odd", fmax=1900.0))
  with pytest.raises(UserError, match="has the front end tiny, the store has odd"):
    begun_from(tmp_path, trained())


@pytest.mark.parametrize(
  ("changes", "texts"),
  [
    ({"top_db": 60.0}, ("tiny with top_db 80.0", "tiny with top_db 60.0", "with the version")),
    ({"n_mels": 8}, ("tiny with n_mels 16", "tiny with n_mels 8", "with the version")),
    # The length is named last: some encoders take any.
    ({"seconds": 2.0, "fmin": 9.0}, ("tiny with fmin 0.0", "tiny with fmin 9.0", "with the ver")),
    ({"seconds": 2.0}, ("clips of 1 s", "clips of 2 s", "with --seconds 1")),
    ({"name": "odd", "fmin": 9.0}, ("tiny", "odd", "with --frontend tiny")),
  ],
)
def test_the_first_difference_of_front_ends_is_named(changes, texts):
  found = named_apart(FRONTEND, dataclasses.replace(FRONTEND, **changes))
  for part, text in zip(found, texts):
    assert text in part


def test_another_encoder_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"the encoder of .* differs, .*clip1.* does not fit"):
    begun_from(tmp_path, trained(), "model.width=0.0625", "start.step=latest")


@pytest.mark.parametrize(
  ("source", "name"), [("mn10", "mn10"), ("mn40_ext/", "mn40_ext"), ("x", "NAME")]
)
def test_a_start_that_is_no_run_is_refused_before_the_clips_are_opened(
  tmp_path, monkeypatch, source, name
):
  monkeypatch.setattr(training_loop, "training_store", lambda _: pytest.fail("opened"))
  with pytest.raises(
    UserError, match=r"start.run .*: no run with a checkpoint; .*import-torch"
  ) as e:
    begun_from(tmp_path, f"{tmp_path / 'runs'}/{source}")
  assert f"`atgcn models get {name} --out {tmp_path / 'runs'}/{source}`" in str(e.value)


def test_a_run_that_has_begun_does_not_need_its_start(tmp_path):
  check_start(str(tmp_path / "gone"), trained())


def test_the_head_has_its_own_learning_rate():
  params = {"encoder": {"w": np.ones(3, "f")}, "head": {"w": np.ones(3, "f")}}
  gradients = jax.tree.map(lambda x: 0.5 * x, params)
  adam = optimiser(optax.constant_schedule(1e-3), head_factor=0.25)
  updates, _ = adam.update(gradients, adam.init(params), params)
  ratio = optax.tree.norm(updates["head"]) / optax.tree.norm(updates["encoder"])
  assert float(ratio) == pytest.approx(0.25, rel=1e-6)
