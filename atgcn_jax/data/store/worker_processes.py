"""Work spread over processes of this machine."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any

from atgcn_jax.errors import WorkFailed

Work = Callable[[Sequence], list]


def in_processes(
  work: Work, chunks: Iterable[Sequence], processes: int
) -> Generator[list[Any], None, None]:
  """`map(work, chunks)` over spawned processes, a bounded number ahead.

  Where a process is killed, by what it works on or for want of memory, the members of the chunks
  that were under way are tried one by one until one is killed again: its result is None.
  Close the generator to end the processes; they also end with this process, however that ends.

  Args:
    work: a picklable function from a chunk to a list, one result a member; JAX gives it one CPU
      device.
    chunks: what it is called with, taken as they are needed.
  Raises:
    WorkFailed: if no process can be started. What `work` raises is raised here.
  """
  unseen = iter(chunks)
  again: collections.deque[Sequence] = collections.deque()  # to be done before those
  waiting: collections.deque[tuple[Sequence, Future | None]] = collections.deque()
  while True:
    pool = _pool(processes)
    try:
      while True:
        while len(waiting) < 4 * processes:
          chunk = again.popleft() if again else next(unseen, None)
          if chunk is None:
            break
          waiting.append((chunk, None))  # first, since to submit may fail
          waiting[-1] = chunk, _submit(pool, work, chunk)
        if not waiting:
          return
        future = waiting[0][1]
        assert future is not None
        result = future.result()
        waiting.popleft()
        yield result
    except BrokenProcessPool:
      pass
    finally:
      pool.shutdown(wait=True, cancel_futures=True)
    found = False
    while waiting and not found:
      chunk, future = waiting.popleft()
      if future is not None and future.done() and not future.exception():
        yield future.result()
      else:
        results = list(_one_by_one(work, chunk))
        found = None in results
        yield results
    again.extendleft(chunk for chunk, _ in reversed(waiting))
    waiting.clear()


def _one_by_one(work: Work, chunk: Sequence) -> Iterator[Any]:
  """The results of a chunk's members, each worked on alone; None for one that kills its process."""
  pool = None
  try:
    for member in chunk:
      if pool is None:
        pool = _pool(1)
        _ready(pool)
      try:
        (result,) = _submit(pool, work, [member]).result()
        yield result
      except BrokenProcessPool:
        pool.shutdown(wait=True)
        pool = None
        yield None
  finally:
    if pool is not None:
      pool.shutdown(wait=True, cancel_futures=True)


def _ready(pool: ProcessPoolExecutor) -> None:
  """Wait for a process without work."""
  try:
    _submit(pool, list, ()).result()
  except BrokenProcessPool:
    raise WorkFailed(
      "worker processes are killed before they have work; free memory, or take fewer --workers"
    ) from None


def _pool(processes: int) -> ProcessPoolExecutor:
  spawn = multiprocessing.get_context("spawn")  # JAX and threads do not survive a fork
  return ProcessPoolExecutor(processes, spawn, initializer=_start)


def _submit(pool: ProcessPoolExecutor, work: Work, chunk: Sequence) -> Future:
  with _signals_held():  # to submit may start a process
    return pool.submit(work, chunk)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
  """Processes started within never see Ctrl-C and SIGTERM: to stop them is their parent's part."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
  """Keep off the accelerator, and end with the parent."""
  import jax

  # JAX is imported with this module's callers, too late for its environment variables.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 1)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def end_with_parent():
    parent.join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()
