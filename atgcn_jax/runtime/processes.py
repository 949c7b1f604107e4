"""One run by many processes: how they find each other, and what they tell each other.

Each drives the devices of its host, or some of them, and all take the same steps. What is read
from the run directory or computed on a host is decided by the first process alone, so that no two
differ.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from atgcn_jax.errors import UserError, WorkFailed

COME_WITHIN = 300  # seconds that the first waits for the others at the start
LOST_AFTER = 30  # seconds without a sign of life; then all others end
LEAVE_WITHIN = 60  # seconds that those who are done wait for the others
# Of MPI implementations and launchers: how many processes there are, and which this is.
RANKS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))


def join(
  coordinator: str = "", processes: int | None = None, process_id: int | None = None
) -> None:
  """Join the other processes of the run; alone, where nothing tells of others.

  What is not given is taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID,
  then from what jax.distributed knows: Slurm's steps, Open MPI, Cloud TPU, Kubernetes. It must be
  called before JAX computes anything.

  Args:
    coordinator: HOST:PORT of the first process.
    process_id: 0 … processes - 1.
  Raises:
    UserError: for arguments that cannot be, or half of what is needed.
    WorkFailed: if the others do not come.
  """
  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
  processes = _number("JAX_NUM_PROCESSES") if processes is None else processes
  process_id = _number("JAX_PROCESS_ID") if process_id is None else process_id
  for size, rank in RANKS:
    if processes is None and process_id is None and (_number(size) or 1) > 1 and coordinator:
      processes, process_id = _number(size), _number(rank)
  _check(coordinator, processes, process_id)
  by_hand = None not in (processes, process_id)
  if jax.distributed.is_initialized():
    return
  if by_hand and process_id:
    _wait_for(coordinator)
  # JAX's notice of SIGTERM would take the place of ours, and reach no evaluation.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # that a container of Kubernetes may be one of many
      jax.distributed.initialize(
        coordinator or None,
        processes,
        process_id,
        cluster_detection_method="deactivate" if by_hand else None,
        initialization_timeout=COME_WITHIN,
        heartbeat_timeout_seconds=LOST_AFTER,
        shutdown_timeout_seconds=LEAVE_WITHIN,
      )
  except ValueError as error:
    if coordinator:
      raise UserError(
        "--coordinator: also give --processes and --process-id, which nothing here tells of"
      ) from error
    _check_alone()
  except Exception as error:
    if "before any JAX" in " ".join(str(error).split()) and not coordinator:
      return _check_alone()  # this process computes already, as in a notebook
    reason = " ".join(str(error).split())[:160]
    raise WorkFailed(
      f"the processes of the run do not come together ({reason}); see that process 0 runs and that "
      "its port can be reached, and start all anew"
    ) from error


def _check(coordinator: str, processes: int | None, process_id: int | None) -> None:
  host, _, port = coordinator.rpartition(":")
  if coordinator and not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise UserError(f"--coordinator {coordinator}: write HOST:PORT of process 0")
  if (processes is None) != (process_id is None):
    raise UserError("--processes and --process-id: give both, or neither")
  if processes is not None and process_id is not None:
    if processes < 1:
      raise UserError(f"--processes {processes}: there is at least one")
    if not 0 <= process_id < processes:
      raise UserError(f"--process-id {process_id}: take 0 … {processes - 1}")
    if not coordinator:
      raise UserError("--coordinator: name HOST:PORT of process 0")


def _wait_for(coordinator: str) -> None:
  """Returns once the first process answers; without it JAX would end this one by a signal.

  Raises:
    WorkFailed: if it does not in time.
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
          f"--coordinator {coordinator} does not answer ({error.strerror or error}); see that "
          "process 0 runs and that its port can be reached"
        ) from error
    time.sleep(0.2)


def _check_alone() -> None:
  """Refuse to be one of many that do not know of each other, and would write over each other."""
  for size, _ in RANKS:
    if (_number(size) or 1) > 1:
      raise UserError(
        f"{size} is {os.environ[size]}: --coordinator HOST:PORT of process 0 is needed for many "
        "processes"
      )


def _number(variable: str) -> int | None:
  text = os.environ.get(variable, "")
  if text and not text.isdecimal():
    raise UserError(f"{variable}={text}: must be a number")
  return int(text) if text else None


def first_only(work: Callable[[], Any]) -> Any:
  """What this returns in the first process, which alone does it; returned in every process.

  Raises:
    UserError, WorkFailed: in every process, if the first raises it.
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
  told = error if isinstance(error, UserError | WorkFailed) else None
  message = pickle.dumps((error is not None, told, outcome))
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
  buffer = np.frombuffer(message.ljust(size, b"\0")[:size], np.uint8)
  failed, told, outcome = pickle.loads(multihost_utils.broadcast_one_to_all(buffer).tobytes())
  if error is not None:
    raise error
  if failed:
    raise told or WorkFailed("process 0 failed; its own message says how")
  return outcome


def same_everywhere(values: dict[str, Any]) -> None:
  """Refuse to go on where processes were given different things.

  Args:
    values: what must be equal, by the name that a user knows it under.
  Raises:
    UserError: in every process; those that differ from the first name what differs.
  """
  first = first_only(lambda: values)
  differing = sorted(
    name for name in first.keys() | values.keys() if first.get(name) != values.get(name)
  )
  if gather_over_processes(np.array([bool(differing)])).any():
    if differing:
      name = differing[0]
      raise UserError(
        f"{name}: {values.get(name)} here, {first.get(name)} in process 0; give all the same"
      )
    raise UserError("other processes were given something else; their own messages say what")


def gather_over_processes(mine: np.ndarray) -> np.ndarray:
  """What each process gives, stacked in their order; all give one shape and type."""
  return np.asarray(multihost_utils.process_allgather(mine)).reshape(-1, *mine.shape)


def whole(scores: jax.Array) -> Any:
  """The whole array in this process, also where other processes hold parts of it."""
  return multihost_utils.process_allgather(scores, tiled=True)


def is_first() -> bool:
  """Whether this process is the one that writes and tells."""
  return jax.process_index() == 0


def which() -> str:
  """` (process 1 of 4)`, for messages; empty for a lone one."""
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return ""
  return f" (process {jax.process_index()} of {jax.process_count()})"


def host_names() -> list[str]:
  """The name of each process's host."""
  mine = np.frombuffer(socket.gethostname().encode()[:64].ljust(64, b"\0"), np.uint8)
  return [
    bytes(name).rstrip(b"\0").decode(errors="replace") for name in gather_over_processes(mine)
  ]


class Pulse:
  """A few numbers of each process, given at every step and known to all at the next.

  They travel while the devices work, so that nobody waits for them. A lone process knows its own at
  once.
  """

  def __init__(self, mesh: jax.sharding.Mesh, numbers: int):
    self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    self._local = len(mesh.local_devices)
    self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
    self._sent: jax.Array | None = None
    self._shape = (jax.process_count(), self._local, numbers)

  def beat(self, mine: list[float]) -> np.ndarray:
    """Give this process's numbers; returns float32[processes, numbers] of the beat before."""
    if jax.process_count() == 1:
      return np.array([mine], np.float32)
    known = np.zeros(self._shape) if self._sent is None else np.asarray(self._sent)
    rows = np.tile(np.array(mine, np.float32), (self._local, 1))
    self._sent = self._gather(jax.make_array_from_process_local_data(self._sharding, rows))
    return known.reshape(self._shape)[:, 0]
