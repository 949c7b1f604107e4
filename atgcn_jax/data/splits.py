"""Training, validation and test splits of a store."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError


def split_clips(store: ClipStore, config: Any, split: str) -> np.ndarray:
  """Return the clip numbers int64[n] of a split, in the order of the store.

  Args:
    store: The store.
    config: `data` section of a config. `train_folds`, `validation_folds` and `test_folds` name
      folds. `validation_share` is the share of the clips in the training folds that are used for
      validation instead. They are selected by a hash of the clip id.
    split: `train`, `validation`, `test`, or `all` for all clips.

  Raises:
    UserError: If the store does not have one of the folds.
  """
  if split == "all":
    return np.arange(len(store))
  if split == "test":
    return np.flatnonzero(_in_folds(store, config, "test_folds"))
  train = _in_folds(store, config, "train_folds")
  held_out = train & _hashed_below(store.clip_ids, config.validation_share)
  if split == "train":
    return np.flatnonzero(train & ~held_out)
  return np.flatnonzero(held_out | _in_folds(store, config, "validation_folds"))


def _in_folds(store: ClipStore, config: Any, key: str) -> np.ndarray:
  folds = [str(fold) for fold in config[key]]
  present = set(store.folds)
  if missing := [fold for fold in folds if fold not in present]:
    raise UserError(
      f"data.{key}: {store.path} has no fold {', '.join(missing)}; "
      f"it has {', '.join(sorted(present))}"
    )
  return np.isin(store.folds, folds)


def _hashed_below(clip_ids: np.ndarray, share: float) -> np.ndarray:
  if share <= 0:
    return np.zeros(len(clip_ids), bool)
  return np.array([zlib.crc32(clip.encode()) < share * 2**32 for clip in clip_ids])
