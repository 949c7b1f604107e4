"""Processes on separate hosts: network namespaces, each with an address and a name."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from runs_support import REPOSITORY, joining, records, start, trained

from atgcn_jax import cli
from atgcn_jax.training import saved_checkpoints

PORT = 9876
ENTER = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Host(NamedTuple):
  """Network namespace, its address, and the words that run a command in it."""

  name: str
  address: str
  enter: tuple[str, ...]


def ip(*words):
  subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path):
  """Return two hosts that can reach each other."""
  if not shutil.which("ip") or not shutil.which("unshare"):
    pytest.skip("network namespaces need the commands ip and unshare")
  names = [f"at{os.getpid()}{letter}" for letter in "ab"]
  table = tmp_path / "hosts"
  addresses = ["10.213.57.1", "10.213.57.2"]
  lines = ["127.0.0.1 localhost", *map(" ".join, zip(addresses, names))]
  table.write_text("\n".join(lines) + "\n")
  try:
    try:
      for name in names:
        ip("netns", "add", name)
      ip(
        "link",
        "add",
        names[0],
        "netns",
        names[0],
        "type",
        "veth",
        "peer",
        names[1],
        "netns",
        names[1],
      )
      for name, address in zip(names, addresses):
        ip("-n", name, "address", "add", f"{address}/24", "dev", name)
        ip("-n", name, "link", "set", name, "up")
        ip("-n", name, "link", "set", "lo", "up")
      enter = ("unshare", "--uts", "--mount", "sh", "-c", ENTER)
      found = [
        Host(name, address, ("ip", "netns", "exec", name, *enter, name, str(table)))
        for name, address in zip(names, addresses)
      ]
      for host in found:
        subprocess.run([*host.enter, "true"], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
      pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    yield found
  finally:
    for name in names:
      subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def train_on(hosts, workdir, *overrides):
  """Start `atgcn train` of the tiny run: one process per host with four devices each."""
  config = trained().parent / "config.py"
  return [
    start(
      *["train", "--config", config, "--workdir", workdir, *overrides],
      *joining(PORT, len(hosts), i, hosts[0].address),
      before=host.enter,
      JAX_NUM_CPU_DEVICES="4",
    )
    for i, host in enumerate(hosts)
  ]


@pytest.mark.slow
def test_two_hosts_make_the_run_of_one(hosts, tmp_path):
  workdir = tmp_path / "run"
  pair = train_on(hosts, workdir, "--config.optim.steps=4")
  errors = [process.communicate(timeout=300)[1] for process in pair]
  assert [process.returncode for process in pair] == [0, 0], errors
  one, two = records(trained()), records(workdir)
  assert two[0][2] == pytest.approx(one[0][2], rel=1e-5)
  assert [line[0] for line in two] == [1, 2, 3, 4, 4]
  assert saved_checkpoints.saved_steps(workdir)[-1] == 4


@pytest.mark.slow
def test_hosts_that_lose_each_other_end_and_one_resumes(hosts, tmp_path):
  workdir = tmp_path / "run"
  pair = train_on(hosts, workdir, "--config.optim.steps=100000", "--config.evaluation.every=100000")
  while not (workdir / "metrics.jsonl").exists() or len(records(workdir)) < 8:
    assert all(process.poll() is None for process in pair)
    time.sleep(0.05)
  ip("-n", hosts[1].name, "link", "set", hosts[1].name, "down")
  cut = time.monotonic()
  errors = [process.communicate(timeout=120)[1] for process in pair]
  assert time.monotonic() - cut < 60
  assert all(process.returncode in (1, -signal.SIGABRT) for process in pair), errors
  saved = saved_checkpoints.saved_steps(workdir)[-1]
  assert saved >= 3
  command = ["train", "--config", trained().parent / "config.py", "--workdir", workdir]
  more = [f"--config.optim.steps={saved + 2}", "--config.evaluation.every=100000"]
  assert cli.main([str(word) for word in [*command, *more]]) == 0
  assert records(workdir)[-1][0] == saved + 2


SLOW = """
import sys, time
from atgcn_jax import cli
from atgcn_jax.runs import log
from atgcn_jax.training import sharding

log.PROGRESS_SECONDS = 3
place, wait = sharding.place, float(sys.argv.pop(1))

def placed(*arguments):
  time.sleep(wait)
  return place(*arguments)

sharding.place = placed
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_host_that_lags_is_named(tmp_path):
  command = ["train", "--config", trained().parent / "config.py", "--workdir", tmp_path / "run"]
  command += ["--config.optim.steps=60", "--config.evaluation.every=1000"]
  command += ["--config.checkpoint.every=1000"]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
  pair = [
    subprocess.Popen(
      [sys.executable, "-c", SLOW, wait, *map(str, command), *joining(PORT, 2, i)],
      env=environment,
      cwd=REPOSITORY,
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
    )
    for i, wait in enumerate(("0", "0.3"))
  ]
  reported, errors = (process.communicate(timeout=300)[1] for process in pair)
  assert [process.returncode for process in pair] == [0, 0], (reported, errors)
  lags = [line for line in reported.splitlines() if "lags" in line]
  assert lags, reported
  assert all(re.match(r"process 1 of 2 on \S+ lags: its host is busy \d+%", line) for line in lags)
  assert errors.strip() == ""
