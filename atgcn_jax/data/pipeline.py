"""tf.data over a clip store: batch t holds the clips that a function of t names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.tensorflow import import_tensorflow

Batch = dict[str, np.ndarray]
PREFETCH = 2  # pieces
PIECE = 512  # clips that are read at a time, if a batch is smaller


@dataclass(frozen=True)
class Share:
  """Which slice of every batch this process reads: the `index`-th of `count` equal ones."""

  index: int = 0
  count: int = 1

  def of(self, clips: np.ndarray) -> np.ndarray:
    """This process's slice of a batch, whose size must be a multiple of `count`."""
    return np.split(clips, self.count)[self.index]


def batches(
  store: ClipStore,
  clips_of: Callable[[int], np.ndarray],
  start: int,
  stop: int,
  share: Share = Share(),
) -> Iterator[Batch]:
  """The batches of steps start … stop - 1, read ahead by tf.data, several in a piece.

  Each is a dict of this process's `log_mel` [b, T, F] (uint8, or float16 in dB), `peak_db`
  float32[b] and `labels` uint8[b, K].

  Args:
    clips_of: step → clip numbers int64[B] of the global batch, a pure function.
    share: this process's slice.
  Raises:
    UserError: from the iterator, at the piece whose clips cannot be read or are not finite.
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
    except UserError as error:  # TensorFlow would log it, and raise an error of its own
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
  options.threading.private_threadpool_size = 2  # more would only spin
  return (
    {name: array[first : first + size] for name, array in piece.items()}
    for piece in map(checked, dataset.with_options(options).as_numpy_iterator())
    for first in range(0, len(piece["labels"]), size)
  )


def sequential(clips: np.ndarray, batch: int) -> tuple[Callable[[int], np.ndarray], int]:
  """These clips in order, once: (step → clip numbers int64[batch], number of batches).

  The last batch is filled up with repeats of its last clip, so that all have one shape; who uses
  it drops what lies beyond `len(clips)`.
  """
  count = -(-len(clips) // batch)
  padded = np.pad(clips, (0, count * batch - len(clips)), mode="edge")
  return (lambda step: padded[step * batch : (step + 1) * batch]), count
