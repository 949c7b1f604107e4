"""The holder of the lock on a run directory, and whether that process is alive."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import socket
import uuid
from typing import Any

from atgcn_jax.runtime.buckets import in_bucket, read_object

NAME = "training.lock"
Seen = tuple[bytes, int]  # content and version of a lock
held_here: set[bytes] = set()  # contents of the locks that this process holds


def address_of(workdir: str | os.PathLike) -> str:
  """Return the address of the lock of a run directory in a bucket."""
  return f"{os.fspath(workdir).rstrip('/')}/{NAME}"


def read_lock(workdir: str | os.PathLike) -> Seen | None:
  """Return the content and the version of a lock, or None. Each renewal changes the version."""
  if in_bucket(workdir):
    return read_object(address_of(workdir))
  try:
    with open(os.path.join(workdir, NAME), "rb") as file:
      return file.read(), os.fstat(file.fileno()).st_mtime_ns
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return None


def _holder(found: Seen | None) -> dict[str, Any]:
  """Return the record of the holder in a lock, or an empty dict if there is none."""
  try:
    holder = json.loads(found[0]) if found else {}
  except ValueError:
    return {}
  known = {"host", "process", "since", "machine", "started", "system_lock"}
  return holder if isinstance(holder, dict) and known <= holder.keys() else {}


def own_record(*, has_system_lock: bool) -> bytes:
  """Return the content of a new lock of this process. It is unique."""
  now = datetime.datetime.now(datetime.UTC)
  record = {
    "host": socket.gethostname(),
    "process": os.getpid(),
    "since": f"{now:%Y-%m-%d %H:%M:%S} UTC",
    "machine": _machine(),
    "started": _started(os.getpid()),
    "system_lock": has_system_lock,
    "token": uuid.uuid4().hex,
  }
  return json.dumps(record).encode()


def _machine() -> list[str]:
  """Return the boot id of this machine and its PID namespace, or an empty list if unknown."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [boot, os.readlink("/proc/self/ns/pid")]
  except OSError:
    return []


def _is_here(holder: dict[str, Any]) -> bool:
  """Return whether the holder runs on this kernel, in any container."""
  return bool(holder["machine"]) and holder["machine"][:1] == _machine()[:1]


def is_given_up(found: Seen | None, *, has_system_lock: bool) -> bool:
  """Return whether the holder of a lock has released its operating-system lock.

  Args:
    found: The lock.
    has_system_lock: Whether this process has the operating-system lock now. If it does, a holder on
      the same machine does not.
  """
  holder = _holder(found)
  return bool(holder) and has_system_lock and holder["system_lock"] and _is_here(holder)


def _started(process: int) -> str:
  """Return the start time of a process on this machine, or an empty string if it does not run.

  Source:
    proc_pid_stat(5).
  """
  try:
    stat = pathlib.Path(f"/proc/{process}/stat").read_text()
  except OSError:
    return ""
  state, *fields = stat.rpartition(")")[2].split()
  return "" if state in "ZX" else fields[18]


def is_alive(found: Seen | None) -> bool | None:
  """Return whether the holder of a lock is alive, or None if this machine cannot know."""
  holder = _holder(found)
  if found is None or not holder:
    return False
  if not holder["machine"] or holder["machine"] != _machine():
    return None
  if holder["process"] == os.getpid():
    return found[0] in held_here
  return bool(holder["started"]) and _started(holder["process"]) == holder["started"]


def holder_text(found: Seen | None) -> str:
  """Return a description of the holder of a lock, for messages."""
  holder = _holder(found)
  return f"process {holder['process']} on {holder['host']}" if holder else "another process"


def refusal(workdir: str | os.PathLike, found: Seen | None) -> str:
  """Return the message for a run directory that another process holds."""
  holder = _holder(found)
  since = f" since {holder['since']}" if holder else ""
  return (
    f"{workdir}: {holder_text(found)} has been training here{since}; wait for it, stop it, or use "
    "another folder"
  )
