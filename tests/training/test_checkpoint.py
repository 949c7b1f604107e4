"""Checkpoints: which are preserved, found, and skipped when they are damaged."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs_support import (
  contents,
  newest_sound,
  newest_sound_step,
  same_bits,
  saved,
  tiny_config,
  trained,
)

from atgcn_jax.errors import UserError
from atgcn_jax.runs.load import best_step, load_run
from atgcn_jax.runs.training_loop import train
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import checkpoint, saved_checkpoints, sharding
from atgcn_jax.training.state import start_state


def small_state(step):
  variables = {"params": {"w": jnp.arange(6.0) + step}, "batch_stats": {"m": jnp.ones(2)}}
  return start_state(variables, optax.adam(1e-3)).replace(step=jnp.int32(step))


def save_all(workdir, values, keep=2, evaluated=()):
  """Save a checkpoint for each step of {step: validation mAP or None}.

  `evaluated` has such pairs of earlier steps.
  """
  history = [{"step": step, "mAP": value} for step, value in evaluated]
  with checkpoint.open_manager(workdir, keep, lambda steps: best_step(history, steps)) as manager:
    for step, value in values.items():
      history.append({"step": step, "mAP": value})
      checkpoint.start_save(manager, small_state(step), {"mean": np.ones(3)}, {"step": step})


@pytest.fixture
def copy(tmp_path):
  """Return a copy of the trained run, to be damaged."""
  return shutil.copytree(trained(), tmp_path / "run")


@pytest.fixture(scope="module")
def states():
  """Return {step: state} of the trained run's checkpoints, read before any damage."""
  mesh = sharding.data_mesh()
  steps = saved_checkpoints.saved_steps(trained())
  return {step: load_run(trained(), str(step), mesh).state for step in steps}


def test_the_newest_and_the_best_are_preserved(tmp_path):
  save_all(tmp_path, {1: 0.2, 2: 0.9, 3: 0.3, 4: None, 5: 0.4, 6: None})
  assert saved_checkpoints.saved_steps(tmp_path) == [2, 5, 6]
  save_all(tmp_path, {7: 0.5, 8: 0.6}, evaluated=[(2, 0.9), (5, 0.4)])
  assert saved_checkpoints.saved_steps(tmp_path) == [2, 7, 8]
  save_all(tmp_path, {9: 0.95, 10: None, 11: None}, keep=1, evaluated=[(2, 0.9), (8, 0.6)])
  assert saved_checkpoints.saved_steps(tmp_path) == [9, 11]


def lists():
  """Return the number of lists in this process."""
  gc.collect()
  return sum(type(thing) is list for thing in gc.get_objects())


def test_saves_leave_no_objects_behind(tmp_path):
  save_all(tmp_path, {0: None})
  before = lists()
  save_all(tmp_path, dict.fromkeys(range(1, 11)))
  assert lists() < before + 20


def test_without_validation_the_newest_are_preserved(tmp_path):
  save_all(tmp_path, dict.fromkeys(range(6)), keep=3)
  assert saved_checkpoints.saved_steps(tmp_path) == [3, 4, 5]


def test_round_trip(tmp_path):
  save_all(tmp_path, {7: 0.5})
  state = small_state(7)
  target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
  assert same_bits(saved_checkpoints.read_state(tmp_path, 7, target), state)
  assert same_bits(saved_checkpoints.read_variables(tmp_path, 7, target.variables), state.variables)
  description, constants = saved_checkpoints.read_description(tmp_path, 7)
  assert description == {"step": 7}
  np.testing.assert_array_equal(constants["mean"], np.ones(3))


def test_files_of_a_killed_save_are_not_checkpoints_and_are_removed(tmp_path):
  save_all(tmp_path, {1: 0.2})
  folder = tmp_path / saved_checkpoints.FOLDER
  shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
  (folder / "2.orbax-checkpoint-tmp" / "commit_success.txt").unlink()
  assert saved_checkpoints.saved_steps(tmp_path) == [1]
  save_all(tmp_path, {3: 0.4})
  assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]


