"""The clip store: one HDF5 file of log-mels and labels that is read by memory map."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import h5py
import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

FORMAT = "atgcn_jax clip store 1"
RANGE_DB = 80.0
ARRAYS = ("log_mel", "peak_db", "label_offsets", "label_indices", "clip_ids", "folds")


@dataclass(frozen=True)
class ClipStore:
  """An open store of N clips.

  `log_mel` [N, T, F] is mapped from the file: uint8, 0 … 255 standing for the RANGE_DB below the
  clip's `peak_db` (float32[N]), or float16 in dB. Clip i has the labels
  `label_indices[label_offsets[i]:label_offsets[i + 1]]`. `fingerprint` is a hash of all content.
  """

  path: str
  log_mel: np.ndarray
  peak_db: np.ndarray
  label_offsets: np.ndarray
  label_indices: np.ndarray
  clip_ids: np.ndarray
  folds: np.ndarray
  vocabulary: Vocabulary
  frontend: Frontend
  fingerprint: str

  def __len__(self) -> int:
    return len(self.peak_db)

  def labels_of(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label lists of some clips: (offsets int64[n + 1], label indices), as in the whole store."""
    begins = self.label_offsets[clips]
    counts = self.label_offsets[clips + 1] - begins
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    return offsets, self.label_indices[np.repeat(begins, counts) + within]

  def labels(self, clips: np.ndarray) -> np.ndarray:
    """uint8[B, K], 1 where a clip has the label."""
    offsets, indices = self.labels_of(clips)
    labels = np.zeros((len(clips), len(self.vocabulary)), np.uint8)
    labels[np.repeat(np.arange(len(clips)), np.diff(offsets)), indices] = 1
    return labels

  def read(self, clips: np.ndarray) -> dict[str, np.ndarray]:
    """The batch of these clips: `log_mel` [B, T, F] as stored, `peak_db` [B], `labels` [B, K]."""
    return {
      "log_mel": self.log_mel[clips],
      "peak_db": self.peak_db[clips],
      "labels": self.labels(clips),
    }


def open_store(path: str | os.PathLike) -> ClipStore:
  """A store, its log-mels mapped and all else read.

  Raises:
    UserError: if the file is missing, not a clip store, or cut short.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"{path}: no such clip store; make one with `atgcn prepare`")
  try:
    with h5py.File(path, "r") as file:
      if file.attrs.get("format") != FORMAT or any(name not in file for name in ARRAYS):
        raise UserError(f"{path}: not a clip store of this version; make it with `atgcn prepare`")
      log_mel = file["log_mel"]
      offset, shape, dtype = log_mel.id.get_offset(), log_mel.shape, log_mel.dtype
      small = {name: file[name][()] for name in ("peak_db", "label_offsets", "label_indices")}
      texts = {name: file[name].asstr()[()].astype(str) for name in ("clip_ids", "folds")}
      settings = json.loads(file.attrs["settings"])
      fingerprint = file.attrs["fingerprint"]
    mapped = np.memmap(path, dtype, "r", offset, shape)
  except (OSError, ValueError, KeyError) as error:
    raise UserError(
      f"{path}: cannot be read as a clip store, it may be cut short ({error}); "
      "make it again with `atgcn prepare`"
    ) from error
  return ClipStore(
    path=str(path),
    log_mel=mapped,
    **small,
    **texts,
    vocabulary=Vocabulary(tuple(settings["label_ids"]), tuple(settings["label_names"])),
    frontend=Frontend(**settings["frontend"]),
    fingerprint=fingerprint,
  )


def write_store(
  path: str | os.PathLike,
  log_mels: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  dtype: str,
  clip_ids: list[str],
  folds: list[str],
  labels: list[list[int]],
  vocabulary: Vocabulary,
  frontend: Frontend,
) -> None:
  """Write a store under a temporary name and rename it when it is whole.

  Args:
    log_mels: encoded chunks ([n, T, F], peaks float32[n]) in the order of the clips.
    dtype: `uint8` or `float16`, the chunks' type.
    labels: label indices of each clip.
  Raises:
    UserError: if the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise UserError(f"{path}: is a folder; name the store to write in it, such as store.h5")
  # Hidden, and of this writer alone on any machine that sees the folder.
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
  settings = {
    "label_ids": list(vocabulary.ids),
    "label_names": list(vocabulary.names),
    "frontend": asdict(frontend),
  }
  small: dict[str, np.ndarray] = {
    "peak_db": np.zeros(len(clip_ids), np.float32),
    "label_offsets": np.cumsum([0, *map(len, labels)], dtype=np.int64),
    "label_indices": np.array([i for row in labels for i in row], np.int32),
    "clip_ids": np.array(clip_ids, h5py.string_dtype()),
    "folds": np.array(folds, h5py.string_dtype()),
  }
  digest = hashlib.sha256(json.dumps([settings, dtype, clip_ids, folds, labels]).encode())
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(temporary, "w") as file:
      shape = (len(clip_ids), frontend.frames, frontend.n_mels)
      # Without a layout of its own HDF5 keeps the array in one piece, as the memory map needs it.
      rows = file.create_dataset("log_mel", shape, dtype)
      start = 0
      for chunk, peaks in log_mels:
        end = start + len(chunk)
        rows[start:end] = chunk
        small["peak_db"][start:end] = peaks
        digest.update(chunk.tobytes())
        start = end
      if start != len(clip_ids):
        raise ValueError(f"{start} log-mels for {len(clip_ids)} clips")
      digest.update(small["peak_db"].tobytes())
      for name, array in small.items():
        file.create_dataset(name, data=array)
      file.attrs["format"] = FORMAT
      file.attrs["settings"] = json.dumps(settings)
      file.attrs["fingerprint"] = digest.hexdigest()
    os.replace(temporary, path)
  except OSError as error:
    raise UserError(
      f"{path}: cannot be written ({error}); free space or choose another --out"
    ) from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def encode(log_mel: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
  """Log-mels [n, T, F] in dB as stored: (values, peaks float32[n]).

  uint8 keeps the RANGE_DB below each clip's peak in 255 steps of 0.31 dB; float16 keeps the dB.
  """
  peaks = log_mel.max(axis=(1, 2)).astype(np.float32)
  if dtype == "float16":
    return log_mel.astype(np.float16), peaks
  above_floor = log_mel - peaks[:, None, None] + RANGE_DB
  return np.rint(above_floor.clip(0, RANGE_DB) * (255 / RANGE_DB)).astype(np.uint8), peaks
