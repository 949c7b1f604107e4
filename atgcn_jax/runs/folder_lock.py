"""The lock on a run directory: only one process at a time writes checkpoints in it.

`training.lock` names the holder: its host, process and start time. On a disk, the holder also has
an operating-system lock on the file, which ends with the process. In a bucket, the object is only
replaced if its generation has not changed since it was read. The holder renews the lock every
BEAT_SECONDS. A holder on this machine is checked by its process id. A holder on another machine
counts as dead if it does not renew the lock for DEAD_AFTER seconds.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from atgcn_jax.errors import UserError, WorkFailed, reason
from atgcn_jax.runs.lock_holder import (
  NAME,
  address_of,
  held_here,
  holder_text,
  is_alive,
  is_given_up,
  own_record,
  read_lock,
  refusal,
)
from atgcn_jax.runtime.buckets import delete_object, in_bucket, read_object, write_object
from atgcn_jax.runtime.file_locks import is_still_at, lock_file
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.runtime.whole_files import write_at
from atgcn_jax.training.checkpoint import report_write_failures

BEAT_SECONDS = 10
DEAD_AFTER = 60  # seconds
POLL_SECONDS = 1  # between two reads of a lock held on another machine


class FolderLock:
  """A lock held by this process. A thread renews it until `release`."""

  def __init__(self, workdir: str | os.PathLike):
    """Take the lock.

    Raises:
      UserError: If another process holds the lock. The message names it.
      WorkFailed: If the lock cannot be written.
    """
    self._workdir = workdir
    self._lock = (_BucketLock if in_bucket(workdir) else _DiskLock)(workdir)
    self._is_ours, self._renewed = True, time.time()
    self._turn, self._end = threading.Lock(), threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raise if another process has taken the lock. This is cheap enough for each step.

    Another process can take the lock if this process was suspended, or disconnected from the file
    system, for longer than DEAD_AFTER.

    Raises:
      WorkFailed: If another process has taken the lock. The message names it.
    """
    if time.time() - self._renewed > 2 * BEAT_SECONDS:
      self._renew()
    if not self._is_ours:
      other = holder_text(read_lock(self._workdir))
      raise WorkFailed(
        f"{self._workdir}: {other} took over the folder while this process did not respond; "
        "stopped without writing further"
      )

  def release(self) -> None:
    """Release the lock, and delete it if this process still holds it."""
    self._end.set()
    self._thread.join()
    with contextlib.suppress(OSError, UserError):  # the next process detects that this one ended
      self._lock.release()

  def _beat(self) -> None:
    while not self._end.wait(BEAT_SECONDS):
      self._renew()

  def _renew(self) -> None:
    with self._turn:
      with contextlib.suppress(OSError, UserError):  # a disk or a service may recover
        self._is_ours = self._is_ours and self._lock.renew()
      self._renewed = time.time()


class _DiskLock:
  """A lock on a file."""

  def __init__(self, workdir: str | os.PathLike):
    self._path = pathlib.Path(workdir, NAME)
    is_taken = False
    while not is_taken:
      with report_write_failures(workdir, NAME):
        self._descriptor, has_locks = _opened(self._path, workdir)
      try:
        _refuse_if_alive(workdir, has_system_lock=has_locks)
        is_taken = is_still_at(self._descriptor, self._path)  # else its holder just deleted it
        if is_taken:
          self._write(workdir, has_system_lock=has_locks)
      except BaseException:
        os.close(self._descriptor)
        raise
      if not is_taken:
        os.close(self._descriptor)
    held_here.add(self._content)

  def _write(self, workdir: str | os.PathLike, *, has_system_lock: bool) -> None:
    self._content = own_record(has_system_lock=has_system_lock)
    with report_write_failures(workdir, NAME):
      os.ftruncate(self._descriptor, 0)
      write_at(self._descriptor, self._content, 0)
      os.fsync(self._descriptor)
      if not has_system_lock:  # if two processes write at once, only the last one holds the lock
        time.sleep(POLL_SECONDS)
      if not self.renew():
        raise UserError(refusal(workdir, read_lock(workdir)))

  def renew(self) -> bool:
    """Update the file's time, and return whether this process still holds the lock."""
    try:
      if self._path.read_bytes() != self._content:
        return False
    except FileNotFoundError:
      return False
    os.utime(self._descriptor)
    return True

  def release(self) -> None:
    """Delete the file if this process holds the lock, and release the operating-system lock."""
    held_here.discard(self._content)
    try:
      if self.renew():
        self._path.unlink()
    finally:
      os.close(self._descriptor)


