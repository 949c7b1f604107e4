"""Worker processes: order, errors, and `atgcn prepare` stopped by signals at different times."""

import csv
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_store
import soundfile
from marks import slow
from worker_functions import end, killed_once, work, work_and_report

from atgcn_jax.data.layouts.listing import Clip, Row, make_listing
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store import store_builder, unfinished, worker_processes
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.store.worker_processes import in_processes
from atgcn_jax.errors import UserError, WorkFailed


def test_results_are_in_order_and_workers_use_one_cpu_device(monkeypatch):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "4")
  chunks = [["slow"], *([str(i)] for i in range(12)), ["a", "b"]]
  results = list(in_processes(work_and_report, iter(chunks), 2))
  assert [[member for member, *_ in result] for result in results] == chunks
  reported = [outcome for result in results for outcome in result]
  assert {(platforms, devices) for _, platforms, devices, _ in reported} == {("cpu", 1)}
  assert os.getpid() not in {pid for *_, pid in reported}


def test_chunks_are_consumed_as_needed():
  taken = []

  def chunks():
    for i in range(1000):
      taken.append(i)
      yield [str(i)]

  feed = in_processes(work, chunks(), 1)
  next(feed)
  assert len(taken) <= 5
  feed.close()


def test_errors_of_the_work_are_raised():
  feed = in_processes(work, [["fine"], ["bad"], ["fine"]], 1)
  assert next(feed)[0][0] == "fine"
  with pytest.raises(UserError, match=r"bad\.wav: is bad; fix it"):
    next(feed)


@pytest.mark.slow
def test_an_item_that_kills_its_process_is_found_and_the_rest_is_done():
  chunks = [["a", "b"], ["c", "killed", "d"], ["e"], *([str(i)] for i in range(9))]
  results = list(in_processes(work, chunks, 1))
  names = [[outcome and outcome[0] for outcome in result] for result in results]
  assert names == [[None if m == "killed" else m for m in chunk] for chunk in chunks]


@pytest.mark.slow
def test_a_process_that_is_killed_once_loses_no_result(tmp_path):
  chunks = [["a", "b"], ["c"]]
  assert list(in_processes(functools.partial(killed_once, tmp_path / "mark"), chunks, 1)) == chunks


def test_no_process_can_be_started(monkeypatch):
  monkeypatch.setattr(worker_processes, "_start", end)
  with pytest.raises(WorkFailed, match="fewer --workers"):
    list(in_processes(work, [["fine"]], 1))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
  """Return a folder with 2000 links to one sound: several minutes of work."""
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


