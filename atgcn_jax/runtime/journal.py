"""Journals of unfinished work: JSON lines that are appended, held by one process at a time."""

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
  """A record as it stands in a journal."""
  return json.dumps(record).encode() + b"\n"


def records(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The records from the front up to the first torn line, each with its size in `bytes`."""
  if not path.is_file():
    return
  with path.open("rb") as file, contextlib.suppress(ValueError):
    for text in file:
      if not text.endswith(b"\n"):
        return
      yield json.loads(text) | {"bytes": len(text)}


@contextlib.contextmanager
def locked(path: pathlib.Path, *, wait: bool, make_folder: bool = False) -> Iterator[None]:
  """Hold the lock of a file, which is made where absent, on systems that know locks.

  Args:
    wait: whether to wait for another process that holds it, or to refuse.
    make_folder: whether to make the file's folder where it is absent.
  Raises:
    Busy: if another process holds it.
    OSError: if the file cannot be written.
  """
  while True:
    if make_folder:
      path.parent.mkdir(parents=True, exist_ok=True)
    try:
      lock = path.open("a")
    except FileNotFoundError:  # the process that held it has just removed the folder
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
