"""Tests of the scripts in launch/: printed commands, errors, the manifest, the Slurm job."""

import configparser
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from launch_support import LAUNCH, ROOT, RUN, call, clean_environment, program

GOLDEN = ROOT / "tests/launch/golden"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])

# The command that prints each file of tests/launch/golden.
DRY_RUNS = {
  "tpu_create": ["tpu.sh", "create"],
  "tpu_create_spot": [
    *["tpu.sh", "create", "--name", "big", "--zone", "us-west4-a", "--project", "sound"],
    *["--type", "v6e-64", "--spot"],
  ],
  "tpu_create_runtime": ["tpu.sh", "create", "--type=tpu9-8", "--runtime=v2-alpha-tpu9"],
  "tpu_setup": ["tpu.sh", "setup", "--name", "big", "--zone", "us-west4-a"],
  "tpu_train": ["tpu.sh", "train", *RUN, "gs://sounds/run 1", "--config.seed=2"],
  "tpu_evaluate": ["tpu.sh", "train", "--", "evaluate", "--workdir", "gs://sounds/run"],
  "tpu_logs": ["tpu.sh", "logs", "--worker", "3"],
  "tpu_stop": ["tpu.sh", "stop"],
  "tpu_delete": ["tpu.sh", "delete", "--zone", "us-west4-a"],
  "gpu_one": ["gpu.sh", *RUN, "runs/a"],
  "gpu_each": ["gpu.sh", "--processes", "each", "--gpus", "2", "--port", "1234", *RUN, "runs/a"],
  "slurm": ["slurm.sbatch", *RUN, "runs/it's"],
  "jobset": ["jobset.sh", "--image", "registry.example/atgcn:1", *RUN, "gs://sounds/run"],
  "jobset_v6e": [
    *["jobset.sh", "--image", "registry.example/atgcn@sha256:0123", "--name", "big"],
    *["--accelerator", "tpu-v6e-slice", "--topology", "8x8", "--service-account", "trainer"],
    *[*RUN, 'gs://sounds/"a\\b"'],
  ],
  "local_hosts": [
    *["local_hosts.sh", "--processes", "3", "--devices", "2", "--port", "1234"],
    *["--logs", "runs/logs", *RUN, "runs/a"],
  ],
}


@functools.cache
def dry_run(script, *arguments):
  """Return the output of a command with --dry-run, with ROOT for the folder of the checkout."""
  place = arguments.index("--") if "--" in arguments else len(arguments)
  arguments = (*arguments[:place], "--dry-run", *arguments[place:])
  done = call(script, *arguments, ATGCN=".venv/bin/atgcn")
  assert (done.returncode, done.stderr) == (0, "")
  return done.stdout.replace(str(ROOT), "ROOT")


# Style and commands


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
  checker = shutil.which(
    "shellcheck", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
  )
  if checker is None:
    pytest.skip("shellcheck is not installed; the extra `test` brings it")
  done = subprocess.run([checker, "--external-sources", script], cwd=ROOT, capture_output=True)
  assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_runs(name):
  printed = dry_run(*DRY_RUNS[name])
  assert printed == (GOLDEN / f"{name}.txt").read_text()
  assert subprocess.run(["bash", "-n"], input=printed.encode()).returncode == 0


def commands_of_the_readme():
  blocks = re.findall(r"```sh\n(.*?)```", (LAUNCH / "README.md").read_text(), re.S)
  text = "\n".join(blocks).replace("\\\n", " ")
  return re.findall(r"(?:^|&& +|until )launch/(\S+\.sh[^&#\n]*)", text, re.M)


def test_the_commands_of_the_readme_are_valid():
  commands = commands_of_the_readme()
  assert {command.split()[0] for command in commands} == {
    *("gpu.sh", "gpu_check.sh", "jobset.sh", "local_hosts.sh", "tpu.sh"),
  }
  for command in commands:
    assert dry_run(*re.sub("each", "each --gpus 2", command).split())


def test_every_golden_file_has_its_command():
  assert {path.stem for path in GOLDEN.iterdir()} == set(DRY_RUNS)


def test_a_dry_run_of_a_new_checkout_installs_first(tmp_path):
  shutil.copytree(LAUNCH, tmp_path / "launch")
  shutil.copy(ROOT / "setup.cfg", tmp_path)
  done = subprocess.run(
    ["bash", tmp_path / "launch/gpu.sh", "--dry-run", *RUN, "runs/a"],
    env=clean_environment(PYTHON=sys.executable),
    capture_output=True,
    text=True,
  )
  lines = done.stdout.replace(sys.executable, "PYTHON").replace(str(tmp_path), "ROOT").splitlines()
  assert lines[0] == "PYTHON -m venv --clear ROOT/.venv"
  assert lines[1].endswith("--constraint ROOT/launch/constraints.txt --editable 'ROOT[cuda]'")
  assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("script", ["tpu", "gpu", "jobset", "local_hosts", "slurm"])
