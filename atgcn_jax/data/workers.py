"""Work spread over processes of this machine."""

from __future__ import annotations

import collections
import concurrent.futures.process
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from tqdm import tqdm

from atgcn_jax.errors import WorkFailed


def in_processes(
  work: Callable[[list], Any], chunks: list[list], processes: int
) -> Generator[Any, None, None]:
  """`map(work, chunks)` over spawned processes, a bounded number ahead, with a progress bar.

  Close the generator to end the processes; they also end with this process, however that ends.

  Args:
    work: a picklable function; JAX gives it one CPU device.
    chunks: what it is called with; the bar counts the members.
  Raises:
    WorkFailed: if a process was killed. What `work` raises is raised here.
  """
  spawn = multiprocessing.get_context("spawn")  # JAX and threads do not survive a fork
  pool = concurrent.futures.ProcessPoolExecutor(processes, spawn, initializer=_start)
  todo = iter(chunks)
  try:
    with tqdm(total=sum(map(len, chunks)), unit="clip", desc="preparing", disable=None) as bar:
      with _signals_held():  # the first tasks start all processes
        waiting = collections.deque(
          (len(chunk), pool.submit(work, chunk)) for chunk in itertools.islice(todo, 4 * processes)
        )
      while waiting:
        members, future = waiting.popleft()
        result = future.result()
        waiting.extend(
          (len(chunk), pool.submit(work, chunk)) for chunk in itertools.islice(todo, 1)
        )
        yield result
        bar.update(members)
  except concurrent.futures.process.BrokenProcessPool:
    raise WorkFailed(
      "a worker process was killed, perhaps for want of memory; try again with fewer --workers"
    ) from None
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


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
