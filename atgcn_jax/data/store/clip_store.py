"""Reader of clip stores: HDF5 files of labels and of log-mels, which are memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import h5py
import numpy as np
import scipy

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.store import hdf5, hdf5_text
from atgcn_jax.data.store.finite_clips import check_log_mels, check_small
from atgcn_jax.data.store.schema import (
  ARRAYS,
  OPTIONAL,
  RULES,
  TEXT,
  check_form,
  check_log_mel,
  check_values,
  from_settings,
)
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.vocabulary import Vocabulary

FORMAT = "atgcn_jax clip store 1"


class LogMels(Protocol):
  """Log-mels of all clips: a memory-mapped array, or records that are decoded on access."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape (clips, frames, bands)."""

  @property
  def dtype(self) -> np.dtype:
    """Data type of the values, uint8 or float16."""

  def __getitem__(self, clips: np.ndarray, /) -> np.ndarray:
    """Return the log-mels [B, T, F] of the given clips, in the given order."""


@dataclass(frozen=True)
class ClipStore:
  """Open store of N clips.

  Attributes:
    path: Path of the store, for messages.
    log_mel: Log-mels [N, T, F], memory-mapped or decoded on access. uint8 values 0 … 255 span the
      `frontend.uint8_range` below the clip's `peak_db`; float16 values are in dB.
    peak_db: float32[N], peak of each clip in dB. For embeddings, `frontend.value_limit`.
    label_offsets: int64[N + 1]. Clip i has the labels
      `label_indices[label_offsets[i]:label_offsets[i + 1]]`.
    label_indices: int32, positions in `vocabulary`.
    clip_ids: str[N].
    folds: str[N].
    vocabulary: Labels of the store.
    frontend: Settings of the log-mels.
    fingerprint: Hash of all content that a run depends on.
    seconds: float32[N], length of each source file, NaN if unknown. None if not stored.
    rate_hz: int32[N], sample rate of each source file, 0 if unknown. None if not stored.
    findings: uint8[N], flags of the faults of each sound (`findings_table.flags_of`). None if not
      stored.
    missing_seconds: float32[N], length of the missing sound. None if not stored.
    normaliser: float32[2, F], mean and standard deviation of each band in dB, as delivered with
      the clips. None if not stored.
    shard_starts: int64[S + 1], first clip of each shard of a store that must be read shard by
      shard (a TFDS dataset of TFRecord files). None if clips can be read in any order.
  """

  path: str
  log_mel: LogMels
  peak_db: np.ndarray
  label_offsets: np.ndarray
  label_indices: np.ndarray
  clip_ids: np.ndarray
  folds: np.ndarray
  vocabulary: Vocabulary
  frontend: Frontend
  fingerprint: str
  seconds: np.ndarray | None = None
  rate_hz: np.ndarray | None = None
  findings: np.ndarray | None = None
  missing_seconds: np.ndarray | None = None
  normaliser: np.ndarray | None = None
  shard_starts: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.peak_db)

  def labels_of(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of the given clips as (offsets int64[n + 1], label indices)."""
    begins = self.label_offsets[clips]
    counts = self.label_offsets[clips + 1] - begins
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return offsets, self.label_indices[np.repeat(begins, counts) + within]

  def labels(self, clips: np.ndarray) -> np.ndarray:
    """Return the labels of the given clips, uint8[B, K], 1 where a clip has the label."""
    offsets, indices = self.labels_of(clips)
    labels = np.zeros((len(clips), len(self.vocabulary)), np.uint8)
    labels[np.repeat(np.arange(len(clips)), np.diff(offsets)), indices] = 1
    return labels

  def labels_hash(self) -> str:
    """Return a hash of the labels of all clips."""
    both = self.label_offsets.tobytes() + self.label_indices.tobytes()
    return hashlib.sha256(both).hexdigest()[:16]

  def restricted(self, vocabulary: Vocabulary) -> ClipStore:
    """Return the same clips with some of the labels, as a store of its own fingerprint.

    Args:
      vocabulary: The labels, in their new order. The store must have all of them.
    """
    places = np.full(len(self.vocabulary), -1, np.int32)
    places[self.vocabulary.positions(vocabulary.ids)] = np.arange(len(vocabulary))
    indices = places[self.label_indices]
    part = self.with_positives(indices >= 0)
    return replace(
      part,
      label_indices=indices[indices >= 0],
      vocabulary=vocabulary,
      fingerprint=hashlib.sha256(
        json.dumps([self.fingerprint, vocabulary.ids]).encode()
      ).hexdigest(),
    )

  def with_positives(self, kept: np.ndarray) -> ClipStore:
    """Return the same clips with some of their labels.

    Args:
      kept: bool, whether each entry of `label_indices` stays.
    """
    before = np.concatenate([[0], np.cumsum(kept)])
    return replace(
      self,
      label_offsets=before[self.label_offsets],
      label_indices=self.label_indices[kept],
    )

  def carried_up(self, ancestors: Sequence[Sequence[int]]) -> ClipStore:
    """Return the same clips, each with the labels above its own in addition.

    Args:
      ancestors: The positions of the labels above each label of the vocabulary.
    """
    size = len(self.vocabulary)
    above = scipy.sparse.eye_array(size, dtype=np.int32, format="lil")
    for k, positions in enumerate(ancestors):
      above[k, list(positions)] = 1
    ones = np.ones(len(self.label_indices), np.int32)
    labels = scipy.sparse.csr_array(
      (ones, self.label_indices, self.label_offsets), (len(self), size)
    )
    carried = labels @ above.tocsr()
    carried.sort_indices()
    return replace(
      self,
      label_offsets=carried.indptr.astype(np.int64),
      label_indices=carried.indices.astype(np.int32),
    )

  def log_mels(self, clips: np.ndarray) -> np.ndarray:
    """Return the stored log-mels [B, T, F] of the given clips, in the given order.

    Raises:
      UserError: If a log-mel is not finite.
    """
    log_mel = self.log_mel[clips]
    check_log_mels(self.path, self.clip_ids[clips], log_mel)
    return log_mel

  def read(self, clips: np.ndarray) -> dict[str, np.ndarray]:
    """Return a batch: `log_mel` [B, T, F] as stored, `peak_db` [B] and `labels` [B, K].

    Raises:
      UserError: If a log-mel is not finite.
    """
    return {
      "log_mel": self.log_mels(clips),
      "peak_db": self.peak_db[clips],
      "labels": self.labels(clips),
    }


def open_store(path: str | os.PathLike, *, finite: bool = True) -> ClipStore:
  """Open a store: memory-map its log-mels, and read and check all other arrays.

  Args:
    path: Path of the store.
    finite: Whether to check that the peaks and the normaliser are finite.

  Raises:
    UserError: If the file is missing, is not a clip store, is cut short or damaged, or has values
      that are not finite.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path}: no such clip store; create one with `atgcn prepare`")
  try:
    store = _read(path)
  except hdf5.FAULTS as error:
    raise UserError(
      f"{path}: cannot be read as a clip store, it may be cut short ({reason(error)}); "
      "remove it and create it again with `atgcn prepare`"
    ) from error
  if finite:
    check_small(store.path, store.clip_ids, store.peak_db, store.normaliser)
  return store


