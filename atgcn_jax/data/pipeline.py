"""tf.data input pipeline over a clip store. A function of the step selects the clips of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.tensorflow import import_tensorflow

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
  """Return an iterator over the batches of steps start … stop - 1, prefetched by tf.data.

  Each batch is a dict of this process's `log_mel` [b, T, F] (uint8, or float16 in dB), `peak_db`
  float32[b] and `labels` uint8[b, K]. Small batches are read several at a time.

  Args:
    store: Store of the clips.
    clips_of: Pure function from a step to the clip numbers int64[B] of the global batch.
    start: First step.
    stop: Step after the last one.
    share: Slice of each batch that this process reads.

  Raises:
    UserError: While iterating, if clips cannot be read or are not finite.
  """
  tf = import_tensorflow()
  frames_and_bands = store.log_mel.shape[1:]
  signature = {
    "log_mel": tf.TensorSpec((None, *frames_and_bands), store.log_mel.dtype),
    "peak_db": tf.TensorSpec((None,), tf.float32),
    "labels": tf.TensorSpec((None, len(store.vocabulary)), tf.uint8),
  }
  names, specs = list(signature), list(signature.values())
  size = len(share.of(clips_of(start))) if start < stop else 1
  steps_at_once = max(1, PIECE // size)
  failures: list[UserError] = []

  def read(first):
    steps = range(first, min(first + steps_at_once, stop))
    try:
      piece = store.read(np.concatenate([share.of(clips_of(step)) for step in steps]))
    except UserError as error:  # TensorFlow would log it and raise a different error.
      failures.append(error)
      return [np.empty((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for spec in specs]
    return [piece[name] for name in names]

  def checked(piece):
    if not len(piece["labels"]):
      raise failures[0]
    return piece

  def load(first):
    arrays = tf.numpy_function(read, [first], [signature[name].dtype for name in names])
    return {
      name: tf.ensure_shape(array, signature[name].shape) for name, array in zip(names, arrays)
    }

  dataset = tf.data.Dataset.range(start, stop, steps_at_once)
  dataset = dataset.map(load, num_parallel_calls=1, deterministic=True).prefetch(PREFETCH)
  options = tf.data.Options()
  options.threading.private_threadpool_size = 2  # More threads would only spin.
  return (
    {name: array[first : first + size] for name, array in piece.items()}
    for piece in map(checked, dataset.with_options(options).as_numpy_iterator())
    for first in range(0, len(piece["labels"]), size)
  )


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
