"""Description files of a TFDS dataset of clips. They allow it to be opened without reading shards.

`metadata.json`, the TFDS file for custom metadata, contains the vocabulary, the front end and the
fingerprint. `clips.npz` contains the small arrays of a clip store.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.store.store_writing import as_settings, fingerprint_of, row_digest
from atgcn_jax.data.tfds.record_files import FOOTER, HEADER, every_record, parsed
from atgcn_jax.labels.vocabulary import Vocabulary

FORMAT = "atgcn_jax TFDS clips 1"
SPLIT = "clips"  # the only TFDS split; as for a clip store, the config of a run splits the folds
COLUMNS = "clips.npz"
TEXTS = ("clip_ids", "folds")
NUMBERS: dict[str, Any] = {
  "peak_db": np.float32,
  "seconds": np.float32,
  "rate_hz": np.int32,
  "findings": np.uint8,
  "missing_seconds": np.float32,
}


class Metadata(TypedDict):
  """Content of `metadata.json` in addition to the settings of the store."""

  format: str
  dtype: str
  fingerprint: str
  shard_bytes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
  """Content of a dataset that is known before its records are made, in order.

  Attributes:
    arrays: Result of `listing.arrays_of`.
    numbers: Those of NUMBERS that each record has.
    vocabulary: Labels of the dataset.
    frontend: Settings of the log-mels.
    dtype: `uint8` or `float16`.
  """

  arrays: dict[str, np.ndarray]
  numbers: tuple[str, ...]
  vocabulary: Vocabulary
  frontend: Frontend
  dtype: str

  def __len__(self) -> int:
    return len(self.arrays["clip_ids"])

  def rows(self) -> Iterator[dict[str, Any]]:
    """Yield the id, fold and labels of each clip as features of the builder."""
    offsets = self.arrays["label_offsets"]
    for i, (clip_id, fold) in enumerate(zip(self.arrays["clip_ids"], self.arrays["folds"])):
      labels = self.arrays["label_indices"][offsets[i] : offsets[i + 1]].tolist()
      yield {"clip_id": str(clip_id), "fold": str(fold), "labels": labels}


def columns_and_metadata(
  plan: DatasetPlan,
  shards: Sequence[tuple[str, int]],
  file_format: str,
) -> tuple[bytes, dict[str, Any]]:
  """Read all records of the shards and return the content of the description files.

  Args:
    plan: Plan of the dataset.
    shards: Path and number of clips of each shard.
    file_format: `array_record` or `tfrecord`.

  Returns:
    The content of `clips.npz` in bytes, and the content of `metadata.json` as a dict.

  Raises:
    RuntimeError: If the records are not those of the plan, in its order.
    UserError: If a shard cannot be read.
  """
  clip_ids, digests = plan.arrays["clip_ids"], bytearray()
  sizes = np.zeros(len(plan), np.int64)
  numbers = {name: np.zeros(len(plan), NUMBERS[name]) for name in plan.numbers}
  records = ((path, record) for path, _ in shards for record in every_record(path, file_format))
  lengths = dict.fromkeys((path for path, _ in shards), 0)
  for i, (path, record) in enumerate(records):
    features = parsed(record)
    clip_id = features["clip_id"].bytes_list.value[0].decode()
    if i >= len(plan) or clip_id != clip_ids[i]:
      raise RuntimeError(f"{path}: record {i} is of clip {clip_id}, which is not the planned clip")
    digests += row_digest(features["log_mel"].bytes_list.value[0])
    for name, array in numbers.items():
      kind = features[name].WhichOneof("kind")
      array[i] = getattr(features[name], kind).value[0]
    sizes[i] = HEADER + len(record) + FOOTER
    lengths[path] += 1
  if lengths != dict(shards):
    raise RuntimeError(f"shards have {lengths} clips, but TFDS reports {dict(shards)}")
  ends = np.concatenate(
    [np.cumsum(sizes[a:b]) for a, b in itertools.pairwise(starts_of([n for _, n in shards]))]
  )
  settings, arrays = as_settings(plan.vocabulary, plan.frontend), plan.arrays | numbers
  fingerprint = fingerprint_of(settings, plan.dtype, arrays, bytes(digests))
  for name in TEXTS:
    arrays[name] = np.char.encode(arrays[name].astype(str), "utf-8")
  content = io.BytesIO()
  np.savez(content, allow_pickle=False, record_ends=ends, **arrays)
  bytes_of_shards = {os.path.basename(path): size_of(path) for path, _ in shards}
  return content.getvalue(), settings | {
    "format": FORMAT,
    "dtype": plan.dtype,
    "fingerprint": fingerprint,
    "shard_bytes": bytes_of_shards,
  }


def starts_of(lengths: Sequence[int]) -> np.ndarray:
  """Return the first clip of each shard and the number of all clips, int64[S + 1]."""
  return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def size_of(path: str) -> int:
  """Return the size of a file in bytes, also in a bucket."""
  from etils import epath

  return epath.Path(path).stat().length