class _BucketLock:
  """A lock on an object in a bucket."""

  def __init__(self, workdir: str | os.PathLike):
    self._address, self._content = address_of(workdir), own_record(has_system_lock=False)
    generation = _refuse_if_alive(workdir, has_system_lock=False)
    self._generation = write_object(self._address, self._content, generation or 0)
    if self._generation is None:
      raise UserError(refusal(workdir, read_lock(workdir)))
    held_here.add(self._content)

  def renew(self) -> bool:
    """Write the object again, and return whether this process still holds the lock."""
    generation = write_object(self._address, self._content, self._generation or 0)
    if generation is None:
      found = read_object(self._address)
      if found is None or found[0] != self._content:
        return False
      generation = found[1]  # only the response to an earlier write was lost
    self._generation = generation
    return True

  def release(self) -> None:
    """Delete the object if this process holds the lock."""
    held_here.discard(self._content)
    delete_object(self._address, self._generation or 0)


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[Callable[[], None]]:
  """Hold the lock on a run directory. Process 0 holds it for all processes.

  Yields:
    `FolderLock.check` in process 0, and a function that does nothing in other processes.

  Raises:
    UserError: If another process holds the lock. The message names it.
    WorkFailed: If the folder or the lock cannot be written.
  """
  taken: list[FolderLock] = []
  first_only(lambda: taken.append(FolderLock(workdir)))
  try:
    yield taken[0].check if taken else lambda: None
  finally:
    for lock in taken:
      lock.release()


def refuse_if_held(workdir: str | os.PathLike) -> None:
  """Refuse a folder in which another process is known to train, without writing anything.

  If the state of the holder can only be found by waiting, this returns and `held` waits.

  Raises:
    UserError: If another process holds the lock. The message names it.
  """
  has_system_lock = False
  if not in_bucket(workdir):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
      descriptor = os.open(pathlib.Path(workdir, NAME), os.O_RDWR)
      try:
        has_system_lock = lock_file(descriptor, wait=False)
      except BlockingIOError:
        raise UserError(refusal(workdir, read_lock(workdir))) from None
      finally:
        os.close(descriptor)
  found = read_lock(workdir)
  if not is_given_up(found, has_system_lock=has_system_lock) and is_alive(found):
    raise UserError(refusal(workdir, found))


def _opened(path: pathlib.Path, workdir: str | os.PathLike) -> tuple[int, bool]:
  """Open the file, and lock it if the file system supports locks.

  Returns:
    The file descriptor, and whether the file system supports locks.

  Raises:
    UserError: If the folder cannot be made, or another process holds the lock.
  """
  while True:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
      raise UserError(
        f"{workdir}: this folder cannot be made ({reason(error)}); choose another"
      ) from error
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      has_locks = lock_file(descriptor, wait=False)
      if is_still_at(descriptor, path):
        return descriptor, has_locks
    except BlockingIOError:
      os.close(descriptor)
      raise UserError(refusal(workdir, read_lock(workdir))) from None
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)  # its holder just deleted it; try again


def _refuse_if_alive(workdir: str | os.PathLike, *, has_system_lock: bool) -> int | None:
  """Refuse a lock whose holder is alive.

  Args:
    workdir: The run directory.
    has_system_lock: See `is_given_up`.

  Returns:
    The version of a lock whose holder is dead, or None if there is no lock.

  Raises:
    UserError: If the holder is alive.
  """
  found = read_lock(workdir)
  if is_given_up(found, has_system_lock=has_system_lock):
    return found and found[1]
  alive = is_alive(found)
  if alive is None:
    warnings.warn(
      f"{workdir}: locked by {holder_text(found)}; waiting up to {DEAD_AFTER} s to see whether it "
      "renews the lock",
      stacklevel=2,
    )
    end = time.monotonic() + DEAD_AFTER
    while not alive and time.monotonic() < end:
      time.sleep(POLL_SECONDS)
      if (now := read_lock(workdir)) is None:
        return None
      alive = now != found
  if alive:
    raise UserError(refusal(workdir, found))
  return found and found[1]