def _read(path: str | os.PathLike) -> ClipStore:
  """Return the store in a file.

  Raises:
    UserError: If the file has another format.
    Exception: One of hdf5.FAULTS if the file is damaged.
  """
  with h5py.File(path, "r") as file:
    if "format" not in file.attrs or any(name not in file for name in ("log_mel", *ARRAYS)):
      raise _other_format(path)
    # The file may have unused rows after those of the clips.
    log_mel = hdf5.plain_dataset(file, "log_mel")
    begin, rows, dtype = log_mel.id.get_offset(), log_mel.shape, log_mel.dtype
    if begin is None:
      raise ValueError("log_mel is compressed or in chunks")
    collections = hdf5_text.collections_in(path, (begin, begin + log_mel.id.get_storage_size()))
    if hdf5.text_attribute(file, "format") != FORMAT:
      raise _other_format(path)
    common = from_settings(json.loads(hdf5.text_attribute(file, "settings")))
    fingerprint = hdf5.text_attribute(file, "fingerprint")
    check_log_mel(dtype, rows, common["frontend"])
    present = [name for name in OPTIONAL if name in file]
    found = {name: hdf5.plain_dataset(file, name) for name in (*ARRAYS, *present)}
    check_form(found, rows[0], common["frontend"])
    arrays: dict[str, Any] = {
      name: hdf5_text.read_texts(dataset, collections) if RULES[name].dtype == TEXT else dataset[()]
      for name, dataset in found.items()
    }
  check_values(arrays, common["vocabulary"])
  mapped = np.memmap(path, dtype, "r", begin, (len(arrays["peak_db"]), *rows[1:]))
  return ClipStore(path=str(path), log_mel=mapped, **arrays, **common, fingerprint=fingerprint)


def _other_format(path: str | os.PathLike) -> UserError:
  return UserError(f"{path}: not a clip store of this version; create it with `atgcn prepare`")
