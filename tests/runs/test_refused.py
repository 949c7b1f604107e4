"""A refused command does not change its folder, and the corrected command trains."""

import shutil

import pytest
from runs_support import contents, make_store, records, same_bits, saved, tiny_config, trained
from test_finetune import finetune
from test_import_torch import config_of as torch_config
from test_import_torch import saved_state
from test_reproduce import command as reproduce

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.interop.importing import import_torch
from atgcn_jax.runs import training_loop
from atgcn_jax.runs.folder_lock import held
from atgcn_jax.training import saved_checkpoints


@pytest.fixture(autouse=True, scope="module")
def _trained():
  """Train the shared run first, so that its output is not in the stderr of the tests."""
  trained()


@pytest.fixture
def unstarted(tmp_path, monkeypatch):
  """Return a run without a step, as left by a process killed during compilation."""

  def killed(*_, **__):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(training_loop, "train_to_end", killed)
    with pytest.raises(KeyboardInterrupt):
      training_loop.train(
        tiny_config(trained().parent, "optim.steps=1", "model.layers=3"), tmp_path / "run"
      )
  assert saved_checkpoints.saved_steps(tmp_path / "run") == [0]
  return tmp_path / "run"


@pytest.mark.parametrize(
  ("override", "named"),
  [
    ("data.validation_folds=('x',)", "data.validation_folds: .* has no fold x"),
    ("data.validation_share=0.9999", "data.validation_share 0.9999: all .* clips of the training"),
    ("data.vocabulary=missing.csv", "missing.csv"),
    ("start.run=missing", "missing: no run"),
    ("sharding.label_parts=3", "sharding.label_parts"),
    ("sharding.label_parts=4", "sharding.label_parts: 6 labels cannot be split into 4 equal parts"),
    ("model.batch_norm=odd", "model.batch_norm"),
    ("model.activation=odd", "model.activation must be .* got 'odd'"),
    ("optim.steps=4", "--profile 9:1"),
  ],
)
def test_a_refused_training_makes_no_folder(tmp_path, override, named):
  config, profile = tiny_config(trained().parent, *override.split()), (9, 1)
  with pytest.raises(UserError, match=named):
    training_loop.train(config, tmp_path / "deep" / "run", profile=profile)
  assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_step_is_replaced_for_another_config(unstarted):
  same = tiny_config(trained().parent, "optim.steps=1", "model.layers=3")
  other = tiny_config(trained().parent, "optim.steps=1")
  before = contents(unstarted)
  with pytest.raises(UserError, match=r"data.validation_folds"):
    training_loop.train(tiny_config(trained().parent, "data.validation_folds=('x',)"), unstarted)
  assert contents(unstarted) == before
  with pytest.warns(UserWarning, match="replaced a run with another config and no training step"):
    training_loop.train(other, unstarted)
  fresh = unstarted.with_name("fresh")
  training_loop.train(other, fresh)
  assert same_bits(saved(unstarted).state, saved(fresh).state)
  assert records(unstarted) == records(fresh)
  assert saved(unstarted).run.config.model.layers == 2
  with pytest.raises(UserError, match=r"has a run with another config: model.layers: 2 → 3"):
    training_loop.train(same, unstarted)


@pytest.mark.slow
def test_a_run_without_a_step_is_replaced_for_another_store(unstarted, tmp_path):
  changes = [
    "optim.steps=1",
    "model.layers=3",
    f"data.store={make_store(tmp_path / 'b.h5', seed=1)}",
  ]
  with pytest.warns(UserWarning, match="replaced"):
    training_loop.train(tiny_config(trained().parent, *changes), unstarted)
  assert saved(unstarted).step == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("always:.*no training step")
def test_a_run_without_a_step_is_replaced_by_finetuning(unstarted, tmp_path, capsys):
  store = make_store(tmp_path / "others.h5", seed=1)
  assert finetune(store, unstarted, "--config.optim.steps=1") == 0
  assert "replaced a run with another config and no training step" in capsys.readouterr().err
  assert saved(unstarted).run.config.start.run == str(trained())


def test_damaged_checkpoints_stay_where_a_command_is_refused(tmp_path):
  copy = shutil.copytree(trained(), tmp_path / "run")
  newest = saved_checkpoints.saved_steps(copy)[-1]
  (copy / "checkpoints" / str(newest) / "run" / "metadata").write_text("{")
  before = contents(copy)
  with pytest.raises(UserError, match=r"model.layers: 2 → 3"):
    training_loop.train(tiny_config(trained().parent, "model.layers=3"), copy)
  assert contents(copy) == before


def test_imported_weights_are_never_replaced(unstarted, tmp_path):
  config, _ = torch_config(tmp_path, "graph")
  weights = saved_state(tmp_path, "graph")
  with held(unstarted), pytest.raises(UserError, match="has been training here"):
    import_torch(weights, config, unstarted, "panns")
  with pytest.raises(UserError, match=r"set model.width"):
    import_torch(weights, torch_config(tmp_path, "graph", "model.width=0.125")[0], unstarted)
  with pytest.warns(UserWarning, match="replaced"):
    import_torch(weights, config, unstarted, "panns")
  before = contents(unstarted)
  with pytest.raises(UserError, match=r"has imported weights, .* finetune --from"):
    training_loop.train(tiny_config(trained().parent), unstarted)
  with pytest.raises(UserError, match="holds a run"):
    import_torch(weights, config, unstarted, "panns")
  assert contents(unstarted) == before


@pytest.mark.parametrize(
  ("more", "named"),
  [
    (["--config.data.validation_folds=('x',)"], "data.validation_folds"),
    (["--rows", "graph_ontology"], "graph.ontology"),
    (["--config.data.batch_size=12"], "data.batch_size"),
    (["--rows", "graph_none", "--config.data.test_folds=('x',)"], "data.test_folds"),
  ],
)
def test_a_refused_reproduction_trains_nothing(tmp_path, capsys, more, named):
  words = reproduce("table2", trained().parent / "store.h5", tmp_path / "out", *more)
  assert cli.main([*map(str, words)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert named in line
  assert not (tmp_path / "out").exists()


def test_two_reproductions_in_a_folder(tmp_path, capsys):
  words = reproduce("table2", trained().parent / "store.h5", tmp_path / "out")
  with held(tmp_path / "out"):
    assert cli.main([*map(str, words)]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"{tmp_path / 'out'}: process" in line
  assert list((tmp_path / "out").iterdir()) == []
