"""Journals of unfinished work: appended JSON lines, locked by one process at a time."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from atgcn_jax.runtime.file_locks import is_still_at, lock_file


class Busy(Exception):  # noqa: N818 (a state of a file)
  """Another process holds the lock."""


def line(record: dict[str, Any]) -> bytes:
  """Return the line of a record in a journal."""
  return json.dumps(record).encode() + b"\n"


def records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Yield the records up to the first line that is none, each with its size in the key `bytes`."""
  if not path.is_file():
    return
  with path.open("rb") as file:
    for text in file:
      try:
        record = json.loads(text)
      except (ValueError, RecursionError):
        return
      if not text.endswith(b"\n") or not isinstance(record, dict):
        return
      yield record | {"bytes": len(text)}


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool, make_folder: bool = False) -> Iterator[None]:
  """Hold the lock of a file while the context is active, if the file system supports locks.

  Args:
    path: Path of the lock file. It is created if needed.
    wait: Whether to wait for another process that holds the lock, rather than raise `Busy`.
    make_folder: Whether to create the folder of the file if needed.

  Raises:
    Busy: If another process holds the lock and `wait` is false.
    OSError: If the file cannot be written.
  """
  while True:
    if make_folder:
      path.parent.mkdir(parents=True, exist_ok=True)
    try:
      lock = path.open("a")
    except FileNotFoundError:  # The process that held the lock has just removed the folder.
      if make_folder:
        continue
      raise
    with lock:
      try:
        lock_file(lock.fileno(), wait=wait)
      except BlockingIOError:
        raise Busy from None
      if is_still_at(lock.fileno(), path):
        yield
        return