def test_a_half_deleted_old_checkpoint_does_not_stop_the_manager(tmp_path):
  save_all(tmp_path, {1: 0.9, 2: 0.3})
  for name in ("variables", "_CHECKPOINT_METADATA", "commit_success.txt"):
    path = tmp_path / saved_checkpoints.FOLDER / "1" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.warns(UserWarning, match="checkpoint 1 is damaged"):
    assert newest_sound_step(tmp_path) == 2
  save_all(tmp_path, {3: 0.4})
  assert saved_checkpoints.saved_steps(tmp_path) == [2, 3]


def damage_step(run, step):
  for path in (run / saved_checkpoints.FOLDER / str(step)).rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(copy):
  newest = saved_checkpoints.saved_steps(copy)[-1]
  damage_step(copy, newest)
  with pytest.warns(UserWarning, match=f"checkpoint {newest} is damaged"):
    train(tiny_config(trained().parent), copy)
  again, undisturbed = saved(copy), saved(trained())
  assert same_bits(again.state, undisturbed.state)
  assert again.history == undisturbed.history


def test_latest_skips_a_damaged_checkpoint_but_a_number_does_not(copy, states):
  mesh = sharding.data_mesh()
  before, newest = sorted(states)[-2:]
  damage_step(copy, newest)
  untouched = contents(copy)
  with pytest.warns(UserWarning, match=f"checkpoint {newest} is damaged"):
    loaded = load_run(copy, "latest", mesh)
  assert loaded.step == before
  assert same_bits(loaded.state, states[before])
  with pytest.raises(UserError, match=f"checkpoint {newest} is damaged"):
    load_run(copy, str(newest), mesh)
  assert contents(copy) == untouched
  with pytest.warns(UserWarning, match="damaged"):
    assert len(Tagger.restore(copy).tag(np.zeros(4000))) == 5


def test_damaged_checkpoints_take_the_first_free_number(tmp_path):
  (tmp_path / "damaged" / "100-1" / "kept").mkdir(parents=True)  # the user has removed 100-0
  for number in (0, 2):
    (saved_checkpoints.folder_of(tmp_path) / "100" / "new").mkdir(parents=True)
    assert checkpoint.set_aside(tmp_path, 100) == tmp_path / "damaged" / f"100-{number}"


def test_only_damaged_checkpoints_is_an_error(copy):
  for step in saved_checkpoints.saved_steps(copy):
    damage_step(copy, step)
  with pytest.raises(UserError, match="is damaged"), pytest.warns(UserWarning, match="damaged"):
    load_run(copy, "latest", sharding.data_mesh())
  before = contents(copy)
  for _ in range(2):  # and again: nothing is moved that could be taken for a run not begun
    with pytest.raises(UserError, match=r"has no valid checkpoint; checkpoint \d+ is damaged"):
      train(tiny_config(trained().parent), copy)
  assert contents(copy) == before


def test_best_is_the_highest_of_the_existing_ones():
  history = [
    {"step": 4, "mAP": 0.5},
    {"step": 8, "mAP": None},
    {"step": 12, "mAP": 0.9},
    {"step": 16, "mAP": 0.7},
  ]
  assert best_step(history, [4, 8, 16, 17]) == 16
  assert best_step(history, [8]) is None
  assert best_step([], [1, 2]) is None


def test_the_best_of_a_run_is_found(states):
  lines = map(json.loads, (trained() / "metrics.jsonl").read_text().splitlines())
  found = {line["step"]: line["mAP"] for line in lines if "mAP" in line}
  expected = max((step for step in states if step in found), key=found.get)
  assert load_run(trained(), "best", sharding.data_mesh()).step == expected
  assert found[expected] == max(found.values())


@pytest.mark.parametrize("step", ["31", "-1", "newest", "", "³"])
def test_a_missing_step_is_named(step):
  with pytest.raises(UserError, match="--step") as error:
    load_run(trained(), step, sharding.data_mesh())
  assert "\n" not in str(error.value)


def test_a_folder_without_a_run_is_named(tmp_path):
  for folder in (tmp_path, tmp_path / "missing"):
    with pytest.raises(UserError, match="no run with a checkpoint"):
      load_run(folder, "latest", sharding.data_mesh())
    assert newest_sound(folder, sharding.Layout(sharding.data_mesh())) is None
