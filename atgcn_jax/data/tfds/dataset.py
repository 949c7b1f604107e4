"""A TFDS dataset of clips, read through the interface of a clip store."""

from __future__ import annotations

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import DTYPES, ClipStore, LogMels, from_settings
from atgcn_jax.data.tfds.description import COLUMNS, FORMAT, SPLIT, TEXTS, size_of, starts_of
from atgcn_jax.data.tfds.record_files import RandomRecords, SequentialRecords
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import check_utf8, in_bucket, path_of
from atgcn_jax.runtime.tensorflow import import_tensorflow

MADE_WITH = "create one with `atgcn tfds`"


def open_tfds(path: str) -> ClipStore:
  """Open a TFDS dataset that `atgcn tfds` wrote, as a clip store.

  array_record files allow random access, and the fingerprint equals that of a clip store with the
  same content. TFRecord files are read shard by shard. The order of a run on them depends on their
  shards, and so does the fingerprint.

  Args:
    path: Folder of the dataset, also in a bucket.

  Raises:
    UserError: If the folder is not such a dataset or has another version, a shard is missing or
      cut short, or a bucket cannot be reached.
  """
  check_utf8(path)
  tf = import_tensorflow()
  import tensorflow_datasets as tfds

  folder = path_of(path)
  try:
    if not (folder / "dataset_info.json").exists():
      raise _no_dataset(folder)
    if not (folder / "metadata.json").exists() or not (folder / COLUMNS).exists():
      raise UserError(f"{path}: a TFDS dataset, but not of clips; {MADE_WITH}")
    metadata = json.loads((folder / "metadata.json").read_text())
    if metadata.get("format") != FORMAT:
      raise UserError(f"{path}: not a TFDS dataset of clips of this version; {MADE_WITH}")
    builder = tfds.builder_from_directory(path)
    split = builder.info.splits[SPLIT]
    shards = [os.fspath(file) for file in split.filepaths]
    _check_shards(shards, metadata["shard_bytes"])
    with np.load(io.BytesIO((folder / COLUMNS).read_bytes())) as file:
      columns: dict[str, Any] = {name: file[name] for name in file}
    starts, ends = starts_of(split.shard_lengths), columns.pop("record_ends")
    if starts[-1] != len(ends):
      raise ValueError(f"{COLUMNS} has {len(ends)} clips, but the shards have {starts[-1]}")
    common: dict[str, Any] = from_settings(metadata)
    shape = (len(ends), common["frontend"].frames, common["frontend"].n_mels)
    if metadata["dtype"] not in DTYPES:
      raise ValueError(f"log-mels are {metadata['dtype']}, not {' or '.join(DTYPES)}")
    dtype, fingerprint = np.dtype(metadata["dtype"]), metadata["fingerprint"]
    log_mel: LogMels
    shard_starts = None
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
      if in_bucket(path):
        raise UserError(
          f"{path}: array_record files must be on a disk or a mounted bucket; copy the folder, or "
          "write it with --file-format tfrecord"
        )
      raw = tfds.decode.DeserializeMethod.RAW_BYTES
      source = builder.as_data_source(SPLIT, deserialize_method=raw)
      log_mel = RandomRecords(source, shape, dtype)
    else:
      log_mel, shard_starts = SequentialRecords(shards, starts, ends, shape, dtype), starts
      fingerprint = hashlib.sha256(json.dumps([fingerprint, starts.tolist()]).encode()).hexdigest()
  except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
    reason = " ".join(str(getattr(error, "message", error)).split())
    raise UserError(
      f"{path}: cannot be read as a TFDS dataset ({reason}); check the path, the access to it, and "
      "that it is complete"
    ) from error
  for name in TEXTS:
    columns[name] = np.char.decode(columns[name], "utf-8")
  return ClipStore(
    path=path,
    log_mel=log_mel,
    **columns,
    **common,
    fingerprint=fingerprint,
    shard_starts=shard_starts,
  )


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
