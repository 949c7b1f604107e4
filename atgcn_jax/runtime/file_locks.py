"""Locks on open files, if the file system supports them."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib


def lock_file(descriptor: int, *, wait: bool) -> bool:
  """Acquire the exclusive lock on an open file. It is released when the file is closed.

  Args:
    descriptor: Descriptor of a file that is open for writing, which NFS requires.
    wait: Whether to wait for another process that has the lock.

  Returns:
    True if the lock is acquired. False if the file system does not support locks.

  Raises:
    BlockingIOError: If another open file has the lock and `wait` is false.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
      raise
    return False
  return True


def is_still_at(descriptor: int, path: pathlib.Path) -> bool:
  """Return whether an open file is still the file at `path`, and was not removed or replaced."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False
