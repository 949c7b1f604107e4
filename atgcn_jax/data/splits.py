"""Training, validation and test splits of a store."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError

PLACE = re.compile(r"\d{6,}\.\d{3}")  # the start of a piece in seconds


class Splits(NamedTuple):
  """The division of a store into splits.

  Attributes:
    train_folds: The names of the folds to train on.
    validation_folds: The names of the folds to validate on.
    test_folds: The names of the folds to test on.
    validation_share: The share of the recordings in the training folds that are used for validation
      instead. They are selected by a hash of the clip id, or of the file for pieces of one.
  """

  train_folds: Sequence[Any]
  validation_folds: Sequence[Any]
  test_folds: Sequence[Any]
  validation_share: float = 0.0


def split_clips(store: ClipStore, splits: Splits, split: str) -> np.ndarray:
  """Return the clip numbers int64[n] of a split, in the order of the store.

  Args:
    store: The store.
    splits: The division of the store.
    split: `train`, `validation`, `test`, or `all` for all clips.

  Raises:
    UserError: If the store does not have one of the folds.
  """
  if split == "all":
    return np.arange(len(store))
  if split == "test":
    return np.flatnonzero(_in_folds(store, "test_folds", splits.test_folds))
  train = _in_folds(store, "train_folds", splits.train_folds)
  held_out = train & _hashed_below(store.clip_ids, splits.validation_share)
  if split == "train":
    return np.flatnonzero(train & ~held_out)
  validation = _in_folds(store, "validation_folds", splits.validation_folds)
  return np.flatnonzero(held_out | validation)


def _in_folds(store: ClipStore, key: str, named: Sequence[Any]) -> np.ndarray:
  folds = [str(fold) for fold in named]
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
  return np.array([zlib.crc32(recording_of(clip).encode()) < share * 2**32 for clip in clip_ids])


def recording_of(clip_id: str) -> str:
  """Return the file of a piece FILE@SECONDS, as `prepare` names them, and other ids as they are."""
  file, _, place = clip_id.rpartition("@")
  return file if file and PLACE.fullmatch(place) else clip_id
