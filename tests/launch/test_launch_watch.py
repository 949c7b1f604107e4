"""Tests of `watch` in launch/processes.sh: messages, signals, exit status."""

import os
import re
import signal
import subprocess
import time

import pytest
from launch_support import LAUNCH, RUN, call, clean_environment, program


@pytest.fixture
def hosts(tmp_path):
  """Return a function that runs local_hosts.sh on the code in `do`, with the process index $I."""
  fake = program(tmp_path, "atgcn", 'I=${!#}; echo "$* $JAX_NUM_CPU_DEVICES"; eval "$DO"')

  def begin(do, *options, script="local_hosts.sh"):
    return subprocess.Popen(
      # A shell that starts with SIGHUP ignored, as under nohup, cannot trap it. Here the default
      # is restored, as in a terminal.
      ["env", "--default-signal=HUP", "bash", LAUNCH / script, *options, *RUN, "runs/a"],
      cwd=tmp_path,
      env=clean_environment(ATGCN=str(fake), DO=do),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def end(*arguments, **keywords):
    begun = begin(*arguments, **keywords)
    out, err = begun.communicate(timeout=60)
    return begun.returncode, out, err

  end.begin = begin
  end.logs = tmp_path / "logs"
  return end


def test_processes_get_the_address_of_the_coordinator(hosts):
  status, out, err = hosts("exit 0", "--processes", "3", "--devices", "2", "--port", "1234")
  said = "train --config configs/atgcn_audioset.py --workdir runs/a --coordinator 127.0.0.1:1234"
  assert (status, err) == (0, "")
  assert out == f"{said} --processes 3 --process-id 0 2\n"
  for i in range(3):
    log = (hosts.logs / f"process-{i}.log").read_text()
    assert log == f"{said} --processes 3 --process-id {i} 2\n"


def test_logs_are_appended_and_only_new_lines_are_printed(hosts):
  first = hosts("echo one")[1]
  second = hosts("echo two")[1]
  assert first.endswith("one\n")
  assert "one" not in second
  assert second.endswith("two\n")
  assert (hosts.logs / "process-1.log").read_text().count("\n") == 4


def test_a_killed_process_is_named_and_the_others_end_by_themselves(hosts):
  status, _, err = hosts(
    "if [ $I = 2 ]; then echo $$ >lost.tmp; mv lost.tmp lost; sleep 0.2; kill -KILL $$; fi; "
    "until [ -e lost ]; do sleep 0.1; done; "
    "while kill -0 $(cat lost); do sleep 0.1; done; sleep 1; exit 134",
    "--processes",
    "4",
  )
  assert status == 137
  assert re.fullmatch(
    r"process 2 of 4 \(pid \d+, logs/process-2.log\) was killed by SIGKILL; "
    r"the others have 50 s to end; the same command resumes\n",
    err,
  )


def test_a_failed_process_is_named_with_its_last_line(hosts):
  status, _, err = hosts(
    r"if [ $I = 1 ]; then printf '10 %%\r20 %%\nbad store\n'; exit 1; fi; exec sleep 60",
    "--grace=1",
  )
  assert status == 1
  assert re.fullmatch(
    r"process 1 of 2 \(pid \d+, \S+\) ended with status 1; the others have 1 s to end; "
    r"last line of its log: bad store\n",
    err,
  )


def test_simultaneous_failures_print_one_line(hosts):
  status, _, err = hosts("kill -KILL $$", "--processes", "6", "--grace", "1")
  assert status == 137
  assert len(err.splitlines()) == 1


def test_hanging_processes_are_ended_after_the_grace(hosts):
  begun = hosts.begin("if [ $I = 0 ]; then exit 3; fi; exec sleep 600", "--grace", "1")
  _, err = begun.communicate(timeout=120)
  assert begun.returncode == 3
  assert "process 0 of 2" in err


@pytest.mark.parametrize(
  ("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)]
)
def test_signals_are_forwarded_once_and_all_can_save(hosts, sent, status):
  begun = hosts.begin(
    "trap 'echo reported; sleep 0.3; echo saved; exit 143' TERM; "
    "trap 'echo reported; sleep 0.3; echo saved; exit 130' INT; "
    "echo ready; while :; do sleep 0.1; done",
    "--processes",
    "3",
  )
  while not all("ready" in log.read_text() for log in ready_logs(hosts, 3)):
    assert begun.poll() is None
    time.sleep(0.05)
  begun.send_signal(sent)
  _, err = begun.communicate(timeout=120)
  assert (begun.returncode, err) == (status, "")
  for log in ready_logs(hosts, 3):
    assert log.read_text().splitlines()[-3:] == ["ready", "reported", "saved"]


def test_a_signal_during_the_start_reaches_later_processes(hosts):
  status, _, err = hosts("[ $I = 0 ] && kill -TERM $PPID; exec sleep 600", "--processes", "20")
  assert (status, err) == (143, "")


def ready_logs(hosts, count):
  """Return the logs when all exist."""
  while len(logs := sorted(hosts.logs.glob("*.log"))) < count:
    time.sleep(0.05)
  return logs


def test_gpu_runs_one_process_with_all_gpus(hosts):
  status, out, err = hosts("exit 5", script="gpu.sh")
  assert status == 5
  assert out == "train --config configs/atgcn_audioset.py --workdir runs/a \n"
  assert re.match(r"process 0 of 1 \(pid \d+, \S+\) ended with status 5; last line of its", err)


def test_gpus_are_counted(tmp_path):
  program(tmp_path, "nvidia-smi", "echo GPU 0; echo GPU 1; echo GPU 2")
  options = ("gpu.sh", "--processes", "each", "--port", "1", "--dry-run", *RUN, "a")
  path = f"{tmp_path}:{os.environ['PATH']}"
  every = call(*options, ATGCN="atgcn", PATH=path)
  some = call(*options, ATGCN="atgcn", PATH=path, CUDA_VISIBLE_DEVICES="4,5")
  assert every.stdout.count("JAX_LOCAL_DEVICE_IDS") == 3
  assert some.stdout.count("JAX_LOCAL_DEVICE_IDS") == 2