def test_help(script):
  file = f"{script}.sbatch" if script == "slurm" else f"{script}.sh"
  done = call(file, "--help")
  assert done.returncode == 0
  assert f"launch/{file}" in done.stdout
  assert "--dry-run" in done.stdout
  assert "shellcheck" not in done.stdout


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    (["tpu.sh"], "create, setup, train"),
    (["tpu.sh", "build"], "'build'"),
    (["tpu.sh", "create", "--type", "h100-8"], "--type"),
    (["tpu.sh", "create", "--name", "Big_One"], "--name"),
    (["tpu.sh", "create", "--zone"], "--zone"),
    (["tpu.sh", "logs", "--worker", "last"], "--worker"),
    (["tpu.sh", "train"], "--config"),
    (["tpu.sh", "delete", "--force"], "--force"),
    (["gpu.sh", "--processes", "two", *RUN, "a"], "--processes"),
    (["gpu.sh", "--processes", "each", "--gpus", "0", *RUN, "a"], "--gpus"),
    (["gpu.sh", "--config", "configs/esc10.py"], "--config"),
    (["gpu.sh"], "--config"),
    (["local_hosts.sh", "--processes", "0", *RUN, "a"], "--processes"),
    (["local_hosts.sh", "--devices", "all", *RUN, "a"], "--devices"),
    (["local_hosts.sh", "--port", "--logs", "x", *RUN, "a"], "--port"),
    (["local_hosts.sh", "--grace=", *RUN, "a"], "--grace"),
    (["local_hosts.sh", "more", *RUN, "a"], "more"),
    (["slurm.sbatch", *RUN, "a"], "sbatch launch/slurm.sbatch"),
    (["slurm.sbatch", "--nodes=2", *RUN, "a"], "--nodes=2"),
    (["slurm.sbatch", "--dry-run"], "--config"),
    (["jobset.sh", *RUN, "a"], "--image"),
    (["jobset.sh", "--image", "a b", *RUN, "a"], "'a b'"),
    (["jobset.sh", "--image", "a", "--topology", "4", *RUN, "a"], "--topology"),
    (["jobset.sh", "--image", "a", "--topology", "1x1", *RUN, "a"], "1x1"),
    (["jobset.sh", "--image", "a", "--name", "A", *RUN, "a"], "--name"),
    (["jobset.sh", "--image", "a", *RUN, "a\nb"], "line break"),
  ],
)
def test_mistakes(arguments, named, tmp_path):
  done = call(*arguments, cwd=tmp_path, ATGCN="false", PATH=f"{tmp_path}:{os.defpath}")
  assert done.returncode == 2
  assert done.stdout == ""
  assert len(done.stderr.splitlines()) == 1
  assert done.stderr.startswith(f"{arguments[0]}: ")
  assert named in done.stderr
  assert not list(tmp_path.iterdir())


# The manifest


def manifest(name):
  lines = dry_run(*DRY_RUNS[name]).splitlines()
  assert lines[0] == "kubectl apply --filename - <<'END'"
  assert lines[-1] == "END"
  return yaml.safe_load("\n".join(lines[1:-1]))


