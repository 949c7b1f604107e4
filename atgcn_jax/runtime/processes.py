"""Runs with multiple processes: startup and communication.

Each process uses the devices of its host, or some of them. All processes take the same steps.
Process 0 reads the run directory and computes host-side results and broadcasts them, so that all
processes have the same values.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runtime import signals

COME_WITHIN = 300  # seconds to wait for the other processes at the start
LOST_AFTER = 30  # seconds without a heartbeat, after which all other processes end
LEAVE_WITHIN = 60  # seconds that a finished process waits for the others
LEAVE_FAILED_WITHIN = 10  # seconds that a failed or stopped process waits for them
# Environment variables of MPI implementations: number of processes, index of this process.
RANKS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))


def join(
  coordinator: str = "", processes: int | None = None, process_id: int | None = None
) -> None:
  """Connect to the other processes of the run. Does nothing for a run with a single process.

  Missing arguments are taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
  and then from the environments that jax.distributed detects: Slurm, Open MPI, Cloud TPU,
  Kubernetes. Call this function before JAX computes anything.

  Args:
    coordinator: HOST:PORT of process 0.
    processes: Number of processes.
    process_id: Index of this process, 0 … processes - 1.

  Raises:
    UserError: If an argument is invalid or missing.
    WorkFailed: If the other processes do not connect.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  processes = _number("JAX_NUM_PROCESSES") if processes is None else processes
  process_id = _number("JAX_PROCESS_ID") if process_id is None else process_id
  for size, rank in RANKS:
    if processes is None and process_id is None and (_number(size) or 1) > 1 and coordinator:
      processes, process_id = _number(size), _number(rank)
  _check(coordinator, processes, process_id)
  explicit = None not in (processes, process_id)
  if jax.distributed.is_initialized():
    return
  if explicit and process_id:
    _wait_for(coordinator)
  # JAX's SIGTERM handler would replace the handler of `signals`, and has no effect in evaluations.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # JAX warns in every Kubernetes container.
      jax.distributed.initialize(
        coordinator or None,
        processes,
        process_id,
        cluster_detection_method="deactivate" if explicit else None,
        initialization_timeout=COME_WITHIN,
        heartbeat_timeout_seconds=LOST_AFTER,
        shutdown_timeout_seconds=LEAVE_WITHIN,
      )
  except ValueError as error:
    if coordinator:
      raise UserError(
        "--coordinator: also give --processes and --process-id, which cannot be detected here"
      ) from error
    _check_alone()
  except Exception as error:
    if "before any JAX" in " ".join(str(error).split()) and not coordinator:
      return _check_alone()  # JAX is in use already, as in a notebook.
    reason = " ".join(str(error).split())[:160]
    raise WorkFailed(
      f"the processes of the run cannot connect ({reason}); check that process 0 runs and that its "
      "port can be reached, then restart all of them"
    ) from error


def _check(coordinator: str, processes: int | None, process_id: int | None) -> None:
  host, _, port = coordinator.rpartition(":")
  if coordinator and not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(f"--coordinator {coordinator}: write HOST:PORT of process 0")
  if (processes is None) != (process_id is None):
    raise UserError("--processes and --process-id: give both, or neither")
  if processes is not None and process_id is not None:
    if processes < 1:
      raise UserError(f"--processes {processes}: must be at least 1")
    if not 0 <= process_id < processes:
      raise UserError(f"--process-id {process_id}: must be 0 … {processes - 1}")
    if not coordinator:
      raise UserError("--coordinator: give HOST:PORT of process 0")


def _wait_for(coordinator: str) -> None:
  """Wait until process 0 accepts connections. Otherwise, JAX would kill this process by a signal.

  Raises:
    WorkFailed: If process 0 does not accept a connection within COME_WITHIN seconds.
  """
  host, _, port = coordinator.rpartition(":")
  end = time.monotonic() + COME_WITHIN
  while True:
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise WorkFailed(
          f"--coordinator {coordinator} does not answer ({error.strerror or error}); check that "
          "process 0 runs and that its port can be reached"
        ) from error
    time.sleep(0.2)


def _check_alone() -> None:
  """Check that this process is not one of several unconnected ones, which would overwrite files.

  Raises:
    UserError: If the environment announces several processes.
  """
  for size, _ in RANKS:
    if (_number(size) or 1) > 1:
      raise UserError(
        f"{size} is {os.environ[size]}: several processes need --coordinator HOST:PORT of process 0"
      )


def _number(variable: str) -> int | None:
  text = os.environ.get(variable, "")
  if text and not text.isdecimal():
    raise UserError(f"{variable}={text}: must be a number")
  return int(text) if text else None


