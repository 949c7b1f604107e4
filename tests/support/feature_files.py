"""Feature files in the form of AudioSet's release, written with TensorFlow."""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

CLASSES = 527


def vocabulary_file(folder: pathlib.Path) -> pathlib.Path:
  """Write a vocabulary of 527 labels `/m/0` … `/m/526`."""
  path = folder / "vocabulary.csv"
  rows = "".join(f"{k},/m/{k},L{k}\n" for k in range(CLASSES))
  path.write_text(f"index,mid,display_name\n{rows}")
  return path


def embeddings(seed: int, count: int = 10, width: int = 128) -> np.ndarray:
  """Return random embeddings uint8[count, width]."""
  return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


def example(
  clip_id: str, numbers: Iterable[int], vectors: np.ndarray, start: float = 30.0, **changes: Any
) -> bytes:
  """Return a serialised SequenceExample. `changes` replaces features of the context."""
  import tensorflow as tf

  def feature(values):
    if isinstance(values[0] if values else 0, bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  context = {
    "video_id": [clip_id.encode()],
    "start_time_seconds": [start],
    "end_time_seconds": [start + len(vectors)],
    "labels": list(numbers),
  } | changes
  rows = [feature([row.tobytes()]) for row in vectors]
  made = tf.train.SequenceExample(
    context=tf.train.Features(
      feature={name: feature(values) for name, values in context.items() if values is not None}
    ),
    feature_lists=tf.train.FeatureLists(
      feature_list={"audio_embedding": tf.train.FeatureList(feature=rows)}
    ),
  )
  return made.SerializeToString()


def write(path: pathlib.Path, contents: Iterable[bytes]) -> list[int]:
  """Write a TFRecord file and return the byte offset of each record."""
  import tensorflow as tf

  path.parent.mkdir(parents=True, exist_ok=True)
  offsets, end = [], 0
  with tf.io.TFRecordWriter(str(path)) as writer:
    for content in contents:
      writer.write(content)
      offsets.append(end)
      end += 16 + len(content)
  assert path.stat().st_size == end
  return offsets


def release(folder: pathlib.Path, clips: int, files: int = 2) -> dict[str, np.ndarray]:
  """Write a release of clips of different lengths, and return the embeddings by id, in order."""
  made = {}
  for part in ("bal_train", "unbal_train", "eval"):
    for file in range(files):
      contents = []
      for i in range(clips):
        clip_id = f"{part[0]}{file}-{i:08d}"
        made[clip_id] = embeddings(len(made), 10 if i % 3 else 1 + i % 10)
        contents.append(example(clip_id, [i % CLASSES, (7 * i + 1) % CLASSES], made[clip_id]))
      write(folder / part / f"{part[0]}{file}.tfrecord", contents)
  return made


def damage(path: pathlib.Path, offset: int) -> None:
  """Change one byte of a file."""
  data = bytearray(path.read_bytes())
  data[offset] ^= 1
  path.write_bytes(data)


def record_length(path: pathlib.Path, offset: int) -> int:
  """Return the length that is stated at the start of a record."""
  return struct.unpack_from("<Q", path.read_bytes(), offset)[0]
