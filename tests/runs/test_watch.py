"""Throughput of a run, lagging hosts, and traces."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from runs_support import records, tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.errors import UserError
from atgcn_jax.runs import log, telemetry, training_loop, training_programs
from atgcn_jax.runs.telemetry import Pace, Telemetry, parsed_profile, profile_of
from atgcn_jax.training.sharding import data_mesh


def pace_of(monkeypatch, busy, waited, seconds=10.0, steps=20):
  """Return a pace in which each process was busy and waited for input for these seconds."""
  now = [100.0]
  monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(telemetry.jax, "process_count", lambda: len(busy))
  pace = Pace(5, batch=16)
  pace.restart(10)
  for _ in range(steps):
    pace.add(np.array(busy) / steps, np.array(waited) / steps)
  now[0] += seconds
  return pace


def test_figures(monkeypatch):
  pace = pace_of(monkeypatch, [1.0, 4.0], [0.5, 2.0])
  monkeypatch.setattr(telemetry.jax, "device_count", lambda: 8)
  figures = pace.figures(30)
  assert figures["clips_per_second"] == pytest.approx(20 * 16 / 10)
  assert figures["clips_per_second_per_chip"] == pytest.approx(4)
  assert figures["input_wait"] == pytest.approx(0.2)  # of the process that waits longest
  assert figures["memory_bytes"] > 2**20


@pytest.mark.parametrize(
  ("busy", "named"),
  [
    ([1.0, 1.1, 0.9, 1.0], None),
    ([1.0, 6.0, 0.9, 1.0], 1),
    ([1.0, 1.2, 0.9, 2.5], 3),
    ([5.0, 0.5], 0),
    ([0.01, 0.05], None),  # five times longer, but negligible
    ([7.0, 7.1, 8.5, 6.9], None),  # all processes are busy
    ([9.0], None),
  ],
)
def test_lagging_process(monkeypatch, busy, named):
  pace = pace_of(monkeypatch, busy, [0.5 * x for x in busy])
  reported = pace.laggard([f"host-{i}" for i in range(len(busy))])
  if named is None:
    assert reported == ""
  else:
    assert reported.startswith(f"process {named} of {len(busy)} on host-{named} lags")
    assert f"busy {busy[named] / 10:.0%}" in reported
    assert f"for input {busy[named] / 20:.0%}" in reported


def test_a_line_per_minute_has_the_values_of_tensorboard(tmp_path, monkeypatch, capsys):
  minute, now, folder = 60.0, [1000.0], trained().parent
  capsys.readouterr()  # discard the output of that run

  def later():
    now[0] += 1.0
    return now[0]

  make_train_step = training_programs.make_train_step

  def compiled_in_hours(*arguments, **options):
    step, hours = make_train_step(*arguments, **options), [7]

    def first_slowly(*given):
      now[0] += 3600 * hours.pop() if hours else 0
      return step(*given)

    return first_slowly

  monkeypatch.setattr(log.time, "monotonic", later)
  monkeypatch.setattr(training_programs, "make_train_step", compiled_in_hours)
  config = tiny_config(folder, "evaluation.every=1000", "checkpoint.every=1000")
  training_loop.train(config, tmp_path / "run")
  lines = [x for x in capsys.readouterr().err.splitlines() if re.match(r"step \d+ of 30: ", x)]
  form = (
    r"step (\d+) of 30: loss (\d\.\d{4}), (\d+\.\d) clips/s \((\d+\.\d) per chip\), "
    r"input wait \d+%, memory \d+\.\d\d GiB, [0-6]:\d\d:\d\d left"  # without the 7 hours
  )
  reported = [re.fullmatch(form, line) for line in lines]
  assert len(reported) > 1
  assert all(reported)
  assert now[0] - 1000 - 7 * 3600 > (len(reported) - 1) * minute
  logged = {step: loss for step, keys, loss in records(tmp_path / "run") if "loss" in keys}
  for match in reported:
    assert float(match[2]) == pytest.approx(logged[int(match[1])], abs=1e-4)
  (_, keys, _) = records(tmp_path / "run")[0]
  assert {"clips_per_second", "clips_per_second_per_chip", "input_wait", "memory_bytes"} <= set(
    keys
  )


def test_a_profile_is_written_where_tensorboard_reads_it(tmp_path, capsys):
  workdir, folder = tmp_path / "run", trained().parent
  command = ["train", "--config", str(folder / "config.py"), "--workdir", str(workdir)]
  command += ["--config.optim.steps=6", "--config.evaluation.every=100"]
  assert cli.main([*command, "--profile", "3:2"]) == 0
  (trace,) = (workdir / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb")
  assert b"train_step" in trace.read_bytes()
  # A trace cannot start before the step at which the run resumes.
  capsys.readouterr()
  assert cli.main([*command, "--profile", "3:2", "--config.optim.steps=8"]) == 2
  assert "--profile 3:2: training runs from step 6 to 7" in capsys.readouterr().err


def test_a_finished_run_has_no_step_to_trace(tmp_path):
  with pytest.raises(UserError, match="--profile 50:3: the run is already at step 100, so there"):
    profile_of((50, 3), 100, 100, tmp_path)


@pytest.mark.parametrize("text", ["", "3", "3:0", "a:2", "3:b", "-1:2", "3:2:1"])
def test_invalid_profile(text):
  with pytest.raises(UserError, match=f"--profile {text}"):
    parsed_profile(text)


def test_a_wait_before_the_measurement_does_not_count():
  """The second step began before the measurement, which excludes compilation."""
  values = {}
  log = SimpleNamespace(
    is_time_to_tell=lambda: False,
    stepped=lambda step: None,
    record=lambda step, figures, split: values.update(figures),
  )
  trace = SimpleNamespace(before=lambda step: None, after=lambda step, metrics: None)
  stop = SimpleNamespace(signal_number=None)
  telemetry = Telemetry(log, trace, stop, data_mesh(), start=0, batch=8)

  def batches():
    time.sleep(0.05)
    yield {}

  telemetry.next_batch(1, SimpleNamespace(given=batches()))
  telemetry.dispatched()
  telemetry.end_step(1, {}, {})
  telemetry.record(2, {}, 0.1)
  assert values["input_wait"] == 0


def test_compilation_does_not_count_with_several_processes(monkeypatch):
  """Each process knows the times of the others two steps later."""
  now, sent, said = [0.0], [np.zeros((2, 3))], []
  monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
  for name, value in (("process_count", 2), ("process_index", 0)):
    monkeypatch.setattr(telemetry.jax, name, lambda value=value: value)
  monkeypatch.setattr(telemetry, "host_names", lambda: ["this", "other"])

  def beat(mine):
    sent.append(np.array([mine, [0, min(mine[1], 30.0), 0.01]]))  # the other compiles faster
    return sent[-2]

  monkeypatch.setattr(telemetry, "Pulse", lambda *_: SimpleNamespace(beat=beat))
  log = SimpleNamespace(
    title="",
    progress_is_due=lambda: True,
    report_progress=lambda step, loss, figures: said.append(figures["input_wait"]),
    say=said.append,
    stepped=lambda step: None,
  )
  trace = SimpleNamespace(before=lambda step: None, after=lambda step, metrics: None)
  stop = SimpleNamespace(signal_number=None)
  made = Telemetry(log, trace, stop, data_mesh(), start=0, batch=8)

  def batches():
    for step in range(6):
      now[0] += 0.01 if step else 5.0
      yield {}

  feed = SimpleNamespace(given=batches())
  for step in range(6):
    made.next_batch(step, feed)
    now[0] += 0.02 if step else 60.0
    made.dispatched()
    now[0] += 0.1
    made.end_step(step, {"loss": 0.0}, {})
  assert len(said) == 3
  assert max(said) < 0.2
