"""A TFDS dataset of clips, read through the interface of a clip store."""

from __future__ import annotations

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore, LogMels
from atgcn_jax.data.store.finite_clips import check_small
from atgcn_jax.data.store.schema import (
  RULES,
  check_form,
  check_log_mel,
  check_values,
  from_settings,
)
from atgcn_jax.data.tfds.description import (
  COLUMNS,
  FORMAT,
  SPLIT,
  TEXTS,
  Metadata,
  size_of,
  starts_of,
)
from atgcn_jax.data.tfds.record_files import RandomRecords, SequentialRecords
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.npz import npz_arrays
from atgcn_jax.runtime.buckets import check_utf8, in_bucket, path_of
from atgcn_jax.runtime.schema import checked
from atgcn_jax.runtime.tensorflow import import_tensorflow

MADE_WITH = "create one with `atgcn tfds`"


def open_tfds(path: str, *, finite: bool = True) -> ClipStore:
  """Open a TFDS dataset that `atgcn tfds` wrote, as a clip store.

  array_record files allow random access, and the fingerprint equals that of a clip store with the
  same content. TFRecord files are read shard by shard. The order of a run on them depends on their
  shards, and so does the fingerprint.

  Args:
    path: Folder of the dataset, also in a bucket.
    finite: Whether to check that the peaks and the normaliser are finite.

  Raises:
    UserError: If the folder is not such a dataset or has another version, a shard is missing or
      cut short, a description is damaged, or a bucket cannot be reached.
  """
  check_utf8(path)
  import_tensorflow()
  folder = path_of(path)
  try:
    if not (folder / "dataset_info.json").exists():
      raise _no_dataset(folder)
    if not (folder / "metadata.json").exists() or not (folder / COLUMNS).exists():
      raise UserError(f"{path}: a TFDS dataset, but not of clips; {MADE_WITH}")
    store = _read(path, folder)
  except UserError:
    raise
  except Exception as error:  # TFDS and TensorFlow raise many types of errors for damaged files
    raise UserError(
      f"{path}: cannot be read as a TFDS dataset ({_reason(error)}); check the path, the access to "
      "it, and that it is complete"
    ) from error
  if finite:
    check_small(store.path, store.clip_ids, store.peak_db, store.normaliser)
  return store


def _reason(error: Exception) -> str:
  message = getattr(error, "message", None)  # of TensorFlow's errors
  return reason(ValueError(message)) if isinstance(message, str) else reason(error)


def _read(path: str, folder: Any) -> ClipStore:
  """Return the dataset in a folder.

  Raises:
    UserError: If it has another version, or a shard is missing or cut short.
    Exception: If a description is damaged. The type varies.
  """
  import tensorflow_datasets as tfds

  content = json.loads((folder / "metadata.json").read_text())
  if not isinstance(content, dict) or content.get("format") != FORMAT:
    raise UserError(f"{path}: not a TFDS dataset of clips of this version; {MADE_WITH}")
  metadata = checked(content, Metadata, "metadata.json")
  common = from_settings(content)
  builder = tfds.builder_from_directory(path)
  split = builder.info.splits[SPLIT]
  shards = [os.fspath(file) for file in split.filepaths]
  _check_shards(shards, metadata["shard_bytes"])
  columns: dict[str, Any] = npz_arrays(io.BytesIO((folder / COLUMNS).read_bytes()))
  ends = columns.pop("record_ends")
  arrays = {name: columns[name] for name in RULES if name in columns}
  starts = starts_of(split.shard_lengths)
  dtype, frontend = np.dtype(metadata["dtype"]), common["frontend"]
  shape = (int(starts[-1]), frontend.frames, frontend.n_mels)
  check_log_mel(dtype, shape, frontend)
  check_form(arrays, shape[0], frontend)
  for name in TEXTS:
    arrays[name] = np.char.decode(arrays[name], "utf-8")
  check_values(arrays, common["vocabulary"])
  _check_ends(ends, shards, starts, metadata["shard_bytes"])
  if len(ends) != len(arrays["peak_db"]):
    raise ValueError(f"{COLUMNS} has {len(arrays['peak_db'])} clips, but the shards {len(ends)}")
  log_mel: LogMels
  shard_starts, fingerprint = None, metadata["fingerprint"]
  if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
    if in_bucket(path):
      raise UserError(
        f"{path}: array_record files must be on a disk or a mounted bucket; copy the folder, or "
        "write it with --file-format tfrecord"
      )
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(SPLIT, deserialize_method=raw)
    log_mel = RandomRecords(path, source, shape, dtype)
  else:
    log_mel, shard_starts = SequentialRecords(shards, starts, ends, shape, dtype), starts
    fingerprint = hashlib.sha256(json.dumps([fingerprint, starts.tolist()]).encode()).hexdigest()
  return ClipStore(
    path=path,
    log_mel=log_mel,
    **arrays,
    **common,
    fingerprint=fingerprint,
    shard_starts=shard_starts,
  )


def _check_ends(
  ends: np.ndarray, shards: list[str], starts: np.ndarray, sizes: dict[str, int]
) -> None:
  """Refuse ends of records that do not rise to at most the size of their shard.

  Raises:
    ValueError: If so, or if they are not int64[N].
  """
  if ends.dtype != np.int64 or ends.shape != (starts[-1],):
    raise ValueError(
      f"record_ends is {ends.dtype}{list(ends.shape)}, but the shards have {starts[-1]} clips"
    )
  for path, first, last in zip(shards, starts[:-1], starts[1:]):
    within = np.concatenate([[0], ends[first:last], [sizes[os.path.basename(path)]]])
    if (within[1:] < within[:-1]).any():
      raise ValueError(f"record_ends do not rise to the size of {os.path.basename(path)}")


def _no_dataset(folder: Any) -> UserError:
  """Return the error for a folder that is not a dataset. Names a dataset in a subfolder, if any."""
  if not in_bucket(folder):
    depths = ("*/", "*/*/", "*/*/*/")  # name, config, version
    below = [file.parent for depth in depths for file in folder.glob(depth + "dataset_info.json")]
    if below:
      return UserError(f"{folder}: not a dataset, but a folder of datasets; give {below[0]}")
  return UserError(f"{folder}: neither a clip store nor a TFDS dataset; {MADE_WITH}")


def _check_shards(paths: list[str], sizes: dict[str, int]) -> None:
  """Check that all shards exist and have their original size.

  Args:
    paths: Paths of the shards.
    sizes: Original size in bytes of each shard, by file name.

  Raises:
    UserError: If a shard is missing or has another size; names the first one.
    ValueError: If `paths` and `sizes` have different file names.
  """
  if {os.path.basename(path) for path in paths} != set(sizes):
    raise ValueError("metadata.json and dataset_info.json list different shards")

  def fault(path: str) -> str:
    try:
      found = size_of(path)
    except FileNotFoundError:
      return "this shard is missing"
    expected = sizes[os.path.basename(path)]
    return "" if found == expected else f"this shard has {found} of its {expected} bytes"

  with ThreadPoolExecutor(16) as pool:  # Each check may be a request to a bucket.
    for path, found in zip(paths, pool.map(fault, paths)):
      if found:
        raise UserError(f"{path}: {found}; copy or write the dataset again")
