"""Parallel work in several processes of this machine."""

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
  """Compute `map(work, chunks)` in spawned processes, a bounded number of chunks ahead.

  If a process is killed, by its input or for lack of memory, the items of the pending chunks are
  tried one by one until the process of an item is killed again. The result of that item is None.
  Close the generator to end the processes. They also end when this process ends in any way.

  Args:
    work: Picklable function from a chunk to a list with one result per item. It runs with a
      single CPU device for JAX.
    chunks: Arguments of `work`, taken when they are needed.
    processes: Number of processes.

  Yields:
    The result of `work` for each chunk, in order.

  Raises:
    WorkFailed: If no process can be started. Exceptions of `work` are raised here too.
  """
  unseen = iter(chunks)
  again: collections.deque[Sequence] = collections.deque()  # processed before `unseen`
  waiting: collections.deque[tuple[Sequence, Future | None]] = collections.deque()
  while True:
    pool = _pool(processes)
    try:
      while True:
        while len(waiting) < 4 * processes:
          chunk = again.popleft() if again else next(unseen, None)
          if chunk is None:
            break
          waiting.append((chunk, None))  # Added first because submitting may fail.
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
    any_killed = False
    while waiting and not any_killed:
      chunk, future = waiting.popleft()
      if future is not None and future.done() and not future.exception():
        yield future.result()
      else:
        results = list(_one_by_one(work, chunk))
        any_killed = None in results
        yield results
    again.extendleft(chunk for chunk, _ in reversed(waiting))
    waiting.clear()


def _one_by_one(work: Work, chunk: Sequence) -> Iterator[Any]:
  """Yield the result of each item of a chunk, in a call of its own; None if its process dies."""
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
  """Wait until a process of the pool has started."""
  try:
    _submit(pool, list, ()).result()
  except BrokenProcessPool:
    raise WorkFailed(
      "worker processes are killed at their start; free memory or use fewer --workers"
    ) from None


def _pool(processes: int) -> ProcessPoolExecutor:
  spawn = multiprocessing.get_context("spawn")  # JAX and threads do not survive a fork.
  return ProcessPoolExecutor(processes, spawn, initializer=_start)


def _submit(pool: ProcessPoolExecutor, work: Work, chunk: Sequence) -> Future:
  with _signals_held():  # Submitting may start a process.
    return pool.submit(work, chunk)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
  """Block SIGINT and SIGTERM in processes that start in this context. The parent stops them."""
  before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
  """Set up a worker process: use only the CPU, and end when the parent ends."""
  import jax

  # The modules that call this one have imported JAX, so environment variables have no effect.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 1)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def end_with_parent():
    parent.join()
    os._exit(1)

  threading.Thread(target=end_with_parent, daemon=True).start()
