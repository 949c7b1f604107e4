"""Tests of launch/tpu.sh with folders as workers and a shell script as gcloud."""

import os
import subprocess
import time

import pytest
from launch_support import LAUNCH, RUN, call, clean_environment, program

# A file holds the states of the request, one per line. Each query removes the first, but not the
# last.
GCLOUD = """
cd "$SLICE"
echo "$*" >>calls
case "$*" in
  *"queued-resources list"*)
    [ ! -e states ] || head -n 1 states
    [ ! -e states ] || [ "$(wc -l <states)" = 1 ] || sed -i 1d states ;;
  *"queued-resources create"*) printf 'WAITING_FOR_RESOURCES\\nPROVISIONING\\nACTIVE\\n' >states ;;
  *"queued-resources delete"*) rm states ;;
  *"tpu-vm scp"*) for i in 0 1; do cp "$5" "worker-$i/"; done ;;
  *"tpu-vm ssh"*)
    which=${7#--worker=}; status=0
    for i in ${which/all/0 1}; do
      (cd "worker-$i" && WORKER=$i bash -c "${8#--command=}") || status=$?
    done
    exit "$status" ;;
esac
"""


@pytest.fixture
def tpu(tmp_path):
  """Return a function that calls tpu.sh; workers run the code in `do`, with their index $WORKER."""
  tools = tmp_path / "tools"
  tools.mkdir()
  program(tools, "gcloud", GCLOUD)
  program(tools, "sleep", "exec /bin/sleep 0.01")
  program(tools, "hostname", 'echo "host-$WORKER"')
  fake = program(tmp_path, "atgcn", 'echo "$WORKER: $*"; eval "$DO"')
  for i in range(2):
    launch = tmp_path / f"worker-{i}" / "atgcn" / "launch"
    launch.mkdir(parents=True)
    for name in ("worker.sh", "common.sh"):
      os.symlink(LAUNCH / name, launch / name)

  def run(verb, *arguments, do="exit 0", **environment):
    return call(
      "tpu.sh",
      verb,
      "--zone=z",
      *arguments,
      cwd=tmp_path,
      ATGCN=str(fake),
      DO=do,
      SLICE=str(tmp_path),
      PATH=f"{tools}:{os.environ['PATH']}",
      **environment,
    )

  run.folder = tmp_path
  run.tools = tools
  return run


def calls(tpu, what):
  return [line for line in (tpu.folder / "calls").read_text().splitlines() if what in line]


def test_create_waits_and_can_be_repeated(tpu):
  first = tpu("create", "--spot")
  lines = first.stdout.splitlines()
  assert (first.returncode, first.stderr) == (0, "")
  assert lines[:2] == ["atgcn: WAITING_FOR_RESOURCES", "atgcn: PROVISIONING"]
  assert lines[2].endswith("to end its cost: launch/tpu.sh delete --name atgcn --zone=z")
  assert tpu("create", "--spot").stdout == lines[2] + "\n"
  assert len(calls(tpu, "resources create")) == 1


def test_create_requests_a_preempted_slice_again(tpu):
  (tpu.folder / "states").write_text("SUSPENDED\n")
  done = tpu("create", "--spot")
  assert done.stdout.startswith("atgcn: SUSPENDED; requesting it again\n")
  assert done.returncode == 0
  assert len(calls(tpu, "resources delete")) == len(calls(tpu, "resources create")) == 1


def test_create_reports_a_failure(tpu):
  (tpu.folder / "states").write_text("PROVISIONING\nFAILED\n")
  done = tpu("create")
  assert done.returncode == 1
  assert done.stderr == "tpu.sh: atgcn: FAILED; the same command requests it again\n"


def test_delete_can_be_repeated(tpu):
  tpu("create")
  assert tpu("delete").returncode == 0
  again = tpu("delete")
  assert (again.returncode, again.stdout) == (0, "'atgcn' does not exist\n")
  assert len(calls(tpu, "resources delete")) == 1


def test_an_error_of_gcloud_is_not_taken_for_absence(tpu):
  program(tpu.tools, "gcloud", "echo 'ERROR: no credentials' >&2; exit 1")
  done = tpu("delete")
  assert done.returncode == 1
  assert done.stdout == ""
  assert done.stderr == "ERROR: no credentials\n"


