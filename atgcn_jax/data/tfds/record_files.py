"""Readers of batches of log-mels from the record files of a TFDS dataset."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from atgcn_jax.errors import UserError, reason
from atgcn_jax.runtime.tensorflow import import_tensorflow

BLOCK = 128  # number of clips per read of a TFRecord file
BLOCKS_KEPT = 128  # number of cached blocks
READERS = 8  # number of reader threads
HEADER, FOOTER = 12, 4  # number of bytes of a TFRecord before and after its content


@dataclass(frozen=True)
class RandomRecords:
  """Log-mels [N, T, F] in array_record files, with random access.

  Attributes:
    path: Folder of the dataset, for messages.
    source: TFDS data source of undecoded records.
    shape: (N, T, F).
    dtype: Type of the log-mels.
  """

  path: str
  source: Any
  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, clips: np.ndarray) -> np.ndarray:
    """Return the log-mels [B, T, F] of the given clips, in the given order.

    Raises:
      IndexError: If a clip is out of bounds.
      UserError: If a record is damaged.
    """
    _check_bounds(clips := np.asarray(clips), self.shape[0])
    try:
      records = self.source.__getitems__(clips.tolist())
      return decoded(records, self.shape[1:], self.dtype)
    except (ValueError, RuntimeError, OSError) as error:
      raise UserError(
        f"{self.path}: a record cannot be read ({reason(error)}); copy or write the dataset again"
      ) from error


@dataclass(frozen=True)
class SequentialRecords:
  """Log-mels [N, T, F] in TFRecord files, read in blocks of consecutive clips.

  A block is one read of a few MB. The BLOCKS_KEPT most recently used blocks are cached, so this
  class is efficient for orders with good locality, such as that of `shard_order`.

  Attributes:
    paths: Paths of the files.
    shard_starts: int64[S + 1], the first clip of each file, and N.
    ends: int64[N], byte offset of the end of each clip's record in its file.
    shape: (N, T, F).
    dtype: Type of the log-mels.
    blocks: Cached blocks by (shard, block), least recently used first.
    lock: Lock of `blocks`.
    pool: Reader threads.
  """

  paths: Sequence[str]
  shard_starts: np.ndarray
  ends: np.ndarray
  shape: tuple[int, ...]
  dtype: np.dtype
  blocks: collections.OrderedDict[tuple[int, int], Future] = field(
    default_factory=collections.OrderedDict
  )
  lock: threading.Lock = field(default_factory=threading.Lock)
  pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS))

  def __getitem__(self, clips: np.ndarray) -> np.ndarray:
    """Return the log-mels [B, T, F] of the given clips, in the given order.

    Raises:
      IndexError: If a clip is out of bounds.
      UserError: If a file is missing or damaged.
    """
    _check_bounds(clips := np.asarray(clips), self.shape[0])
    shards = np.searchsorted(self.shard_starts, clips, side="right") - 1
    blocks, within = np.divmod(clips - self.shard_starts[shards], BLOCK)
    needed = list(dict.fromkeys(zip(shards.tolist(), blocks.tolist())))
    loading = {key: self._cached(key) for key in needed}  # Start all reads before waiting for one.
    values = np.empty((len(clips), *self.shape[1:]), self.dtype)
    for (shard, block), future in loading.items():
      here = (shards == shard) & (blocks == block)
      values[here] = future.result()[within[here]]
    return values

  def _cached(self, key: tuple[int, int]) -> Future:
    with self.lock:
      if key not in self.blocks:
        self.blocks[key] = self.pool.submit(self._read, *key)
      self.blocks.move_to_end(key)
      while len(self.blocks) > BLOCKS_KEPT:
        self.blocks.popitem(last=False)
      return self.blocks[key]

  def _read(self, shard: int, block: int) -> np.ndarray:
    """Return the log-mels [n, T, F] of a block, by a single read."""
    tf = import_tensorflow()
    start, stop = self.shard_starts[shard : shard + 2]
    first = start + block * BLOCK
    ends = self.ends[first : min(first + BLOCK, stop)]
    begins = np.concatenate([[self.ends[first - 1] if block else 0], ends[:-1]])
    path = self.paths[shard]
    try:
      with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(int(begins[0]))
        data = file.read(int(ends[-1] - begins[0]))
      begins, ends = begins - begins[0], ends - begins[0]
      for begin, end in zip(begins.tolist(), ends.tolist()):
        if int.from_bytes(data[begin : begin + 8], "little") != end - begin - HEADER - FOOTER:
          raise ValueError("a record does not start at the expected byte")
      contents = [data[b + HEADER : e - FOOTER] for b, e in zip(begins.tolist(), ends.tolist())]
      return decoded(contents, self.shape[1:], self.dtype)
    except (tf.errors.OpError, ValueError, IndexError) as error:
      raise damaged(path, error) from error


def _check_bounds(clips: np.ndarray, count: int) -> None:
  if len(clips) and not 0 <= clips.min() <= clips.max() < count:
    raise IndexError(f"clips {clips.min()} … {clips.max()} out of bounds: {count}")


def decoded(records: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Decode records to log-mels [n, T, F].

  Args:
    records: Serialised examples.
    shape: (T, F).
    dtype: Type of the log-mels.

  Raises:
    ValueError: If a record has no log-mel of this shape and type.
  """
  log_mels = np.empty((len(records), *shape), dtype)
  for log_mel, record in zip(log_mels, records):
    values = parsed(record)["log_mel"].bytes_list.value[0]
    log_mel[:] = np.frombuffer(values, dtype).reshape(shape)
  return log_mels


def parsed(record: bytes) -> Any:
  """Parse a record to a mapping from names to `tf.train.Feature`.

  Raises:
    ValueError: If the bytes are not a valid record.
  """
  from google.protobuf.message import DecodeError

  try:
    return import_tensorflow().train.Example.FromString(record).features.feature
  except DecodeError as error:
    raise ValueError("a record cannot be decoded") from error


def every_record(path: str, file_format: str) -> Iterator[bytes]:
  """Yield all records of a file in order and verify their checksums.

  Args:
    path: Path of the file.
    file_format: `array_record` or `tfrecord`.

  Raises:
    UserError: If the file is missing or damaged.
  """
  tf = import_tensorflow()
  try:
    if file_format == "tfrecord":
      yield from tf.data.TFRecordDataset([path]).as_numpy_iterator()
      return
    from array_record.python.array_record_module import ArrayRecordReader

    with contextlib.closing(ArrayRecordReader(path)) as reader:
      for first in range(0, reader.num_records(), BLOCK):
        yield from reader.read(list(range(first, min(first + BLOCK, reader.num_records()))))
  except (tf.errors.OpError, ValueError, OSError, IndexError) as error:
    raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> UserError:
  """Return the error for a record file that cannot be read."""
  text = reason(ValueError(getattr(error, "message", error)))
  return UserError(f"{path}: this shard cannot be read ({text}); copy or write the dataset again")