@pytest.mark.parametrize(("name", "hosts"), [("jobset", 4), ("jobset_v6e", 16)])
def test_the_manifest_agrees_with_itself(name, hosts):
  filled = manifest(name)
  assert (filled["apiVersion"], filled["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  (job,) = filled["spec"]["replicatedJobs"]
  job_spec = job["template"]["spec"]
  pod = job_spec["template"]["spec"]
  (container,) = pod["containers"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  chips = 1
  for side in topology.split("x"):
    chips *= int(side)
  assert job_spec["parallelism"] == job_spec["completions"] == hosts
  assert container["resources"]["limits"] == container["resources"]["requests"]
  assert hosts * container["resources"]["limits"]["google.com/tpu"] == chips
  # A lost pod ends its job, and the JobSet restarts all pods.
  assert (job["replicas"], job_spec["backoffLimit"], pod["restartPolicy"]) == (1, 0, "Never")
  assert filled["spec"]["failurePolicy"]["maxRestarts"] > 0
  (rule,) = filled["spec"]["failurePolicy"]["rules"]
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert job_spec["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
  assert pod["terminationGracePeriodSeconds"] >= 60


def test_the_manifest_carries_the_options():
  filled = manifest("jobset_v6e")
  pod = filled["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
  assert filled["metadata"]["name"] == "big"
  assert pod["serviceAccountName"] == "trainer"
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
  assert pod["containers"][0]["image"] == "registry.example/atgcn@sha256:0123"
  assert pod["containers"][0]["args"] == ["train", *RUN[1:], 'gs://sounds/"a\\b"']


def test_the_template_is_yaml_and_every_placeholder_is_filled():
  text = (LAUNCH / "jobset.yaml").read_text()
  assert yaml.safe_load(text)["metadata"]["name"] == "${NAME}"
  assert "${" not in json.dumps(manifest("jobset"))


def test_the_manifest_goes_to_kubectl(tmp_path):
  program(tmp_path, "kubectl", 'echo "$*"; cat')
  arguments = DRY_RUNS["jobset"]
  done = call(*arguments, PATH=f"{tmp_path}:{os.environ['PATH']}")
  command, text = done.stdout.split("\n", 1)
  assert command == "apply --filename -"
  assert yaml.safe_load(text) == manifest("jobset")


# Slurm


@pytest.fixture
def slurm(tmp_path):
  """Return a function that runs the job as in Slurm, with commands that print their arguments."""
  program(tmp_path, "srun", 'echo "srun $* ids=${JAX_LOCAL_DEVICE_IDS:-}"; exit "$SRUN_STATUS"')
  program(tmp_path, "scontrol", 'echo "scontrol $*"')
  program(tmp_path, "squeue", 'echo "$STATE"')

  def run(status, state="RUNNING", tasks="8"):
    return call(
      "slurm.sbatch",
      *RUN,
      "a",
      SLURM_JOB_ID="7",
      SLURM_SUBMIT_DIR=str(ROOT),
      SLURM_NTASKS_PER_NODE=tasks,
      SLURM_GPUS_ON_NODE="4",
      SRUN_STATUS=str(status),
      STATE=state,
      PATH=f"{tmp_path}:{os.environ['PATH']}",
    )

  return run


def test_slurm_gives_each_task_its_gpu_or_one_task_all(slurm):
  each, alone = slurm(0), slurm(0, tasks="1")
  assert each.stdout.endswith(
    ".venv/bin/atgcn train --config configs/atgcn_audioset.py --workdir a ids=\n"
  )
  assert alone.stdout.endswith(" ids=0,1,2,3\n")
  assert each.returncode == alone.returncode == 0


def test_a_stopped_job_is_requeued_unless_cancelled(slurm):
  assert slurm(143).stdout.endswith("scontrol requeue 7\n")
  assert "scontrol" not in slurm(143, state="COMPLETING").stdout
  lost = slurm(137)
  assert "scontrol" not in lost.stdout
  assert lost.returncode == 137


def test_the_converter_shares_the_pinned_versions_except_its_own():
  def pins(name):
    lines = (LAUNCH / name).read_text().splitlines()
    pairs = [line.replace("_", "-").split("==") for line in lines if "==" in line]
    return {name.lower(): version for name, version in pairs}

  converter, rest = pins("onnx.txt"), pins("constraints.txt")
  other = {name for name, version in converter.items() if rest.get(name) != version}
  assert other == {"jax2onnx", "onnx", "onnxruntime", "orbax-checkpoint"}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_files_of_hashes_have_the_pinned_versions(name):
  def pairs(text):
    found = re.findall(r"^([\w.-]+)==([\w.+-]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}

  text = (LAUNCH / name).read_text()
  hashed, pinned = pairs(text), pairs((LAUNCH / "constraints.txt").read_text())
  assert {key: version for key, version in hashed.items() if pinned.get(key) != version} == {}
  assert "setuptools" in hashed  # builds the package itself
  blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
  assert len(blocks) == len(hashed)
  assert all("--hash=sha256:" in block for block in blocks)
  cfg = configparser.ConfigParser()
  cfg.read(ROOT / "setup.cfg")
  needed = cfg["options"]["install_requires"]
  needed += cfg["options.extras_require"]["test"] if "test" in name else ""
  names = re.findall(r"^([\w.-]+)(?:\[\w+\])?>=", needed, re.MULTILINE)
  assert {re.sub(r"[-_.]+", "-", one).lower() for one in names} <= hashed.keys()


@pytest.mark.parametrize(
  ("extras", "file"), [("", "requirements.txt"), ("[test]", "requirements-test.txt")]
)
def test_the_commands_of_the_readme_install_hashed_files(tmp_path, extras, file):
  shutil.copytree(LAUNCH, tmp_path / "launch")
  shutil.copy(ROOT / "setup.cfg", tmp_path)
  done = subprocess.run(
    ["bash", "-c", f"source {tmp_path}/launch/common.sh; dry_run=yes; install '{extras}'"],
    env=clean_environment(PYTHON=sys.executable),
    capture_output=True,
    text=True,
  )
  _, hashed, own = done.stdout.replace(str(tmp_path), "ROOT").splitlines()
  assert hashed.endswith(f"--require-hashes --requirement ROOT/launch/{file}")
  assert own.endswith("--no-deps --no-build-isolation --editable ROOT")
