"""Reader of the records in AudioSet's feature files: TFRecord files of SequenceExamples.

TensorFlow's reader stops at the first broken record. This one continues after it, saves each worker
process the import of TensorFlow (3 s), and checks and parses a record in 14 µs; with the message
class of TensorFlow, whose maps are slow in Python, parsing takes 68 µs.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

LENGTH, CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
WIDTH = 128  # values per embedding
LONGEST = 10  # embeddings per clip


class FeatureClip(NamedTuple):
  """Clip of a record.

  Attributes:
    clip_id: YouTube id.
    start: Start of the clip in the video, in seconds.
    labels: Numbers of the labels in AudioSet's `class_labels_indices.csv`.
    embeddings: uint8[n, WIDTH], one per second, n from 1 to LONGEST.
  """

  clip_id: str
  start: float
  labels: list[int]
  embeddings: np.ndarray


def framed_records(file: BinaryIO) -> Iterator[tuple[int, bytes | ValueError]]:
  """Yield (byte offset, content) for each record from the current position of a TFRecord file.

  The content of a broken record is an error with the reason. If the length of a record is damaged
  or a record is cut short, the rest of the file cannot be read, and this record is the last one.

  Args:
    file: The file, open for reading.

  Source:
    `tensorflow/core/lib/io/record_reader.h`: length, checksum of the length, content, checksum of
    the content, each checksum a masked CRC-32C.
  """
  start, size = file.tell(), os.fstat(file.fileno()).st_size
  while start < size:
    head = file.read(LENGTH.size + CHECKSUM.size)
    if len(head) < LENGTH.size + CHECKSUM.size:
      yield start, ValueError("the file ends within this record")
      return
    length, checksum = head[: LENGTH.size], head[LENGTH.size :]
    if checksum != _masked_crc(length):
      rest = f"the last {size - start} bytes of the file are not used"
      yield start, ValueError(f"the checksum of the record's length is wrong; {rest}")
      return
    end = start + len(head) + LENGTH.unpack(length)[0] + CHECKSUM.size
    if end > size:
      yield start, ValueError(f"the file ends {end - size} bytes before the end of this record")
      return
    content = file.read(end - start - len(head) - CHECKSUM.size)
    if file.read(CHECKSUM.size) == _masked_crc(content):
      yield start, content
    else:
      yield start, ValueError("the checksum of the record is wrong")
    start = end


def _masked_crc(data: bytes) -> bytes:
  import google_crc32c

  crc = google_crc32c.value(data)
  return CHECKSUM.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def feature_clip(content: bytes) -> FeatureClip:
  """Parse the content of a record.

  Raises:
    ValueError: If the content is not that of a clip.
  """
  from google.protobuf.message import DecodeError

  try:
    example = _message_class().FromString(content)
  except DecodeError:
    raise ValueError("the record is not a SequenceExample") from None
  context = {entry.key: entry.value for entry in example.context.feature}
  lists = {entry.key: entry.value for entry in example.feature_lists.feature_list}
  try:
    clip_id = context["video_id"].bytes_list.value[0]
    start = context["start_time_seconds"].float_list.value[0]
    labels = list(context["labels"].int64_list.value)
    rows = [row.bytes_list.value[0] for row in lists["audio_embedding"].feature]
  except KeyError as error:
    raise ValueError(f"the record has no {error.args[0]}") from None
  except IndexError:
    raise ValueError("the record has an empty feature") from None
  if not clip_id or not clip_id.isascii():
    raise ValueError("the video_id is empty or not ASCII")
  if not 1 <= len(rows) <= LONGEST:
    raise ValueError(f"the record has {len(rows)} embeddings, not 1 to {LONGEST}")
  for row in rows:
    if len(row) != WIDTH:
      raise ValueError(f"an embedding has {len(row)} values, not {WIDTH}")
  embeddings = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, WIDTH)
  return FeatureClip(clip_id.decode(), start, labels, embeddings)


@functools.cache
def _message_class() -> Any:
  """Return the message class of `tf.train.SequenceExample`, made without TensorFlow.

  Maps are declared as lists of entries, which have the same encoding.
  """
  from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

  of_field = descriptor_pb2.FieldDescriptorProto
  one, many = of_field.LABEL_OPTIONAL, of_field.LABEL_REPEATED
  # Message: fields by name, with the number, the type, and whether there are several.
  schema: dict[str, dict[str, tuple[int, int | str, int]]] = {
    "BytesList": {"value": (1, of_field.TYPE_BYTES, many)},
    "FloatList": {"value": (1, of_field.TYPE_FLOAT, many)},
    "Int64List": {"value": (1, of_field.TYPE_INT64, many)},
    "Feature": {
      "bytes_list": (1, "BytesList", one),
      "float_list": (2, "FloatList", one),
      "int64_list": (3, "Int64List", one),
    },
    "FeatureList": {"feature": (1, "Feature", many)},
    "FeatureEntry": {"key": (1, of_field.TYPE_STRING, one), "value": (2, "Feature", one)},
    "ListEntry": {"key": (1, of_field.TYPE_STRING, one), "value": (2, "FeatureList", one)},
    "Features": {"feature": (1, "FeatureEntry", many)},
    "FeatureLists": {"feature_list": (1, "ListEntry", many)},
    "SequenceExample": {
      "context": (1, "Features", one),
      "feature_lists": (2, "FeatureLists", one),
    },
  }
  file = descriptor_pb2.FileDescriptorProto(name="features.proto", package="a", syntax="proto3")
  for name, fields in schema.items():
    message = file.message_type.add(name=name)
    for field, (number, kind, label) in fields.items():
      if isinstance(kind, str):
        message.field.add(
          name=field, number=number, label=label, type=of_field.TYPE_MESSAGE, type_name=f".a.{kind}"
        )
      else:
        message.field.add(name=field, number=number, label=label, type=kind)
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName("a.SequenceExample"))
