"""Readers of clip stores and TFDS datasets."""

from __future__ import annotations

import functools
import pathlib
import shutil
from typing import Any

import h5py
import mutations
import numpy as np
import small_store
from fuzzing import Random, Reader, frontend_faults, is_name, vocabulary_faults


def make_store(path: pathlib.Path, dtype: str = "uint8") -> None:
  clips = 24
  small_store.write(path, small_store.decibels(clips), dtype)
  with h5py.File(path, "r+") as file:
    file["seconds"] = np.full(clips, 0.25, np.float32)
    file["rate_hz"] = np.full(clips, 1000, np.int32)
    file["findings"] = np.zeros(clips, np.uint8)
    file["missing_seconds"] = np.zeros(clips, np.float32)
    file["normaliser"] = np.ones((2, small_store.BANDS), np.float32)


def read_store(path: pathlib.Path) -> Any:
  from atgcn_jax.data.open_clips import open_clips

  store = open_clips(path)
  if len(store):
    store.read(np.arange(min(3, len(store))))
  return store


def store_faults(store: Any) -> str:
  clips, classes = len(store), len(store.vocabulary)
  shape = (clips, store.frontend.frames, store.frontend.n_mels)
  shapes = {
    "peak_db": ("float32", (clips,)),
    "label_offsets": ("int64", (clips + 1,)),
    "label_indices": ("int32", store.label_indices.shape),
    "seconds": ("float32", (clips,)),
    "rate_hz": ("int32", (clips,)),
    "findings": ("uint8", (clips,)),
    "missing_seconds": ("float32", (clips,)),
    "normaliser": ("float32", (2, store.frontend.n_mels)),
  }
  for name, wanted in shapes.items():
    array = getattr(store, name)
    if array is not None and (str(array.dtype), array.shape) != wanted:
      return f"{name} is {array.dtype}{list(array.shape)}"
  if store.log_mel.shape != shape or store.log_mel.dtype not in (np.uint8, np.float16):
    return f"log_mel has shape {store.log_mel.shape}, the front end has {shape}"
  for name in ("clip_ids", "folds"):
    texts = getattr(store, name)
    if texts.dtype.kind != "U" or texts.shape != (clips,):
      return f"{name} is {texts.dtype}{list(texts.shape)}"
    if not all(map(is_name, texts.tolist())):
      return f"{name} has control characters"
  offsets = store.label_offsets
  if offsets[0] != 0 or offsets[-1] != len(store.label_indices) or (np.diff(offsets) < 0).any():
    return "label_offsets do not rise from 0 to the number of label_indices"
  if len(store.label_indices) and not (
    store.label_indices.min() >= 0 and store.label_indices.max() < classes
  ):
    return "a label index is out of range"
  if not np.isfinite(store.peak_db).all():
    return "a peak is not finite"
  if store.normaliser is not None and not (
    np.isfinite(store.normaliser).all() and (store.normaliser[1] > 0).all()
  ):
    return "the normaliser is not finite or not positive"
  if not isinstance(store.fingerprint, str):
    return f"the fingerprint is {type(store.fingerprint).__name__}"
  return frontend_faults(store.frontend) or vocabulary_faults(store.vocabulary)


def make_tfds(path: pathlib.Path) -> None:
  from atgcn_jax.data.tfds.write import write_tfds

  store = path.with_suffix(".h5")
  make_store(store)
  made = path.with_suffix(".made")
  write_tfds(str(made), file_format="tfrecord", shards=2, store=str(store))
  (columns,) = made.rglob("clips.npz")
  shutil.move(columns.parent, path)


def change_tfds(path: pathlib.Path, rng: Random) -> None:
  files = sorted(file for file in path.iterdir() if file.is_file())
  file = files[rng.integers(len(files))]
  if file.suffix == ".json":
    mutations.change_json_file(file, rng)
  elif file.suffix == ".npz":
    mutations.change_npz(file, rng)
  else:
    file.write_bytes(mutations.change_bytes(file.read_bytes(), rng))


READERS = {
  "store.h5": Reader(make_store, mutations.change_hdf5, read_store, store_faults),
  "float16.h5": Reader(
    functools.partial(make_store, dtype="float16"), mutations.change_hdf5, read_store, store_faults
  ),
  "tfds": Reader(make_tfds, change_tfds, read_store, store_faults),
}
