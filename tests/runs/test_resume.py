"""An interrupted run ends with the same bits as an undisturbed one."""

import dataclasses
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from marks import slow
from runs_support import (
  VOCABULARY,
  contents,
  make_store,
  records,
  same_bits,
  saved,
  start,
  tiny_config,
  trained,
)

from atgcn_jax import cli
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.runs import (
  run,
  run_checkpoints,
  run_store,
  stop_lines,
  training_loop,
  training_programs,
)
from atgcn_jax.runs.label_graph import label_graph
from atgcn_jax.runs.load import read_run, sound_step, with_training_state
from atgcn_jax.runs.log import RunLog
from atgcn_jax.runs.start import continued
from atgcn_jax.runtime.signals import Stopped
from atgcn_jax.training import saved_checkpoints, sharding


@pytest.fixture
def config():
  """Return a function that makes the config of the trained run with changes."""
  folder = trained().parent
  return lambda *overrides: tiny_config(folder, *overrides)


@pytest.fixture
def copy(tmp_path):
  return shutil.copytree(trained(), tmp_path / "run")


@pytest.fixture(autouse=True)
def handlers():
  """Check that each test restores the signal handlers of the process."""
  before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
  yield
  assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
  for number, handler in before.items():
    signal.signal(number, handler)


def assert_as_undisturbed(workdir):
  one, other = saved(workdir), saved(trained())
  assert one.step == other.step == 30
  assert same_bits(one.state, other.state)
  assert one.history == other.history
  assert records(workdir) == records(trained())
  kept = saved_checkpoints.saved_steps(workdir)
  assert kept == saved_checkpoints.saved_steps(trained())
  left = {path.name for path in (workdir / saved_checkpoints.FOLDER).iterdir()}
  assert left == set(map(str, kept))


def interrupt(monkeypatch, step, number=signal.SIGTERM):
  """Send this process a signal right after a step."""
  stepped = RunLog.stepped

  def and_signal(log, done):
    stepped(log, done)
    if done == step:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(RunLog, "stepped", and_signal)


# Killed processes.


def kill_when(process, condition):
  """Send SIGKILL as soon as the condition holds, and return whether the process was alive."""
  while process.poll() is None and not condition():
    time.sleep(0.002)
  process.kill()
  process.communicate()
  return process.returncode == -signal.SIGKILL


def run_until_done(arguments, conditions):
  """Restart the command after each kill.

  Returns the number of kills that met it alive, and stdout and stderr of the last process.
  """
  met = sum(kill_when(start(*arguments), condition) for condition in conditions)
  process = start(*arguments)
  output, errors = process.communicate()
  assert process.returncode == 0, errors
  return met, output, errors


def saving(workdir, least):
  """Return whether a checkpoint of at least this step is being written."""
  names = [path.name for path in (workdir / saved_checkpoints.FOLDER).glob("*tmp*")]
  return any(int(name.partition(".")[0]) >= least for name in names)


def steps_done(workdir):
  path = workdir / "metrics.jsonl"
  return path.read_text().count('"loss"') if path.exists() else 0


def train_command(folder, workdir):
  return "train", "--config", folder / "config.py", "--workdir", workdir


def test_a_killed_run_equals_an_undisturbed_one(tmp_path):
  folder, workdir = trained().parent, tmp_path / "run"
  conditions = [lambda: saving(workdir, 4), lambda: steps_done(workdir) >= 14]
  met, _, errors = run_until_done(train_command(folder, workdir), conditions)
  assert met == 2
  # Messages of libraries do not reach the terminal.
  own = ("step ", "vectors with ", "clips: ", "results: ", "resumed from step ", "next: ")
  assert [line for line in errors.splitlines() if not line.startswith(own)] == []
  assert_as_undisturbed(workdir)


