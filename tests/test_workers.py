"""Worker processes: order, errors, and `atgcn prepare` stopped by every signal at every time."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from atgcn_jax.data.workers import in_processes
from atgcn_jax.errors import UserError, WorkFailed


def work(chunk):
  """Runs in a worker."""
  import jax

  if "bad" in chunk:
    raise UserError("bad.wav: is bad; mend it")
  if "killed" in chunk:
    os.kill(os.getpid(), signal.SIGKILL)
  if chunk == ["slow"]:
    time.sleep(1)
  return chunk, jax.config.jax_platforms, jax.device_count(), os.getpid()


def test_results_keep_their_order_and_workers_take_one_cpu_device(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
  chunks = [["slow"], *([str(i)] for i in range(12)), ["a", "b"]]
  results = list(in_processes(work, chunks, 2))
  assert [chunk for chunk, *_ in results] == chunks
  assert {(platforms, devices) for _, platforms, devices, _ in results} == {("cpu", 1)}
  assert os.getpid() not in {pid for *_, pid in results}


def test_errors_of_the_work_and_of_a_worker():
  feed = in_processes(work, [["fine"], ["bad"], ["fine"]], 1)
  assert next(feed)[0] == ["fine"]
  with pytest.raises(UserError, match=r"bad\.wav: is bad; mend it"):
    next(feed)
  with pytest.raises(WorkFailed, match=r"killed.*--workers"):
    list(in_processes(work, [["killed"], ["fine"]], 1))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
  """Two thousand names of one sound: some minutes of work."""
  folder = tmp_path_factory.mktemp("many")
  (folder / "audio").mkdir()
  sound = np.random.default_rng(0).uniform(-0.5, 0.5, 441_000)
  soundfile.write(folder / "audio" / "0000.wav", sound, 44100)
  names = [f"{i:04d}.wav" for i in range(2000)]
  for name in names[1:]:
    os.link(folder / "audio" / names[0], folder / "audio" / name)
  with (folder / "labels.csv").open("w", newline="") as file:
    csv.writer(file).writerows(
      [("filename", "fold", "positive_labels"), *((name, 1, "/m/a") for name in names)]
    )
  return folder


def children(pid):
  found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
  return {int(child) for child in found}


def alive(pid):
  try:
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
  except FileNotFoundError:
    return False
  return state != "Z"


def wait_for(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.05)


# A terminal sends Ctrl-C to the whole group, a scheduler SIGTERM to all it started.
STOPS = [
  ("starting", signal.SIGINT, "group", 130),
  ("working", signal.SIGINT, "process", 130),
  ("working", signal.SIGTERM, "group", 143),
  ("working", signal.SIGKILL, "process", -9),
]
MORE_STOPS = [
  ("starting", signal.SIGINT, "process", 130),
  ("starting", signal.SIGTERM, "group", 143),
  ("starting", signal.SIGKILL, "process", -9),
  ("working", signal.SIGINT, "group", 130),
  ("working", signal.SIGTERM, "process", 143),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
  ("when", "number", "target", "status"),
  [*STOPS, *(pytest.param(*stop, marks=pytest.mark.slow) for stop in MORE_STOPS)],
)
def test_prepare_is_stopped(many, tmp_path, when, number, target, status):
  out = tmp_path / "s.h5"
  out.write_bytes(b"an earlier store")
  command = [sys.executable, "-m", "atgcn_jax.cli", "prepare", "--audio", many / "audio"]
  command += ["--labels", many / "labels.csv", "--out", out, "--workers", "1"]
  with subprocess.Popen(
    command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
  ) as process:
    try:
      # The tracker of multiprocessing and one worker.
      wait_for(lambda: len(children(process.pid)) >= 2)
      workers = children(process.pid)
      if when == "starting":
        time.sleep(0.3)  # it imports
      else:
        wait_for(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.glob(".*.tmp")))
      (os.killpg if target == "group" else os.kill)(process.pid, number)
      stdout, stderr = process.communicate(timeout=60)
    finally:
      process.kill()
  assert process.returncode == status
  assert stdout == ""
  assert "Traceback" not in stderr
  if number != signal.SIGKILL:  # then the tracker of multiprocessing has the last word
    assert len(stderr.splitlines()) == 1, stderr
  wait_for(lambda: not any(map(alive, workers)), 20)
  left = [path.name for path in tmp_path.iterdir() if number != signal.SIGKILL or path == out]
  assert left == ["s.h5"]
  assert out.read_bytes() == b"an earlier store"
