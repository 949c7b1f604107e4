"""What lies beside the shards of a TFDS dataset of clips, so that none is read to open it.

`metadata.json`, where TFDS keeps what a dataset's author adds, has the vocabulary, the front end
and the fingerprint; `clips.npz` has the small arrays of a clip store.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.store.clip_store import as_settings, fingerprint_of, row_digest
from atgcn_jax.data.tfds.record_files import FOOTER, HEADER, every_record, parsed
from atgcn_jax.labels.vocabulary import Vocabulary

FORMAT = "atgcn_jax TFDS clips 1"
SPLIT = "clips"  # the only one: folds are split by a run's config, as those of a clip store are
COLUMNS = "clips.npz"
TEXTS = ("clip_ids", "folds")
NUMBERS: dict[str, Any] = {
  "peak_db": np.float32,
  "seconds": np.float32,
  "rate_hz": np.int32,
  "findings": np.uint8,
  "missing_seconds": np.float32,
}


@dataclasses.dataclass(frozen=True)
class DatasetPlan:
  """What a dataset is to hold, in its order, besides what is in its records alone.

  `arrays` are those of `listing.arrays_of`, `numbers` those of NUMBERS that each record has.
  """

  arrays: dict[str, np.ndarray]
  numbers: tuple[str, ...]
  vocabulary: Vocabulary
  frontend: Frontend
  dtype: str

  def __len__(self) -> int:
    return len(self.arrays["clip_ids"])

  def rows(self) -> Iterator[dict[str, Any]]:
    """What the arrays say of each clip, as the builder's features take it."""
    offsets = self.arrays["label_offsets"]
    for i, (clip_id, fold) in enumerate(zip(self.arrays["clip_ids"], self.arrays["folds"])):
      labels = self.arrays["label_indices"][offsets[i] : offsets[i + 1]].tolist()
      yield {"clip_id": str(clip_id), "fold": str(fold), "labels": labels}


def columns_and_metadata(
  plan: DatasetPlan,
  shards: Sequence[tuple[str, int]],
  file_format: str,
) -> tuple[bytes, dict[str, Any]]:
  """The content of `clips.npz` and of `metadata.json`, from every record of the shards.

  Args:
    shards: path and number of clips of each.
  Raises:
    RuntimeError: if the records are not those of the plan, in its order.
    UserError: for a shard that cannot be read.
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
      raise RuntimeError(f"{path}: record {i} is of {clip_id}, which does not come there")
    digests += row_digest(features["log_mel"].bytes_list.value[0])
    for name, array in numbers.items():
      kind = features[name].WhichOneof("kind")
      array[i] = getattr(features[name], kind).value[0]
    sizes[i] = HEADER + len(record) + FOOTER
    lengths[path] += 1
  if lengths != dict(shards):
    raise RuntimeError(f"shards of {lengths} clips, TFDS tells of {dict(shards)}")
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
  """int64[S + 1]: the first clip of each shard of these lengths, and their sum."""
  return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def size_of(path: str) -> int:
  """Bytes of a file, also in a bucket."""
  from etils import epath

  return epath.Path(path).stat().length