@pytest.mark.slow
def test_many_kills_at_random_moments(tmp_path):
  folder, workdir = trained().parent, tmp_path / "run"
  rng = random.Random(5)

  def condition(kind):
    if kind == 0:
      end = time.monotonic() + rng.uniform(0.5, 4)  # during a start, or soon after it
      return lambda: time.monotonic() > end
    if kind == 1:
      return lambda: saving(workdir, steps_done(workdir))
    goal = []
    return lambda: steps_done(workdir) >= (goal or goal.append(steps_done(workdir) + 2) or goal)[0]

  met, _, _ = run_until_done(train_command(folder, workdir), [condition(i % 3) for i in range(12)])
  assert met >= 8
  assert_as_undisturbed(workdir)


# Within one process.


@pytest.mark.slow
def test_an_extended_run_equals_a_longer_one(tmp_path, config):
  training_loop.train(config("optim.steps=15"), tmp_path)
  assert records(tmp_path)[-1][0] == 15
  state = training_loop.train(config(), tmp_path)
  assert same_bits(state, saved(trained()).state)
  assert [r for r in records(tmp_path) if "mAP" not in r[1]] == [
    r for r in records(trained()) if "mAP" not in r[1]
  ]


@pytest.mark.parametrize(
  ("number", "status"),
  [slow(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_signal_saves_and_the_command_resumes(tmp_path, monkeypatch, capsys, number, status):
  end = saved_checkpoints.saved_steps(trained())[-2]
  command = [*map(str, train_command(trained().parent, tmp_path / "run"))]
  command.append(f"--config.optim.steps={end}")
  capsys.readouterr()  # discard the output of the run that the tests share
  with monkeypatch.context() as patch:
    interrupt(patch, 10, number)
    assert cli.main(command) == status
  said = capsys.readouterr().err
  assert "saved step 10" in said
  assert "resumed" not in said
  assert "next: " not in said
  assert saved_checkpoints.saved_steps(tmp_path / "run")[-1] == 10
  assert cli.main(command) == 0
  said = capsys.readouterr().err
  assert f"resumed from step 10 of {end}\n" in said
  assert f"next: atgcn evaluate --workdir {tmp_path / 'run'}\n" in said
  other = read_run(trained(), end)
  other = with_training_state(other, trained(), sharding.Layout(sharding.data_mesh()))
  assert same_bits(saved(tmp_path / "run").state, other.state)
  assert records(tmp_path / "run") == [line for line in records(trained()) if line[0] <= end]


def test_the_lines_of_a_stop(monkeypatch, tmp_path):
  assert "a second Ctrl-C ends at once" in stop_lines.after_this_step("SIGINT")
  assert "; Ctrl-C ends at once" in stop_lines.after_this_step("SIGTERM")
  assert stop_lines.at_once(trained()).endswith("to resume from step 30, the newest saved")
  assert stop_lines.at_once(tmp_path).endswith("to resume from the newest saved step")
  monkeypatch.setattr(stop_lines, "saved_steps", lambda workdir: 1 / 0)  # as a lost bucket
  assert stop_lines.at_once(trained()).endswith("to resume from the newest saved step")
  monkeypatch.setattr(stop_lines, "is_first", lambda: False)
  assert stop_lines.after_this_step("SIGINT") == stop_lines.at_once(trained()) == ""


def test_a_signal_while_that_step_is_being_saved(tmp_path, monkeypatch, config):
  save = run_checkpoints.save_checkpoint

  def and_signal(manager, run, state, history):
    save(manager, run, state, history)
    if int(state.step) == 3:
      patch.setattr(run_checkpoints, "save_checkpoint", save)
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(run_checkpoints, "save_checkpoint", and_signal)
    with pytest.raises(Stopped):
      training_loop.train(config(), tmp_path)
  assert saved_checkpoints.saved_steps(tmp_path) == [0, 3]


@pytest.mark.slow
def test_a_signal_during_the_last_evaluation(tmp_path, monkeypatch, config, capsys):
  workdir = tmp_path / "run"
  short = config("optim.steps=5")
  score_clips = training_programs.score_clips

  def and_signal(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGTERM)
    return score_clips(*args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(training_programs, "score_clips", and_signal)
    for step in (4, 5):
      with pytest.raises(Stopped):
        training_loop.train(short, workdir)
      assert saved_checkpoints.saved_steps(workdir)[-1] == step
      if step == 4:
        patch.setattr(training_programs, "score_clips", score_clips)
        interrupt(patch, 5)
  training_loop.train(short, workdir)
  once = contents(workdir)
  assert [r[0] for r in records(workdir) if "mAP" in r[1]] == [4, 5]
  training_loop.train(short, workdir)
  assert contents(workdir) == once


@pytest.mark.parametrize("stopped_at", [4, slow(12)])
def test_a_stop_during_an_evaluation_does_not_lose_the_best_step(
  tmp_path, monkeypatch, config, stopped_at
):
  """The step is saved without its evaluation, which follows when the run resumes."""
  workdir, steps = tmp_path / "run", (4, 8, 12)
  short = config("optim.steps=12", "evaluation.every=4", "checkpoint.every=4", "checkpoint.keep=1")
  scored, precisions = iter(steps), iter([0.9 if step == stopped_at else 0.1 for step in steps])
  score_clips, tagging_metrics = training_programs.score_clips, training_loop.tagging_metrics

  def and_signal(*args, **kwargs):
    if next(scored) == stopped_at:
      monkeypatch.setattr(training_programs, "score_clips", score_clips)
      os.kill(os.getpid(), signal.SIGTERM)
    return score_clips(*args, **kwargs)

  monkeypatch.setattr(training_programs, "score_clips", and_signal)
  monkeypatch.setattr(
    training_loop,
    "tagging_metrics",
    lambda *args: tagging_metrics(*args) | {"mAP": next(precisions)},
  )
  with pytest.raises(Stopped):
    training_loop.train(short, workdir)
  training_loop.train(short, workdir)
  assert sound_step(workdir, "best") == stopped_at


def test_a_finished_run_is_left_as_it_is(copy, capsys):
  before = contents(copy)
  assert cli.main([*map(str, train_command(trained().parent, copy))]) == 0
  assert "nothing to do" in capsys.readouterr().err
  assert contents(copy) == before


def test_a_signal_at_the_end_gives_its_status(copy, monkeypatch, capsys):
  monkeypatch.setattr(
    run_checkpoints.Checkpoints, "wait", lambda _: os.kill(os.getpid(), signal.SIGTERM)
  )
  assert cli.main([*map(str, train_command(trained().parent, copy))]) == 128 + signal.SIGTERM
  assert capsys.readouterr().err.endswith("the stop signal came too late; the work had ended\n")


# Values that are not finite.


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
  command = train_command(trained().parent, tmp_path / "run")
  # The learning rate is multiplied by this factor once the validation mAP decreases.
  overrides = ["optim.plateau_factor=1e30", "checkpoint.every=1", "evaluation.every=1"]
  changes = [f"--config.{override}" for override in overrides]
  assert cli.main([*map(str, command), *changes]) == 1
  lines = capsys.readouterr().err.splitlines()
  reported = [line for line in lines if line.startswith("atgcn train: step ")]
  assert len(reported) == 1
  assert "not finite" in reported[0] or "nan" in reported[0] or "inf" in reported[0]
  last = saved(tmp_path / "run")
  assert f"the last good checkpoint is that of step {last.step}" in reported[0]
  assert all(np.isfinite(leaf).all() for leaf in np_leaves(last.state))


def np_leaves(tree):
  import jax

  return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def test_a_store_with_nan_is_refused(tmp_path, config):
  broken = make_store(tmp_path / "broken.h5", dtype="float16", broken=True)
  with pytest.raises(UserError, match=r"log-mel of clip clip0 is NaN or infinite"):
    training_loop.train(config(f"data.store={broken}"), tmp_path / "run")
  assert saved_checkpoints.saved_steps(tmp_path / "run") == []


def test_nan_in_validation_stops_the_run(tmp_path, config, monkeypatch):
  monkeypatch.setattr(
    training_programs, "score_clips", lambda *_, **__: (np.full((2, 6), np.nan), None)
  )
  with pytest.raises(
    WorkFailed, match=r"step 4: the sum of the val.* checkpoint is that of step 3"
  ):
    training_loop.train(config(), tmp_path)


# Keys that may change when a run resumes, and keys that must not.


def test_contradictions_are_reported_and_nothing_is_changed(copy, capsys):
  before = contents(copy)
  overrides = [
    "--config.optim.learning_rate=0.5",
    "--config.model.layers=3",
    "--config.log.every=2",
  ]
  command = [*map(str, train_command(trained().parent, copy)), *overrides]
  assert cli.main(command) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert "optim.learning_rate: 0.01 → 0.5" in lines[0]
  assert "model.layers: 2 → 3" in lines[0]
  assert "log.every" not in lines[0]
  assert contents(copy) == before


def test_free_keys_may_differ(copy, tmp_path, config):
  moved = shutil.copy(trained().parent / "store.h5", tmp_path / "moved.h5")
  changed = config(
    f"data.store={moved.name}",
    f"data.root={tmp_path}",
    "optim.steps=20",
    "checkpoint.every=7",
    "checkpoint.keep=1",
    "log.every=9",
  )
  state = training_loop.train(changed, copy)
  assert int(state.step) == 30


def test_a_store_with_other_content_is_refused(copy, tmp_path, config):
  other = make_store(tmp_path / "other.h5", seed=1)
  with pytest.raises(UserError, match=r"other.h5: not the clip store"):
    training_loop.train(config(f"data.store={other}"), copy)


def write_graph(path, propagation, **settings):
  np.savez(path, mids=VOCABULARY.ids, propagation=propagation, **settings)
  return path


def test_the_settings_of_a_graph_file_count(tmp_path, config):
  settings = {"method": "paper", "threshold": 0.3, "neighbour_weight": 0.2}
  built = write_graph(tmp_path / "graph.npz", np.eye(6), **settings)
  label_graph(config(f"graph.source={built}"), VOCABULARY, None)  # without a warning
  message = "made with graph.method=paper, graph.threshold=0.3, graph.neighbour_weight=0.2, which"
  for other in ("method=identity", "threshold=0.4", "neighbour_weight=1.0"):
    with pytest.warns(UserWarning, match=message):
      label_graph(config(f"graph.source={built}", f"graph.{other}"), VOCABULARY, None)
  write_graph(built, np.eye(6))  # of another program, which states no settings
  label_graph(config(f"graph.source={built}", "graph.method=identity"), VOCABULARY, None)


def test_a_graph_file_is_compared_by_content(tmp_path, config):
  workdir, propagation = tmp_path / "run", saved(trained()).run.propagation
  one = write_graph(tmp_path / "one.npz", propagation)
  training_loop.train(config(f"graph.source={one}", "optim.steps=1"), workdir)
  same = shutil.copy(one, tmp_path / "same.npz")
  training_loop.train(config(f"graph.source={same}", "optim.steps=1"), workdir)
  other = write_graph(tmp_path / "other.npz", propagation + np.eye(6))
  with pytest.raises(UserError, match=r"graph.source: the content differs"):
    training_loop.train(config(f"graph.source={other}", "optim.steps=1"), workdir)
  # Also if the content of the original file has changed.
  shutil.copy(other, one)
  with pytest.raises(UserError, match=r"graph.source: the content differs"):
    training_loop.train(config(f"graph.source={one}", "optim.steps=1"), workdir)


def test_a_run_can_have_some_of_the_stores_labels(tmp_path, config):
  part = VOCABULARY.part([4, 1, 2])
  write_vocabulary(tmp_path / "labels.csv", part)
  made = config(f"data.vocabulary={tmp_path / 'labels.csv'}")
  store, whole = run_store.store_of(made), run_store.whole_store_of(made)
  clips = np.arange(len(whole))
  np.testing.assert_array_equal(store.labels(clips), whole.labels(clips)[:, [4, 1, 2]])
  assert store.vocabulary == part
  assert store.fingerprint != whole.fingerprint
  assert run.new_run(made, store).abstract_state().params["head"]["gc1"] is not None


def test_ontology_targets_add_the_labels_above(config, monkeypatch):
  plain, above = run_store.store_of(config()), [[], [0], [], [0, 2], [], []]
  carried = plain.carried_up(above)
  clips = np.arange(len(plain))
  expected = plain.labels(clips)
  expected[:, 0] |= expected[:, 1] | expected[:, 3]
  expected[:, 2] |= expected[:, 3]
  np.testing.assert_array_equal(carried.labels(clips), expected)
  np.testing.assert_array_equal(np.diff(carried.label_offsets), expected.sum(axis=1))
  made = config("data.ontology_targets=True")
  with pytest.raises(UserError, match=r"graph\.ontology: data\.ontology_targets needs the path"):
    run_store.training_store(made)
  labels = plain.labels(clips)
  assert run_store.trained_labels(config(), VOCABULARY, labels) is labels
  monkeypatch.setattr(run_store, "_ancestors", lambda *_: above)
  np.testing.assert_array_equal(run_store.trained_labels(made, VOCABULARY, labels), expected)


def test_ontology_targets_are_compared_by_content(tmp_path, config):
  earlier = saved(trained())
  plain = run_store.store_of(config())
  targets = dataclasses.replace(earlier.run, carried_labels=plain.labels_hash())
  earlier = earlier._replace(run=targets)
  assert continued(earlier, config(), plain, tmp_path).carried_labels == targets.carried_labels
  with pytest.raises(UserError, match=r"graph\.ontology: the content differs"):
    continued(earlier, config(), plain.carried_up([[], [0], [], [0, 2], [], []]), tmp_path)


def test_a_vocabulary_file_with_a_label_that_the_store_lacks(tmp_path, config):
  other = Vocabulary((*VOCABULARY.ids, "/m/other"), (*VOCABULARY.names, "Other"))
  write_vocabulary(tmp_path / "labels.csv", other)
  with pytest.raises(UserError, match=r"lacks the label /m/other \(Other\)"):
    training_loop.train(config(f"data.vocabulary={tmp_path / 'labels.csv'}"), tmp_path / "run")


@pytest.mark.parametrize(
  ("override", "named"),
  [
    ("data.batch_size=12", "data.batch_size"),
    ("data.batch_size=0", "data.batch_size"),
    ("evaluation.batch_size=3", "evaluation.batch_size"),
    ("evaluation.every=0", "evaluation.every"),
    ("checkpoint.keep=0", "checkpoint.keep"),
    ("log.every=-1", "log.every"),
    ("optim.steps=0", "optim.steps"),
    ("optim.schedule=spiral", "optim.schedule"),
    ("augment.form=none", "augment.form"),
    ("data.sampling=random", "data.sampling"),
    ("data.placement=disk", "data.placement"),
    ("model.head=tree", "model.head"),
    ("model.encoder=cnn99", "model.encoder"),
    ("model.dtype=int8", "model.dtype"),
    ("model.dtype=float64", "JAX_ENABLE_X64"),
    ("data.train_folds=('x',)", "data.train_folds"),
    ("data.store=missing.h5", "missing.h5"),
    ("graph.source=missing.npz", "missing.npz"),
    ("graph.embeddings=missing.txt", "missing.txt"),
    ("graph.method=magic", "magic"),
    ("graph.threshold=7.0", "threshold"),
  ],
)
def test_invalid_settings(tmp_path, config, override, named):
  with pytest.raises(UserError, match=named) as error:
    training_loop.train(config(override), tmp_path / "run")
  assert "\n" not in str(error.value)
  assert saved_checkpoints.saved_steps(tmp_path / "run") == []
