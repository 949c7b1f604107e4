"""Several processes make the same run as one: steps, logs, checkpoints, evaluations."""

import concurrent.futures
import json
import os
import pickle
import queue
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from narrow_system import assert_same_first_step, assert_same_in_float64
from narrow_system import trained as narrow
from one_of_many import fed
from runs_support import (
  REPOSITORY,
  contents,
  free_port,
  joining,
  make_store,
  newest_sound,
  records,
  same_bits,
  saved,
  start,
  start_many,
  trained,
)

from atgcn_jax import cli
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runtime import processes, signals
from atgcn_jax.training import saved_checkpoints
from atgcn_jax.training.sharding import Layout, data_mesh

TOGETHER = 4  # steps of the run of two processes, the first of the 30 of one process
ENDED = 300  # timeout in seconds for the end of a process


def finished(process):
  """Return (stdout, stderr). If the process hangs, stderr shows the line."""
  try:
    return process.communicate(timeout=ENDED)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGABRT)
    return process.communicate()


def results(many, expected=0):
  """Return (outputs, errors) of processes, all of which must end with this status."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    reported = list(pool.map(finished, many))
  for process, (_, errors) in zip(many, reported):
    assert process.returncode == expected, errors
  return [output for output, _ in reported], [errors for _, errors in reported]


# The step.


@pytest.fixture(scope="module")
def one_process():
  layout = Layout(data_mesh())
  with jax.enable_x64(True):
    twenty = narrow(layout, 20, "authors", "float64", record=False)
  return {"first": narrow(layout, 1, "authors", "float32", record=True), "twenty": twenty}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_many_processes_compute_what_one_does(tmp_path, one_process, count):
  coordinator, alone = f"127.0.0.1:{free_port()}", fed(tmp_path)
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(8 // count)}
  command = [
    sys.executable,
    "-X",
    "faulthandler",
    REPOSITORY / "tests/support/one_of_many.py",
    tmp_path,
    coordinator,
    str(count),
  ]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  results(
    [
      subprocess.Popen([*command, str(i)], env=environment, cwd=REPOSITORY, **pipes)
      for i in range(count)
    ]
  )
  with open(tmp_path / "out.pickle", "rb") as file:
    many = pickle.load(file)
  assert_same_first_step(one_process["first"], many["first"])
  assert_same_first_step(one_process["first"], many["first_in_parts"])
  assert_same_in_float64(one_process["twenty"], many["twenty"], 20)
  assert same_bits(many["fed"], alone)

  everyone = range(count)
  assert many["beats"] == [
    [[i * bool(step), max(0, step - 1)] for i in everyone] for step in range(3)
  ]
  assert many["gathered"] == [[i] for i in everyone]
  assert many["reported"] == {"index": 0}
  assert many["hosts"] == count
  assert many["processes"] == sorted(many["processes"])  # so each process has one slice of a batch


# Complete runs.


def commands(workdir):
  """Return the words that train the tiny run in this folder, and those that evaluate it."""
  config = ["--config", str(trained().parent / "config.py")]
  return ["train", *config, "--workdir", workdir], ["evaluate", "--workdir", workdir, "--json"]


def last_json(output):
  return json.loads(output.strip().splitlines()[-1])


def wait_for(condition, processes):
  """Wait until a condition holds, while these processes live."""
  while not condition():
    assert all(process.poll() is None for process in processes)
    time.sleep(0.02)


def steps_logged(workdir):
  path = workdir / "metrics.jsonl"
  return path.read_text().count('"loss"') if path.exists() else 0


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
  """Return (folder of a run of two processes, output of its training)."""
  workdir, steps = tmp_path_factory.mktemp("two") / "run", f"--config.optim.steps={TOGETHER}"
  _, errors = results(start_many(2, *commands(workdir)[0], steps, devices=4))
  return workdir, errors


def test_two_processes_make_the_same_run_as_one(by_two):
  workdir, errors = by_two
  assert saved_checkpoints.saved_steps(workdir)[-2:] == [3, TOGETHER]
  (one, other) = (records(folder) for folder in (trained(), workdir))
  one = [line for line in one if line[0] <= TOGETHER]
  assert [line[:2] for line in one] == [line[:2] for line in other]  # each line is written once
  assert other[0][2] == pytest.approx(one[0][2], rel=1e-5)
  one, other = saved(trained()), saved(workdir)
  assert [r["step"] for r in one.history][:1] == [r["step"] for r in other.history]
  expected = one.run.description()
  expected["config"]["optim"]["steps"] = TOGETHER
  assert other.run.description() == expected
  assert len(list((workdir / "tensorboard").iterdir())) == 1
  first, second = errors
  assert f"step {TOGETHER}: validation mAP" in first
  assert second.strip() == ""


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(by_two, capsys):
  workdir, _ = by_two
  (first, second), _ = results(start_many(2, *commands(workdir)[1]))
  assert "{" not in second
  before = contents(workdir / "evaluation")
  assert cli.main([str(word) for word in commands(workdir)[1]]) == 0
  one, two = last_json(capsys.readouterr().out), last_json(first)
  assert one.keys() == two.keys()
  for name, value in one.items():
    assert two[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
  names = {f"test-{TOGETHER}.csv", f"test-{TOGETHER}.json"}
  assert before.keys() == contents(workdir / "evaluation").keys() == names


def test_a_signal_of_another_process_stops_this_one(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  others = iter([0, signal.SIGTERM])
  monkeypatch.setattr(
    processes, "gather_over_processes", lambda mine: np.stack([mine, [next(others)]])
  )
  processes.raise_if_any_stopped()
  with pytest.raises(signals.Interrupted, match="SIGTERM"):
    processes.raise_if_any_stopped()


@pytest.mark.slow
def test_sigterm_in_one_process_stops_all_evaluations(by_two, tmp_path):
  """All stop before the same batch, and process 0 keeps the finished ones."""
  store, out = make_store(tmp_path / "many.h5", clips=8000), tmp_path / "out"
  evaluate = *commands(by_two[0])[1], "--store", store, "--out", out
  pair = start_many(2, *evaluate)
  wait_for(
    lambda: any(len(p.read_text().splitlines()) > 3 for p in out.glob(".scores-*.jsonl")), pair
  )
  pair[1].send_signal(signal.SIGTERM)
  _, (first, second) = results(pair, 128 + signal.SIGTERM)
  assert re.search(r"stopped by SIGTERM; \d+ of 250 batches are kept", first)
  assert second.splitlines() == ["atgcn evaluate: stopped by SIGTERM"]


@pytest.mark.slow
def test_sigterm_in_one_process_stops_all_and_one_resumes(tmp_path):
  workdir = tmp_path / "run"
  train, _ = commands(workdir)
  pair = start_many(2, *train, "--config.optim.steps=4000", "--config.evaluation.every=100000")
  wait_for(lambda: steps_logged(workdir) >= 10, pair)
  pair[1].send_signal(signal.SIGTERM)
  _, (first, second) = results(pair, 128 + signal.SIGTERM)
  step = saved_checkpoints.saved_steps(workdir)[-1]
  assert f"SIGTERM: saved step {step}" in first
  assert second.strip() == ""
  two = saved(workdir).state  # on eight devices of one process

  # The state has the same bits on any devices, and the following clips are the same.
  for devices in (1, 2, 4):
    layout = Layout(data_mesh(jax.devices()[:devices]))
    assert same_bits(newest_sound(workdir, layout).state, two)
  more = f"--config.optim.steps={step + 3}", "--config.evaluation.every=100000"
  lone = shutil.copytree(workdir, tmp_path / "lone")
  assert cli.main([str(word) for word in [*commands(lone)[0], *more]]) == 0
  results(start_many(2, *train, *more, "--config.sharding.fsdp=True"))
  one, other = records(lone), records(workdir)
  assert [line[:2] for line in one] == [line[:2] for line in other]
  assert one[step][0] == step + 1
  assert other[step][2] == pytest.approx(one[step][2], rel=1e-5)


def longer(workdir):
  """Train the tiny run in this folder to step 34 on this process's devices; return its losses."""
  again = [*commands(workdir)[0], "--config.optim.steps=34"]
  assert cli.main([str(word) for word in again]) == 0
  return {step: loss for step, keys, loss in records(workdir) if "loss" in keys}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """Return the losses of the run that stays on eight devices."""
  return longer(shutil.copytree(trained(), tmp_path_factory.mktemp("stayed") / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_a_run_of_eight_devices_resumes_with_fewer_and_back(tmp_path, undisturbed, devices):
  workdir = shutil.copytree(trained(), tmp_path / "moved")
  layout = Layout(data_mesh(jax.devices()[:devices]))
  assert same_bits(newest_sound(workdir, layout).state, saved(trained()).state)
  on_fewer = start(
    *commands(workdir)[0], "--config.optim.steps=32", JAX_NUM_CPU_DEVICES=str(devices)
  )
  results([on_fewer])
  moved = longer(workdir)
  assert list(moved) == list(range(1, 35))
  assert moved[31] == pytest.approx(undisturbed[31], rel=1e-5)  # the same clips
  # Later, Adam amplifies rounding differences. Different clips would differ much more.
  assert [moved[step] for step in (32, 33, 34)] == pytest.approx(
    [undisturbed[step] for step in (32, 33, 34)], rel=0.02
  )


@pytest.mark.slow
def test_a_lost_process_ends_all_and_they_resume(tmp_path):
  workdir = tmp_path / "run"
  train, _ = commands(workdir)
  for lost in (1, 0):  # the second time, process 0, which coordinates the others
    begun = steps_logged(workdir)
    pair = start_many(2, *train)
    wait_for(lambda begun=begun: steps_logged(workdir) >= begun + 5, pair)
    pair[lost].kill()
    killed = time.monotonic()
    results([pair[lost]], -signal.SIGKILL)
    _, errors = finished(pair[1 - lost])
    assert time.monotonic() - killed < 60
    assert pair[1 - lost].returncode in (1, -signal.SIGABRT), errors
  assert cli.main([str(word) for word in train]) == 0
  assert [line[:2] for line in records(workdir)] == [line[:2] for line in records(trained())]


def test_a_user_error_is_reported_by_every_process_and_none_waits(tmp_path):
  train, _ = commands(tmp_path / "run")
  _, errors = results(start_many(2, *train, "--config.data.train_folds=('nowhere',)"), 2)
  for i, said in enumerate(errors):
    (line,) = said.splitlines()
    assert line.startswith(f"atgcn train (process {i} of 2): data.train_folds: ")


def test_a_failed_process_does_not_wait_for_long(monkeypatch):
  ended = queue.SimpleQueue()
  monkeypatch.setattr(processes.os, "_exit", ended.put)
  monkeypatch.setattr(processes, "LEAVE_FAILED_WITHIN", 0.01)
  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  processes.leave_soon(2)
  assert ended.get(timeout=60) == 2


@pytest.mark.slow
def test_a_user_error_in_one_process_ends_it_with_its_status(tmp_path):
  train, _ = commands(tmp_path / "run")
  port = free_port()
  first = start(*train, *joining(port, 2, 0), JAX_NUM_CPU_DEVICES="4")
  absent = f"--config.data.store={tmp_path / 'absent.h5'}"
  second = start(*train, absent, *joining(port, 2, 1), JAX_NUM_CPU_DEVICES="4")
  _, (errors,) = results([second], 2)
  (line,) = errors.splitlines()
  assert line.startswith(f"atgcn train (process 1 of 2): {tmp_path / 'absent.h5'}: ")
  finished(first)
  assert first.returncode in (1, -signal.SIGABRT)


@pytest.mark.slow
def test_processes_with_different_configs_do_not_start(tmp_path):
  train, _ = commands(tmp_path / "run")
  port = free_port()
  pair = [
    start(*train, f"--config.seed={7 + i}", *joining(port, 2, i), JAX_NUM_CPU_DEVICES="4")
    for i in range(2)
  ]
  _, (first, second) = results(pair, 2)
  assert first.splitlines() == [
    "atgcn train (process 0 of 2): other processes have different values; see their messages"
  ]
  assert second.splitlines() == [
    "atgcn train (process 1 of 2): seed: 8 here, 7 in process 0; give all processes the same value"
  ]
  assert not (tmp_path / "run").exists()


# Startup.


@pytest.mark.parametrize(
  ("options", "named"),
  [
    (["--coordinator", "host"], "--coordinator host: write HOST:PORT"),
    (["--coordinator", "host:0"], "--coordinator host:0: write HOST:PORT"),
    (["--processes", "2"], "--processes and --process-id: give both"),
    (["--processes", "2", "--process-id", "0"], "--coordinator: give HOST:PORT"),
    (["--coordinator", "h:1", "--processes", "0", "--process-id", "0"], "--processes 0: must be"),
    (["--coordinator", "h:1", "--processes", "2", "--process-id", "2"], "--process-id 2: must be"),
  ],
)
def test_the_options_of_joining_are_checked(tmp_path, capsys, options, named):
  assert cli.main([str(word) for word in [*commands(tmp_path / "run")[0], *options]]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f"atgcn train: {named}")
  assert not (tmp_path / "run").exists()


def test_only_a_coordinator_is_not_enough(tmp_path):
  lone = start(*commands(tmp_path / "run")[0], "--coordinator", f"127.0.0.1:{free_port()}")
  _, (errors,) = results([lone], 2)
  (line,) = errors.splitlines()
  assert line.startswith("atgcn train: --coordinator: also give --processes and --process-id")


def test_ranks_of_a_launcher_without_a_coordinator_are_rejected(monkeypatch):
  monkeypatch.setenv("PMI_SIZE", "4")
  monkeypatch.setenv("PMI_RANK", "1")
  with pytest.raises(UserError, match=r"PMI_SIZE is 4: .*--coordinator"):
    processes.join()


def test_an_unreachable_coordinator_is_reported(monkeypatch):
  monkeypatch.setattr(processes, "COME_WITHIN", 1)
  coordinator = f"127.0.0.1:{free_port()}"
  with pytest.raises(WorkFailed, match=f"{coordinator} does not answer"):
    processes.join(coordinator, 2, 1)


def test_a_program_that_uses_jax_already_is_a_single_process():
  assert jax.devices()
  processes.join()
  assert processes.which() == ""
