"""Many processes make the same run as one: steps, logs, checkpoints, evaluations."""

import concurrent.futures
import os
import pickle
import signal
import subprocess
import sys

import jax
import pytest
from narrow_system import assert_same_first_step, assert_same_in_float64
from narrow_system import trained as narrow
from runs_support import (
  COMPILED,
  REPOSITORY,
  free_port,
)

from atgcn_jax.training.sharding import Layout, data_mesh

ENDED = 300  # seconds after which a process that should have ended is a failure


def finished(process):
  """(output, errors); where it hangs, the errors say at which line."""
  try:
    return process.communicate(timeout=ENDED)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGABRT)
    return process.communicate()


def results(many, expected=0):
  """(outputs, errors) of processes, all of which end with this status."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    told = list(pool.map(finished, many))
  for process, (_, errors) in zip(many, told):
    assert process.returncode == expected, errors
  return [output for output, _ in told], [errors for _, errors in told]


# The step.


@pytest.fixture(scope="module")
def one_process():
  layout = Layout(data_mesh())
  with jax.enable_x64(True):
    twenty = narrow(layout, 20, "authors", "float64", record=False)
  return {"first": narrow(layout, 1, "authors", "float32", record=True), "twenty": twenty}


@pytest.mark.parametrize("count", [2, 4])
def test_many_processes_compute_what_one_does(tmp_path, one_process, count):
  out, coordinator = tmp_path / "out.pickle", f"127.0.0.1:{free_port()}"
  environment = os.environ | COMPILED | {"JAX_NUM_CPU_DEVICES": str(8 // count)}
  command = [
    sys.executable,
    "-X",
    "faulthandler",
    REPOSITORY / "tests" / "one_of_many.py",
    out,
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
  with open(out, "rb") as file:
    many = pickle.load(file)
  assert_same_first_step(one_process["first"], many["first"])
  assert_same_first_step(one_process["first"], many["first_in_parts"])
  assert_same_in_float64(one_process["twenty"], many["twenty"], 20)

  everyone = range(count)
  assert many["beats"] == [
    [[i * bool(step), max(0, step - 1)] for i in everyone] for step in range(3)
  ]
  assert many["gathered"] == [[i] for i in everyone]
  assert many["told"] == {"index": 0}
  assert many["hosts"] == count
  assert many["processes"] == sorted(many["processes"])  # so each has one slice of a batch
