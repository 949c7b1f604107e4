"""Full disks, folders that cannot be written to, and saves that fail in the background."""

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time

import pytest
from runs_support import records, same_bits, saved, start, tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.errors import WorkFailed
from atgcn_jax.runs import training_loop
from atgcn_jax.runs.log import RunLog
from atgcn_jax.training import checkpoint, checksums, saved_checkpoints


def command(workdir, *overrides):
  config = trained().parent / "config.py"
  changes = [f"--config.{override}" for override in overrides]
  return ["train", "--config", str(config), "--workdir", str(workdir), *changes]


def complaint(errors):
  """Return the only line that does not report progress."""
  (line,) = [line for line in errors.splitlines() if not line.startswith("step ")]
  return line


def assert_as_undisturbed(workdir):
  one, other = saved(workdir), saved(trained())
  assert one.step == other.step == 30
  assert same_bits(one.state, other.state)
  assert records(workdir) == records(trained())


def mount(*arguments):
  done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
  if done.returncode:
    pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path):
  """Return the folder of a small disk. `mount -o remount` changes it."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount("-t", "tmpfs", "-o", "size=1100k", "tmpfs", folder)
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)


# The file whose write fails depends on the writing threads; it may be that of the checksums.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*its save was interrupted")
def test_a_full_disk_is_reported_and_the_run_resumes_once_there_is_space(disk, capsys):
  workdir = disk / "run"
  assert cli.main(command(workdir)) == 1
  line = complaint(capsys.readouterr().err)
  assert line.startswith(f"atgcn train: {workdir}: ")
  assert "could not be written: No space left on device" in line
  sound = saved_checkpoints.newest_verified(workdir)
  assert f"step {sound} is saved and intact" in line
  # There is no space for a line of the log either.
  assert cli.main(command(workdir)) == 1
  assert "No space left on device" in complaint(capsys.readouterr().err)
  assert saved_checkpoints.newest_verified(workdir) >= sound
  mount("-o", "remount,size=8m", disk)
  assert cli.main(command(workdir)) == 0
  assert_as_undisturbed(workdir)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_is_reported(disk, monkeypatch, capsys):
  mount("-o", "remount,size=8m", disk)
  workdir, stepped = disk / "run", RunLog.stepped

  def and_lock(log, done):
    stepped(log, done)
    if done == 10:
      log.close()  # open files prevent a read-only remount, so the folder lock is off too
      log._file, log._tensorboard = open(os.devnull, "ab"), None  # noqa: SIM115
      log._tensorboard_folder = str(trained().parent / "elsewhere")
      manager_of_run[0].wait_until_finished()
      mount("-o", "remount,ro", disk)

  manager_of_run = []
  save = checkpoint.start_save

  def and_keep(manager, *args):
    manager_of_run[:] = [manager]
    save(manager, *args)

  with monkeypatch.context() as patch:
    patch.setattr(RunLog, "stepped", and_lock)
    patch.setattr(checkpoint, "start_save", and_keep)
    patch.setattr(training_loop, "held", lambda _: contextlib.nullcontext(lambda: None))
    assert cli.main(command(workdir)) == 1
  line = complaint(capsys.readouterr().err)
  assert "could not be written: Read-only file system; step 9 is saved and intact" in line
  # The next start detects it before doing anything.
  assert cli.main(command(workdir)) == 2
  assert "cannot be written to" in complaint(capsys.readouterr().err)
  mount("-o", "remount,rw", disk)
  assert cli.main(command(workdir)) == 0
  assert same_bits(saved(workdir).state, saved(trained()).state)


@pytest.mark.slow
def test_a_file_size_limit_ends_the_process_with_one_line(tmp_path):
  tiny_config(tmp_path)
  arguments = ["train", "--config", tmp_path / "config.py", "--workdir", tmp_path / "run"]
  process = start(*arguments, JAX_NUM_CPU_DEVICES="1")
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
  _, errors = process.communicate()
  assert process.returncode == 1, errors
  line = complaint(errors)
  assert "the checkpoint of step" in line
  assert "File too large" in line


@pytest.fixture
def failing(monkeypatch):
  """Return a function that makes the save of a step fail and returns an event that is then set."""
  trained()  # while it can be saved

  def from_step(step):
    write, failed = checksums.write_checksums, threading.Event()

    def fail(folder):
      if int(folder.name) >= step:
        failed.set()
        raise OSError(5, "Input/output error")
      write(folder)

    monkeypatch.setattr(checksums, "write_checksums", fail)
    return failed

  return from_step


def test_a_save_that_fails_in_the_background_ends_the_run_at_the_next_step(
  tmp_path, monkeypatch, failing
):
  failed, steps, stepped = failing(3), [], RunLog.stepped

  def and_note(log, done):
    stepped(log, done)
    steps.append(done)
    if failed.wait(20 if done == 5 else 0):
      time.sleep(0.2)  # until Orbax detects the failure

  monkeypatch.setattr(RunLog, "stepped", and_note)
  config = tiny_config(trained().parent, "checkpoint.every=3", "evaluation.every=30")
  with pytest.raises(WorkFailed, match=r"the checkpoint of step 3 .*Input/output error; step 0 is"):
    training_loop.train(config, tmp_path)
  assert steps[-1] <= 5  # the save at step 6 would detect the failure in any case


@pytest.mark.slow
def test_a_failed_save_of_the_last_step_is_a_failure(tmp_path, failing, capsys):
  failing(30)
  assert cli.main(command(tmp_path / "run")) == 1
  assert "the checkpoint of step 30 could not be written" in complaint(capsys.readouterr().err)


@pytest.mark.slow
def test_a_save_that_fails_in_two_places_is_reported_once(tmp_path, monkeypatch, failing, capsys):
  failing(12)
  close = checkpoint.ocp.CheckpointManager.close

  def and_tell_of_the_arrays(manager):
    close(manager)
    raise ValueError("RESOURCE_EXHAUSTED: Error writing 'mean' (OS error 28)")

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "close", and_tell_of_the_arrays)
  assert cli.main(command(tmp_path / "run")) == 1
  line = complaint(capsys.readouterr().err)
  assert "the checkpoint of step 12 could not be written: Input/output error; step 9 is" in line


@pytest.mark.slow
def test_a_failed_save_after_a_signal_is_reported(tmp_path, monkeypatch, failing, capsys):
  failing(10)
  before, stepped = signal.getsignal(signal.SIGTERM), RunLog.stepped

  def and_signal(log, done):
    stepped(log, done)
    if done == 10:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(RunLog, "stepped", and_signal)
  assert cli.main(command(tmp_path / "run")) == 1
  assert "the checkpoint of step 10 could not be written" in complaint(capsys.readouterr().err)
  signal.signal(signal.SIGTERM, before)


def test_a_log_that_cannot_be_written_is_reported(tmp_path):
  log = RunLog(tmp_path, 0, 10, 4)
  log.record(1, {"loss": 1.0}, "train")
  log._tensorboard._py_recordio_writer._writer = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
  with pytest.raises(WorkFailed, match=r"TensorBoard file of step 2 .*No space left on device"):
    log.record(2, {"loss": 1.0}, "train")
  log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
  with pytest.raises(WorkFailed, match=r"metrics.jsonl of step 3 .*No space left on device"):
    log.record(3, {"loss": 1.0}, "train")