def test_setup_copies_the_checkout_and_installs_it(tpu):
  for i in range(2):
    for link in (tpu.folder / f"worker-{i}/atgcn/launch").iterdir():
      link.unlink()
  # A Python that logs its arguments and copies itself into the environment.
  program(
    tpu.tools,
    "python3",
    'echo "$*" >>"$SLICE/python"; [[ "$*" != *"-m venv"* ]] || '
    '{ mkdir -p "${!#}/bin"; cp "$0" "${!#}/bin/python"; }',
  )
  done = tpu("setup")
  assert done.returncode == 0, done.stderr
  for i in range(2):
    folder = tpu.folder / f"worker-{i}" / "atgcn"
    assert (folder / "launch" / "quickstart.sh").stat().st_mode & 0o100
    assert (folder / "atgcn_jax" / "cli" / "__init__.py").exists()
    asked = (tpu.folder / "python").read_text()
    assert f"--constraint {folder}/launch/constraints.txt --editable {folder}[tpu,gcs]\n" in asked
  count = asked.count("-m pip install")
  assert tpu("setup").returncode == 0
  assert (tpu.folder / "python").read_text().count("-m pip install") == count == 2


def log(tpu, i):
  return (tpu.folder / f"worker-{i}" / "atgcn" / "train.log").read_text()


def test_train_runs_in_the_background_and_logs_show_it(tpu):
  begun = tpu("train", *RUN, "gs://sounds/run 1", do="/bin/sleep 0.3; echo done")
  assert begun.stdout == "host-0: started\nhost-1: started\n"
  shown = tpu("logs", "--worker", "1")
  said = "1: train --config configs/atgcn_audioset.py --workdir gs://sounds/run 1"
  assert shown.stdout.splitlines()[:2] == [said, "done"]
  assert shown.stdout.splitlines()[2].endswith("Z host-1 ended with status 0")
  assert (shown.returncode, shown.stderr) == (0, "")
  assert tpu("logs", "--worker", "1").stdout == shown.stdout


def test_train_skips_running_workers_and_stop_lets_them_save(tpu):
  do = "trap '/bin/sleep 0.2; echo saved; exit 143' TERM; while :; do /bin/sleep 0.05; done"
  tpu("train", *RUN, "gs://sounds/run", do=do)
  again = tpu("train", *RUN, "gs://sounds/run", do=do)
  assert again.stdout == "host-0: already running\nhost-1: already running\n"
  time.sleep(0.2)  # The shell that replaces the program sets its trap.
  assert tpu("stop").returncode == 0
  assert tpu("stop").returncode == 0
  ended = tpu("logs")
  assert ended.returncode == 143
  for i in range(2):
    assert log(tpu, i).splitlines()[1] == "saved"
    assert log(tpu, i).splitlines()[2].endswith(f"host-{i} ended with status 143")


def test_logs_name_the_worker_that_was_lost(tpu):
  (tpu.folder / "states").write_text("ACTIVE\n")
  do = (
    'if [ "$WORKER" = 1 ]; then kill -KILL $$; fi; '
    'until grep -q " ended " "$SLICE/worker-1/atgcn/train.log"; do /bin/sleep 0.05; done; '
    "/bin/sleep 0.1; exit 134"
  )
  tpu("train", *RUN, "gs://sounds/run", do=do)
  while "ended" not in log(tpu, 1):
    time.sleep(0.05)
  shown = tpu("logs")
  assert shown.returncode == 134
  line = shown.stderr.splitlines()[-1]
  assert line.startswith("tpu.sh: the first to end: 20")
  end = "Z host-1 ended with status 137; the others ended after it; repeat train to resume"
  assert line.endswith(end)
  # The next start keeps the previous log.
  tpu("train", *RUN, "gs://sounds/run")
  assert (
    "host-1 ended with status 137"
    in (tpu.folder / "worker-1" / "atgcn" / "train.log.previous").read_text()
  )


def test_a_worker_reports_a_missing_log(tpu):
  done = tpu("logs")
  assert done.returncode == 2
  assert "host-0: nothing has been started" in done.stderr
  # As after a restart of the host: a log without a status, and no process.
  (tpu.folder / "worker-0/atgcn/train.log").write_text("step 1\n")
  (tpu.folder / "worker-0/atgcn/train.pid").write_text("999999999 999999998\n")
  assert "ended without a status" in tpu("logs").stderr


def test_a_worker_knows_its_verbs(tmp_path):
  done = subprocess.run(
    ["bash", LAUNCH / "worker.sh", "dance"], env=clean_environment(), capture_output=True, text=True
  )
  assert done.returncode == 2
  assert (
    done.stderr
    == "worker.sh: command must be one of install, start, stop, follow, ended, got 'dance'\n"
  )
