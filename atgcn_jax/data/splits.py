"""Which clips of a store train, validate and test."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError


def split_clips(store: ClipStore, config: Any, split: str) -> np.ndarray:
  """Clip numbers int64[n] of a split, in the store's order; of `all`, whatever the folds, too.

  Args:
    config: a `data` section. `train_folds`, `validation_folds` and `test_folds` name folds;
      `validation_share` is the part of the training folds' clips, chosen by a hash of the clip
      id, that validates instead.
  Raises:
    UserError: for a fold that the store does not have.
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