def first_only(work: Callable[[], Any]) -> Any:
  """Run `work` on process 0 and broadcast its result to every process.

  Raises:
    UserError: In every process, if process 0 raises it.
    WorkFailed: In every process, if process 0 raises it; in the others, if process 0 raises
      another exception.
  """
  if jax.process_count() == 1:
    return work()
  outcome: Any = None
  error: Exception | None = None
  if jax.process_index() == 0:
    try:
      outcome = work()
    except Exception as raised:
      error = raised
  reported = error if isinstance(error, UserError | WorkFailed) else None
  message = pickle.dumps((error is not None, reported, outcome))
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
  buffer = np.frombuffer(message.ljust(size, b"\0")[:size], np.uint8)
  failed, reported, outcome = pickle.loads(multihost_utils.broadcast_one_to_all(buffer).tobytes())
  if error is not None:
    raise error
  if failed:
    raise reported or WorkFailed("process 0 failed; see the message of process 0")
  return outcome


def same_everywhere(values: dict[str, Any]) -> None:
  """Check that all processes have the same values.

  Args:
    values: The values, by the names that the user knows.

  Raises:
    UserError: In every process, if a value differs. A process that differs from process 0 names
      the value.
  """
  first = first_only(lambda: values)
  differing = sorted(
    name for name in first.keys() | values.keys() if first.get(name) != values.get(name)
  )
  if gather_over_processes(np.array([bool(differing)])).any():
    if differing:
      name = differing[0]
      raise UserError(
        f"{name}: {values.get(name)} here, {first.get(name)} in process 0; give all processes the "
        "same value"
      )
    raise UserError("other processes have different values; see their messages")


def gather_over_processes(mine: np.ndarray) -> np.ndarray:
  """Return the arrays of all processes, stacked in their order. All have one shape and type."""
  return np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, *mine.shape)


def raise_if_any_stopped() -> None:
  """Raise `Interrupted` in every process if one of them was asked to stop. All must call this."""
  if jax.process_count() == 1:
    return signals.raise_if_stopped()
  if number := int(gather_over_processes(np.array([signals.signal_number()])).max()):
    raise signals.Interrupted(number)


def whole(scores: jax.Array) -> Any:
  """Return the complete array in this process, even if other processes hold shards of it."""
  return multihost_utils.process_allgather(scores, tiled=True)


def is_first() -> bool:
  """Return whether this is process 0, which writes files and messages."""
  return jax.process_index() == 0


def which() -> str:
  """Return ` (process 1 of 4)` for messages; empty in a run with a single process."""
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return ""
  return f" (process {jax.process_index()} of {jax.process_count()})"


def leave_soon(status: int) -> None:
  """End this process with `status` after LEAVE_FAILED_WITHIN seconds if it has not ended by then.

  At its end a process waits for the others, so that all can report the same fault. If only this one
  has failed, they do not come, and JAX would end it by SIGABRT. Does nothing for a single process.
  """
  if jax.distributed.is_initialized():
    timer = threading.Timer(LEAVE_FAILED_WITHIN, os._exit, [status])
    timer.daemon = True
    timer.start()


def host_names() -> list[str]:
  """Return the host name of each process."""
  mine = np.frombuffer(socket.gethostname().encode()[:64].ljust(64, b"\0"), np.uint8)
  return [
    bytes(name).rstrip(b"\0").decode(errors="replace") for name in gather_over_processes(mine)
  ]


class Pulse:
  """Exchange of a few numbers between all processes at every step.

  The numbers of a step are available at the next step. They are transferred while the devices
  compute, so that no process waits for them. In a run with a single process they are available
  immediately.
  """

  def __init__(self, mesh: jax.sharding.Mesh, numbers: int):
    self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._local = len(mesh.local_devices)
    self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    self._sent: jax.Array | None = None
    self._shape = (jax.process_count(), self._local, numbers)

  def beat(self, mine: list[float]) -> np.ndarray:
    """Send this process's numbers and return those of the previous call.

    Args:
      mine: Numbers of this process.

    Returns:
      float32[processes, numbers]. Zeros at the first call; the current numbers with one process.
    """
    if jax.process_count() == 1:
      return np.array([mine], np.float32)
    known = np.zeros(self._shape) if self._sent is None else np.asarray(self._sent)
    rows = np.tile(np.array(mine, np.float32), (self._local, 1))
    self._sent = self._gather(jax.make_array_from_process_local_data(self._sharding, rows))
    return known.reshape(self._shape)[:, 0]
