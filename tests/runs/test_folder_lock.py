"""The folder lock: only one process writes checkpoints, and a dead process does not block."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from runs_support import REPOSITORY, contents, no_space, saved, tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runs import folder_lock, lock_holder, training_loop
from atgcn_jax.runs.folder_lock import FolderLock, held, refuse_if_held
from atgcn_jax.runs.lock_holder import NAME
from atgcn_jax.runs.log import RunLog

HOLDER = """
import sys, time
from atgcn_jax.runs.folder_lock import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""
REFUSAL = r"process (\d+) on (\S+) has been training here since [\d-]{10} [\d:]{8} UTC; "


def record(**changes):
  """Return the record of a lock of this process, with changes."""
  return json.dumps(json.loads(lock_holder.own_record(has_system_lock=True)) | changes).encode()


def left(folder, **changes):
  """Write the lock of a process that did not release it."""
  folder.mkdir(exist_ok=True)
  (folder / NAME).write_bytes(record(**changes))
  return folder


@pytest.fixture(autouse=True, scope="module")
def _trained():
  """Train the shared run first, so that its output is not in the stderr of the tests."""
  trained()


@pytest.fixture
def hasty(monkeypatch):
  """Make a process on another machine count as dead immediately."""
  monkeypatch.setattr(folder_lock, "DEAD_AFTER", 0.5)
  monkeypatch.setattr(folder_lock, "POLL_SECONDS", 0.01)


@pytest.fixture
def without_system_locks(monkeypatch):
  monkeypatch.setattr(folder_lock, "lock_file", lambda *_, **__: False)
  monkeypatch.setattr(folder_lock, "POLL_SECONDS", 0.01)


def test_the_second_training_refuses_and_a_killed_one_does_not_block(tmp_path, capsys):
  workdir = tmp_path / "run"
  config = tiny_config(trained().parent, "optim.steps=2")
  holder = subprocess.Popen(
    [sys.executable, "-c", HOLDER, str(workdir)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
  )
  try:
    assert holder.stdout.readline() == "held\n"
    before = contents(workdir)
    command = ["train", "--config", trained().parent / "config.py", "--workdir", workdir]
    assert cli.main([*map(str, command), "--config.optim.steps=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(REFUSAL, line).groups() == (str(holder.pid), os.uname().nodename)
    with pytest.raises(UserError, match=REFUSAL):  # also in the constructor
      FolderLock(workdir)
    assert contents(workdir) == before
    copy = shutil.copytree(workdir, tmp_path / "copy")  # a copy is not locked
    refuse_if_held(copy)
    with held(copy):
      pass
  finally:
    holder.kill()
    holder.communicate()
  assert (workdir / NAME).exists()
  training_loop.train(config, workdir)
  assert saved(workdir).step == 2
  assert not (workdir / NAME).exists()


def test_one_process_does_not_hold_a_folder_twice(tmp_path):
  with held(tmp_path / "run"):
    for refused in (FolderLock, refuse_if_held):
      with pytest.raises(UserError, match=REFUSAL):
        refused(tmp_path / "run")
  refuse_if_held(tmp_path / "run")
  assert list((tmp_path / "run").iterdir()) == []
  with held(tmp_path / "run"):
    pass


@pytest.mark.parametrize("fault", [KeyboardInterrupt, WorkFailed, SystemExit])
def test_the_lock_is_released_however_training_ends(tmp_path, monkeypatch, fault):
  def fail(*_, **__):
    assert (tmp_path / NAME).exists()
    raise fault("stopped")

  monkeypatch.setattr(training_loop, "train_to_end", fail)
  with pytest.raises(fault):
    training_loop.train(tiny_config(trained().parent), tmp_path)
  assert not (tmp_path / NAME).exists()


def test_a_dead_process_does_not_block(tmp_path):
  # Its process id may belong to another process.
  for k, gone in enumerate((dict(started="1"), dict(process=2**22 + 1))):
    for has_locks in (False, True):
      folder = left(tmp_path / f"{k}{has_locks}", system_lock=has_locks, **gone)
      refuse_if_held(folder)
      with held(folder):
        pass
  (tmp_path / NAME).write_bytes(b"")  # killed before it wrote its record
  with held(tmp_path):
    pass


def test_the_lock_of_another_machine_counts_until_it_is_not_renewed(tmp_path, monkeypatch, hasty):
  folder = left(tmp_path / "run", machine=["another", "pid:[1]"], host="far", process=7)
  with pytest.warns(UserWarning, match=r"locked by process 7 on far; waiting up to 0.5 s"):
    FolderLock(folder).release()
  left(folder, machine=["another", "pid:[1]"], host="far", process=7)
  monkeypatch.setattr(folder_lock, "DEAD_AFTER", 600)
  end = threading.Event()

  def renew():
    while not end.wait(0.02):
      os.utime(folder / NAME)

  thread = threading.Thread(target=renew)
  thread.start()
  try:
    with (
      pytest.warns(UserWarning, match="locked by process 7 on far"),
      pytest.raises(UserError, match="process 7 on far has been"),
    ):
      FolderLock(folder)
  finally:
    end.set()
    thread.join()


def test_a_holder_renews_its_lock(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.01)
  with held(tmp_path):
    os.utime(tmp_path / NAME, (0, 0))
    for _ in range(500):
      if (tmp_path / NAME).stat().st_mtime:
        break
      threading.Event().wait(0.01)
    assert (tmp_path / NAME).stat().st_mtime > 0


def test_without_system_locks_the_record_decides(tmp_path, without_system_locks):
  with held(tmp_path), pytest.raises(UserError, match=REFUSAL):
    FolderLock(tmp_path)
  left(tmp_path, started="1", system_lock=False)
  with held(tmp_path):
    pass


@pytest.mark.slow
def test_a_process_whose_lock_was_taken_stops(tmp_path, monkeypatch, without_system_locks):
  workdir = tmp_path / "run"
  stepped = RunLog.stepped

  def and_take(log, done):
    stepped(log, done)
    if done == 4:
      left(workdir, host="far", process=7)

  monkeypatch.setattr(RunLog, "stepped", and_take)
  monkeypatch.setattr(folder_lock, "BEAT_SECONDS", -1)  # the lock is checked at each step
  with pytest.raises(WorkFailed, match="process 7 on far took over the folder"):
    training_loop.train(tiny_config(trained().parent, "checkpoint.every=100"), workdir)
  assert saved(workdir).step in (0, 4)
  assert json.loads((workdir / NAME).read_text())["host"] == "far"  # not deleted


def test_a_signal_that_ends_training_releases_the_lock(tmp_path, monkeypatch):
  stepped = RunLog.stepped

  def and_signal(log, done):
    stepped(log, done)
    if done == 1:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(RunLog, "stepped", and_signal)
  with pytest.raises(training_loop.Stopped):
    training_loop.train(tiny_config(trained().parent), tmp_path)
  assert not (tmp_path / NAME).exists()


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=r"run: this folder cannot be made \(Not a dir.*; choose"):
    held(tmp_path / "file" / "run").__enter__()


def test_a_lock_for_which_there_is_no_space(tmp_path):
  """The system writes the first bytes without an error, as on a disk that is nearly full."""
  with no_space(), pytest.raises(WorkFailed, match=r"training.lock could not be written: File too"):
    FolderLock(tmp_path)
  FolderLock(tmp_path).release()
