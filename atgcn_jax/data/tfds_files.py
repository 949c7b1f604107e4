"""What lies beside the shards of a TFDS dataset of clips, so that none is read to open it.

`metadata.json`, where TFDS keeps what a dataset's author adds, has the vocabulary, the front end
and the fingerprint; `clips.npz` has peaks, labels, ids and folds of all clips.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.records import FOOTER, HEADER, every_record, parsed
from atgcn_jax.data.store import as_settings, begun_digest
from atgcn_jax.labels.vocabulary import Vocabulary

FORMAT = "atgcn_jax TFDS clips 1"
SPLIT = "clips"  # the only one: folds are split by a run's config, as those of a clip store are
COLUMNS = "clips.npz"


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a dataset is to hold, in its order, besides the log-mels."""

  clip_ids: list[str]
  folds: list[str]
  labels: list[list[int]]
  vocabulary: Vocabulary
  frontend: Frontend
  dtype: str

  def without(self, left_out: set[str]) -> Plan:
    """The plan less some clips."""
    kept = [i for i, clip_id in enumerate(self.clip_ids) if clip_id not in left_out]
    return dataclasses.replace(
      self,
      clip_ids=[self.clip_ids[i] for i in kept],
      folds=[self.folds[i] for i in kept],
      labels=[self.labels[i] for i in kept],
    )


def example(row: tuple[str, str, list[int]], log_mel: np.ndarray, peak: Any) -> dict[str, Any]:
  """A clip as the builder's features take it."""
  clip_id, fold, labels = row
  return {
    "log_mel": log_mel,
    "peak_db": np.float32(peak),
    "labels": labels,
    "clip_id": clip_id,
    "fold": fold,
  }


def columns_and_metadata(
  plan: Plan,
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
  settings = as_settings(plan.vocabulary, plan.frontend)
  digest = begun_digest(settings, plan.dtype, plan.clip_ids, plan.folds, plan.labels)
  peaks = np.zeros(len(plan.clip_ids), np.float32)
  sizes = np.zeros(len(peaks), np.int64)
  records = ((path, record) for path, _ in shards for record in every_record(path, file_format))
  lengths = dict.fromkeys((path for path, _ in shards), 0)
  for i, (path, record) in enumerate(records):
    features = parsed(record)
    clip_id = features["clip_id"].bytes_list.value[0].decode()
    if i >= len(peaks) or clip_id != plan.clip_ids[i]:
      raise RuntimeError(f"{path}: record {i} is of {clip_id}, which does not come there")
    digest.update(features["log_mel"].bytes_list.value[0])
    peaks[i] = features["peak_db"].float_list.value[0]
    sizes[i] = HEADER + len(record) + FOOTER
    lengths[path] += 1
  if lengths != dict(shards):
    raise RuntimeError(f"shards of {lengths} clips, TFDS tells of {dict(shards)}")
  digest.update(peaks.tobytes())
  ends = np.concatenate(
    [np.cumsum(sizes[a:b]) for a, b in itertools.pairwise(starts_of([n for _, n in shards]))]
  )
  content = io.BytesIO()
  np.savez(
    content,
    peak_db=peaks,
    label_offsets=np.cumsum([0, *map(len, plan.labels)], dtype=np.int64),
    label_indices=np.array([k for row in plan.labels for k in row], np.int32),
    clip_ids=np.char.encode(np.array(plan.clip_ids), "utf-8"),
    folds=np.char.encode(np.array(plan.folds), "utf-8"),
    record_ends=ends,
  )
  bytes_of_shards = {os.path.basename(path): size_of(path) for path, _ in shards}
  return content.getvalue(), settings | {
    "format": FORMAT,
    "dtype": plan.dtype,
    "fingerprint": digest.hexdigest(),
    "shard_bytes": bytes_of_shards,
  }


def starts_of(lengths: Sequence[int]) -> np.ndarray:
  """int64[S + 1]: the first clip of each shard of these lengths, and their sum."""
  return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def size_of(path: str) -> int:
  """Bytes of a file, also in a bucket."""
  from etils import epath

  return epath.Path(path).stat().length
