"""Clips from wherever a config or a command names them: a clip store, or a TFDS dataset."""

from __future__ import annotations

import os

from atgcn_jax.data.store.clip_store import ClipStore, open_store
from atgcn_jax.data.store.finite_clips import check_small
from atgcn_jax.data.tfds.dataset import open_tfds
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import in_bucket


def open_clips(path: str | os.PathLike, *, finite: bool = True) -> ClipStore:
  """The clips of a clip store's file, or of the folder or bucket address of a TFDS dataset.

  Args:
    finite: whether to refuse peaks and a normaliser that are not finite.
  Raises:
    UserError: if it is missing, something else, cut short, or not finite.
  """
  path = os.fspath(path)
  if in_bucket(path) and path.endswith((".h5", ".hdf5")):
    raise UserError(
      f"{path}: a clip store is read from a disk; copy it there, or write a TFDS dataset to the "
      "bucket with `atgcn tfds --file-format tfrecord --out gs://…`"
    )
  store = open_tfds(path) if in_bucket(path) or os.path.isdir(path) else open_store(path)
  if finite:
    check_small(store.path, store.clip_ids, store.peak_db, store.normaliser)
  return store
