"""Locks on open files, as far as the file system has them."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib


def lock_file(descriptor: int, *, wait: bool) -> bool:
  """Take the exclusive lock on an open file; it is released when the file is closed.

  Args:
    descriptor: of a file open for writing, as NFS demands.
    wait: whether to wait for another process that has the lock.
  Returns:
    Whether the file system has locks; without them nothing is taken.
  Raises:
    BlockingIOError: another open file has the lock, and `wait` is false.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except OSError as error:
    if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
      raise
    return False
  return True


def is_still_at(descriptor: int, path: pathlib.Path) -> bool:
  """Whether the open file is the one at this path: it may have been removed since."""
  try:
    return os.path.samestat(os.fstat(descriptor), os.stat(path))
  except FileNotFoundError:
    return False
