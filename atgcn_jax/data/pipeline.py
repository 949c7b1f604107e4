"""Input pipeline over a clip store. A function of the step selects the clips of a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.tensorflow import has_tensorflow, import_tensorflow

Batch = dict[str, np.ndarray]
PREFETCH = 2  # number of pieces that are read ahead
PIECE = 512  # number of clips per read; a larger batch is read at once


@dataclass(frozen=True)
class Share:
  """Slice of every batch that this process reads: number `index` of `count` equal slices."""

  index: int = 0
  count: int = 1

  def of(self, clips: np.ndarray) -> np.ndarray:
    """Return this process's slice of a batch, whose size must be a multiple of `count`."""
    return np.split(clips, self.count)[self.index]


def batches(
  store: ClipStore,
  clips_of: Callable[[int], np.ndarray],
  start: int,
  stop: int,
  share: Share = Share(),
) -> Iterator[Batch]:
  """Return an iterator over the batches of steps start … stop - 1, which are read ahead.

  Each batch is a dict of this process's `log_mel` [b, T, F] (uint8, or float16 in dB), `peak_db`
  float32[b] and `labels` uint8[b, K]. Small batches are read several at a time. tf.data reads
  ahead, or a thread if TensorFlow is not installed.

  Args:
    store: Store of the clips.
    clips_of: Pure function from a step to the clip numbers int64[B] of the global batch.
    start: First step.
    stop: Step after the last one.
    share: Slice of each batch that this process reads.

  Raises:
    UserError: While iterating, if clips cannot be read or are not finite.
  """
  size = len(share.of(clips_of(start))) if start < stop else 1
  steps_at_once = max(1, PIECE // size)

  def read(first: int) -> Batch:
    steps = range(first, min(first + steps_at_once, stop))
    return store.read(np.concatenate([share.of(clips_of(step)) for step in steps]))

  firsts = range(start, stop, steps_at_once)
  pieces = _with_tensorflow(store, read, firsts) if has_tensorflow() else _with_thread(read, firsts)
  return (
    {name: array[first : first + size] for name, array in piece.items()}
    for piece in pieces
    for first in range(0, len(piece["labels"]), size)
  )


def _with_thread(read: Callable[[int], Batch], firsts: range) -> Iterator[Batch]:
  """Yield `read(first)` of each first step, read ahead by a thread."""
  ahead: deque[Future[Batch]] = deque()
  pool = ThreadPoolExecutor(1)
  try:
    for first in firsts:
      ahead.append(pool.submit(read, first))
      if len(ahead) > PREFETCH:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def _with_tensorflow(
  store: ClipStore, read: Callable[[int], Batch], firsts: range
) -> Iterator[Batch]:
  """Return an iterator over `read(first)` of each first step, read ahead by tf.data."""
  tf = import_tensorflow()
  signature = {
    "log_mel": tf.TensorSpec((None, *store.log_mel.shape[1:]), store.log_mel.dtype),
    "peak_db": tf.TensorSpec((None,), tf.float32),
    "labels": tf.TensorSpec((None, len(store.vocabulary)), tf.uint8),
  }
  names, specs = list(signature), list(signature.values())
  failures: list[UserError] = []

  def arrays_of(first):
    try:
      piece = read(int(first))
    except UserError as error:  # TensorFlow would log it and raise a different error.
      failures.append(error)
      return [np.empty((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for spec in specs]
    return [piece[name] for name in names]

  def checked(piece):
    if not len(piece["labels"]):
      raise failures[0]
    return piece

  def load(first):
    arrays = tf.numpy_function(arrays_of, [first], [signature[name].dtype for name in names])
    return {
      name: tf.ensure_shape(array, signature[name].shape) for name, array in zip(names, arrays)
    }

  dataset = tf.data.Dataset.range(firsts.start, firsts.stop, firsts.step)
  dataset = dataset.map(load, num_parallel_calls=1, deterministic=True).prefetch(PREFETCH)
  options = tf.data.Options()
  options.threading.private_threadpool_size = 2  # More threads would only spin.
  return map(checked, dataset.with_options(options).as_numpy_iterator())


def sequential(clips: np.ndarray, batch: int) -> tuple[Callable[[int], np.ndarray], int]:
  """Return the order of a single pass over the clips.

  The last batch is padded with repeats of the last clip, so that all batches have the same size.
  The caller drops the results after the first `len(clips)`.

  Args:
    clips: Clip numbers.
    batch: Number of clips per batch.

  Returns:
    A function from a step to its clip numbers int64[batch], and the number of batches.
  """
  count = -(-len(clips) // batch)
  padded = np.pad(clips, (0, count * batch - len(clips)), mode="edge")
  return (lambda step: padded[step * batch : (step + 1) * batch]), count
