"""The lock on a run directory: one process at a time writes checkpoints in it.

`training.lock` names the holder: its host, process and start. On a disk the holder also has the
system's lock on the file, which ends with the process; in a bucket the object is only replaced
where it has the generation that was read. The holder renews the lock every BEAT_SECONDS. A holder
on this machine is looked up by its process; one on another machine counts as dead once its lock has
not been renewed for DEAD_AFTER seconds.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from atgcn_jax.buckets import delete_object, in_bucket, read_object, write_object
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.file_locks import is_still_at, lock_file
from atgcn_jax.runs.processes import first_only
from atgcn_jax.training.checkpoint import writing

NAME = "training.lock"
BEAT_SECONDS = 10
DEAD_AFTER = 60  # seconds
POLL_SECONDS = 1  # between two looks at the lock of another machine's process
_own: set[bytes] = set()  # the locks that this process holds


class FolderLock:
  """A lock that this process holds, renewed by a thread until `release`."""

  def __init__(self, workdir: str | os.PathLike):
    """Take the lock.

    Raises:
      UserError: naming the process that holds it.
      WorkFailed: if the file cannot be written.
    """
    self._workdir = workdir
    self._lock = (_BucketLock if in_bucket(workdir) else _DiskLock)(workdir)
    self._is_ours, self._renewed = True, time.time()
    self._turn, self._end = threading.Lock(), threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Refuse to write on where another process has taken the lock; nearly always costs nothing.

    That happens to a process that was suspended, or cut off from the file system, for longer than
    DEAD_AFTER.

    Raises:
      WorkFailed: naming the process that has taken it.
    """
    if time.time() - self._renewed > 2 * BEAT_SECONDS:
      self._renew()
    if not self._is_ours:
      raise WorkFailed(
        f"{self._workdir}: {_described(_read(self._workdir))} has taken the folder over while this "
        "process did not respond; stopped, and nothing more was written"
      )

  def release(self) -> None:
    """Give the lock back; it is deleted if it is still this process's."""
    self._end.set()
    self._thread.join()
    with contextlib.suppress(OSError, UserError):  # the next process sees that this one is gone
      self._lock.release()

  def _beat(self) -> None:
    while not self._end.wait(BEAT_SECONDS):
      self._renew()

  def _renew(self) -> None:
    with self._turn:
      with contextlib.suppress(OSError, UserError):  # a service or a disk may come back
        self._is_ours = self._is_ours and self._lock.renew()
      self._renewed = time.time()


class _DiskLock:
  """The lock as a file."""

  def __init__(self, workdir: str | os.PathLike):
    self._path = pathlib.Path(workdir, NAME)
    is_taken = False
    while not is_taken:
      with writing(workdir, NAME):
        self._descriptor, has_locks = _opened(self._path, workdir)
      try:
        _refuse_if_alive(workdir, has_system_lock=has_locks)
        is_taken = is_still_at(self._descriptor, self._path)  # or its holder has just deleted it
        if is_taken:
          self._write(workdir, has_system_lock=has_locks)
      except BaseException:
        os.close(self._descriptor)
        raise
      if not is_taken:
        os.close(self._descriptor)
    _own.add(self._content)

  def _write(self, workdir: str | os.PathLike, *, has_system_lock: bool) -> None:
    self._content = _own_record(has_system_lock=has_system_lock)
    with writing(workdir, NAME):
      os.ftruncate(self._descriptor, 0)
      os.pwrite(self._descriptor, self._content, 0)
      os.fsync(self._descriptor)
      if not has_system_lock:  # of two that have written at once, one remains
        time.sleep(POLL_SECONDS)
      if not self.renew():
        raise UserError(_refusal(workdir, _read(workdir)))

  def renew(self) -> bool:
    """Set the file's time; whether it is still this process's."""
    try:
      if self._path.read_bytes() != self._content:
        return False
    except FileNotFoundError:
      return False
    os.utime(self._descriptor)
    return True

  def release(self) -> None:
    """Delete the file if it is this process's, and give up the system's lock."""
    _own.discard(self._content)
    try:
      if self.renew():
        self._path.unlink()
    finally:
      os.close(self._descriptor)


class _BucketLock:
  """The lock as an object."""

  def __init__(self, workdir: str | os.PathLike):
    self._address, self._content = _address(workdir), _own_record(has_system_lock=False)
    generation = _refuse_if_alive(workdir, has_system_lock=False)
    self._generation = write_object(self._address, self._content, generation or 0)
    if self._generation is None:
      raise UserError(_refusal(workdir, _read(workdir)))
    _own.add(self._content)

  def renew(self) -> bool:
    """Write the object again; whether it was still this process's."""
    generation = write_object(self._address, self._content, self._generation or 0)
    if generation is None:
      found = read_object(self._address)
      if found is None or found[0] != self._content:
        return False
      generation = found[1]  # an answer was lost, not the lock
    self._generation = generation
    return True

  def release(self) -> None:
    """Delete the object if it is this process's."""
    _own.discard(self._content)
    delete_object(self._address, self._generation or 0)


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[Callable[[], None]]:
  """Hold the lock on a run directory; the first of many processes does, for all.

  Yields `FolderLock.check`, in processes other than the first what does nothing.

  Raises:
    UserError: naming the process that holds it.
    WorkFailed: if the folder or the lock cannot be written.
  """
  taken: list[FolderLock] = []
  first_only(lambda: taken.append(FolderLock(workdir)))
  try:
    yield taken[0].check if taken else lambda: None
  finally:
    for lock in taken:
      lock.release()