# A terminal sends SIGINT to the process group, a scheduler SIGTERM to all its processes.
STOPS = [
  ("working", signal.SIGTERM, "group", 143),
]
MORE_STOPS = [
  ("starting", signal.SIGINT, "group", 130),
  ("starting", signal.SIGINT, "process", 130),
  ("starting", signal.SIGTERM, "group", 143),
  ("starting", signal.SIGKILL, "process", -9),
  ("working", signal.SIGINT, "process", 130),
  ("working", signal.SIGKILL, "process", -9),
  ("working", signal.SIGINT, "group", 130),
  ("working", signal.SIGTERM, "process", 143),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize(
  ("when", "number", "target", "status"),
  [*STOPS, *(slow(*stop) for stop in MORE_STOPS)],
)
def test_prepare_stops_on_signals(many, tmp_path, when, number, target, status):
  out = tmp_path / "s.h5"
  command = [sys.executable, "-m", "atgcn_jax", "prepare", "--audio", many / "audio"]
  command += ["--labels", many / "labels.csv", "--out", out, "--workers", "1"]
  with subprocess.Popen(
    command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
  ) as process:
    try:
      # The resource tracker of multiprocessing and one worker.
      wait_for(lambda: len(children(process.pid)) >= 2)
      processes = children(process.pid)
      if when == "starting":
        time.sleep(0.3)  # while it imports modules
      else:
        wait_for(lambda: len(journal(out)) > 1)
      (os.killpg if target == "group" else os.kill)(process.pid, number)
      stdout, stderr = process.communicate(timeout=60)
    finally:
      process.kill()
  assert process.returncode == status
  assert stdout == ""
  assert "Traceback" not in stderr
  if number != signal.SIGKILL:  # after SIGKILL, the resource tracker prints a line
    assert len(stderr.splitlines()) == 1, stderr
  wait_for(lambda: not any(map(alive, processes)), 20)
  assert {path.name for path in tmp_path.iterdir()} <= {unfinished.partial_folder(out).name}


def journal(out):
  """Return all lines of a journal, including the first."""
  path = unfinished.partial_folder(out) / unfinished.JOURNAL
  return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("stops", [(2,), (2, 4)], ids=["once", "twice"])
def test_prepare_resumes_after_a_kill(tmp_path, monkeypatch, stops):
  """It is killed, each time after another chunk. Stored files are not read again."""
  clips, chunk = 320, store_builder.CHUNK
  (tmp_path / "audio").mkdir()
  rng = np.random.default_rng(0)
  names = [f"{i:03d}.wav" for i in range(clips)]
  for i, name in enumerate(names):
    soundfile.write(tmp_path / "audio" / name, rng.uniform(-0.5, 0.5, 20_000 + i), 22050)
  (tmp_path / "audio" / names[20]).write_bytes(b"no sound")
  with (tmp_path / "labels.csv").open("w", newline="") as file:
    rows = [(name, i % 3, "/m/a,/m/b" if i % 2 else "/m/c") for i, name in enumerate(names)]
    csv.writer(file).writerows([("filename", "fold", "positive_labels"), *rows])

  def in_this_process(work, chunks, processes):
    yield from map(work, chunks)

  def command(out, worker_processes):
    line = [sys.executable, "-m", "atgcn_jax", "prepare", "--audio", tmp_path / "audio"]
    return [
      *line,
      "--labels",
      tmp_path / "labels.csv",
      "--out",
      out,
      "--workers",
      str(worker_processes),
    ]

  whole, out = tmp_path / "whole.h5", tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    patch.setattr(store_builder, "in_processes", in_this_process)
    prepare(tmp_path / "audio", tmp_path / "labels.csv", whole, workers=1)
  for stop in stops:  # lines of the journal
    with subprocess.Popen(command(out, len(stops)), stderr=subprocess.DEVNULL) as process:
      wait_for(lambda stop=stop: len(journal(out)) >= stop or process.poll() is not None)
      process.kill()
    assert not out.exists()
    assert stop <= len(journal(out)) < clips // chunk  # otherwise the kill was too late
    # Stored files are not needed any more.
    for name in names[: (len(journal(out)) - 1) * chunk]:
      (tmp_path / "audio" / name).unlink(missing_ok=True)
  with (unfinished.partial_folder(out) / unfinished.JOURNAL).open("ab") as file:
    file.write(b'{"peak_db": [1.0, 2')  # as left by a kill during the write
  done = subprocess.run(command(out, 1), check=False, capture_output=True, text=True)
  assert done.returncode == 1
  assert done.stdout == f"{out}: {clips - 1} clips\n"
  assert out.read_bytes() == whole.read_bytes()
  assert len(open_store(out)) == clips - 1
  reports = [path.with_name(f"{path.name}.unreadable.csv").read_text() for path in (out, whole)]
  assert reports[0] == reports[1]
  assert not unfinished.partial_folder(out).exists()


def load(source):
  """Runs in a worker. One of the sources kills it."""
  if source == "killer":
    os.kill(os.getpid(), signal.SIGSEGV)
  return Clip(np.ones(200, np.float32))


@pytest.mark.slow
def test_a_file_that_kills_its_worker_is_left_out_and_listed(tmp_path):
  sources = [f"{i}" for i in range(40)]
  sources[21] = "killer"
  rows = (Row(source, "1", source, ["/m/a"], "") for source in sources)
  listing = make_listing(rows, None, load, "")
  out = tmp_path / "s.h5"
  assert store_builder.build_store(out, listing, small_store.FRONTEND, "uint8", workers=1) == (
    39,
    0,
    1,
  )
  sources.remove("killer")
  assert open_store(out).clip_ids.tolist() == sources
  report = list(csv.reader(unfinished.report_path(out).open()))
  assert report == [["file", "reason"], ["killer", store_builder.KILLED]]
