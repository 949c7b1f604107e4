"""Opening of the clips that a config or a command names: a clip store or a TFDS dataset."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore, open_store
from atgcn_jax.data.tfds.dataset import open_tfds
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import in_bucket


def open_clips(path: str | os.PathLike, *, finite: bool = True) -> ClipStore:
  """Open a clip store, or a TFDS dataset in a folder or bucket.

  Args:
    path: File of a clip store, or folder or bucket address of a TFDS dataset.
    finite: Whether to check that the peaks and the normaliser are finite.

  Raises:
    UserError: If the clips are missing, have another format, are cut short, or are not finite.
  """
  path = os.fspath(path)
  if in_bucket(path) and path.endswith((".h5", ".hdf5")):
    raise UserError(
      f"{path}: a clip store must be on a disk; copy it to one, or write a TFDS dataset to the "
      "bucket with `atgcn tfds --file-format tfrecord --out gs://…`"
    )
  is_dataset = in_bucket(path) or os.path.isdir(path)
  return (open_tfds if is_dataset else open_store)(path, finite=finite)


def store_name(store: ClipStore) -> str:
  """Return the name of a store: its file name, or the name and version of a TFDS dataset."""
  path = pathlib.PurePath(store.path if in_bucket(store.path) else os.path.abspath(store.path))
  return path.name if isinstance(store.log_mel, np.memmap) else "/".join(path.parts[-2:])