def refuse_if_held(workdir: str | os.PathLike) -> None:
  """Refuse a folder in which another process is known to train; writes nothing.

  What takes time to know is left to `held`.

  Raises:
    UserError: naming the process.
  """
  has_system_lock = False
  if not in_bucket(workdir):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
      descriptor = os.open(pathlib.Path(workdir, NAME), os.O_RDWR)
      try:
        has_system_lock = lock_file(descriptor, wait=False)
      except BlockingIOError:
        raise UserError(_refusal(workdir, _read(workdir))) from None
      finally:
        os.close(descriptor)
  found = _read(workdir)
  if not _is_given_up(found, has_system_lock=has_system_lock) and _is_alive(found):
    raise UserError(_refusal(workdir, found))


def _opened(path: pathlib.Path, workdir: str | os.PathLike) -> tuple[int, bool]:
  """The file, open and with the system's lock on it; whether the file system has such locks.

  Raises:
    UserError: if another process has the lock.
  """
  while True:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      has_locks = lock_file(descriptor, wait=False)
      if is_still_at(descriptor, path):
        return descriptor, has_locks
    except BlockingIOError:
      os.close(descriptor)
      raise UserError(_refusal(workdir, _read(workdir))) from None
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)  # its holder has just deleted it


def _refuse_if_alive(workdir: str | os.PathLike, *, has_system_lock: bool) -> int | None:
  """Refuse a lock whose holder is alive; returns the version of one whose holder is not, or None.

  Args:
    has_system_lock: as `_is_given_up` takes it.
  """
  found = _read(workdir)
  if _is_given_up(found, has_system_lock=has_system_lock):
    return found and found[1]
  alive = _is_alive(found)
  if alive is None:
    warnings.warn(
      f"{workdir}: {_described(found)} has left a lock; waiting {DEAD_AFTER} s to see whether it "
      "is renewed",
      stacklevel=2,
    )
    end = time.monotonic() + DEAD_AFTER
    while not alive and time.monotonic() < end:
      time.sleep(POLL_SECONDS)
      if (now := _read(workdir)) is None:
        return None
      alive = now != found
  if alive:
    raise UserError(_refusal(workdir, found))
  return found and found[1]


def _address(workdir: str | os.PathLike) -> str:
  return f"{os.fspath(workdir).rstrip('/')}/{NAME}"


def _read(workdir: str | os.PathLike) -> tuple[bytes, int] | None:
  """Content and version of a lock, which each renewal changes; None where there is none."""
  if in_bucket(workdir):
    return read_object(_address(workdir))
  try:
    with open(os.path.join(workdir, NAME), "rb") as file:
      return file.read(), os.fstat(file.fileno()).st_mtime_ns
  except (FileNotFoundError, NotADirectoryError, PermissionError):
    return None


def _holder(found: tuple[bytes, int] | None) -> dict[str, Any]:
  """What a lock says of its holder; empty where it says nothing."""
  try:
    holder = json.loads(found[0]) if found else {}
  except ValueError:
    return {}
  known = {"host", "process", "since", "machine", "started", "system_lock"}
  return holder if isinstance(holder, dict) and known <= holder.keys() else {}


def _own_record(*, has_system_lock: bool) -> bytes:
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
  """This start of this machine, and which of its sets of process ids; empty where unknown."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [boot, os.readlink("/proc/self/ns/pid")]
  except OSError:
    return []


def _is_here(holder: dict[str, Any]) -> bool:
  """Whether a holder's locks are those of this kernel, in whichever container it runs."""
  return bool(holder["machine"]) and holder["machine"][:1] == _machine()[:1]


def _is_given_up(found: tuple[bytes, int] | None, *, has_system_lock: bool) -> bool:
  """Whether the holder of a lock no longer has the system's lock on it.

  Args:
    has_system_lock: whether this process has that now: one of the same machine has not.
  """
  holder = _holder(found)
  return bool(holder) and has_system_lock and holder["system_lock"] and _is_here(holder)


def _started(process: int) -> str:
  """When a process of this machine started; empty where there is none.

  Source: proc_pid_stat(5).
  """
  try:
    stat = pathlib.Path(f"/proc/{process}/stat").read_text()
  except OSError:
    return ""
  state, *fields = stat.rpartition(")")[2].split()
  return "" if state in "ZX" else fields[18]


def _is_alive(found: tuple[bytes, int] | None) -> bool | None:
  """Whether the holder of a lock lives; None where this machine cannot know."""
  holder = _holder(found)
  if found is None or not holder:
    return False
  if not holder["machine"] or holder["machine"] != _machine():
    return None
  if holder["process"] == os.getpid():
    return found[0] in _own
  return bool(holder["started"]) and _started(holder["process"]) == holder["started"]


def _described(found: tuple[bytes, int] | None) -> str:
  holder = _holder(found)
  return f"process {holder['process']} on {holder['host']}" if holder else "another process"


def _refusal(workdir: str | os.PathLike, found: tuple[bytes, int] | None) -> str:
  holder = _holder(found)
  since = f" since {holder['since']}" if holder else ""
  return (
    f"{workdir}: {_described(found)} has been training here{since}; wait for it, stop it, or use "
    "another folder"
  )
