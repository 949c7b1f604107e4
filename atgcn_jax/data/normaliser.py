"""Mean and standard deviation of each band of the training log-mels."""

from __future__ import annotations

import numpy as np

from atgcn_jax.audio.quantisation import RANGE_DB, dequantise
from atgcn_jax.data.store.clip_store import ClipStore

CHUNK = 256


def band_statistics(store: ClipStore, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the mean and the standard deviation, float32[F] in dB, over all frames of the clips.

  A constant band gets the deviation 1.

  Raises:
    ValueError: If there are no clips.
    UserError: If a log-mel is not finite.
  """
  if not len(clips):
    raise ValueError("no clips to compute statistics of")
  total = np.zeros(store.log_mel.shape[2])
  squares = np.zeros_like(total)
  for start in range(0, len(clips), CHUNK):
    some = np.sort(clips[start : start + CHUNK])
    stored, peaks = store.log_mels(some), store.peak_db[some]
    log_mel = decibels(stored, peaks, store.frontend.uint8_range).astype(np.float64)
    total += log_mel.sum(axis=(0, 1))
    squares += np.einsum("btf,btf->f", log_mel, log_mel)
  frames = len(clips) * store.log_mel.shape[1]
  mean = total / frames
  deviation = np.sqrt(np.maximum(squares / frames - mean**2, 0))
  return mean.astype(np.float32), np.where(deviation > 1e-3, deviation, 1).astype(np.float32)


def decibels(log_mel: np.ndarray, peak_db: np.ndarray, uint8_range: float = RANGE_DB) -> np.ndarray:
  """Convert stored log-mels [B, T, F] to float32 in dB; see `dequantise` for the arguments."""
  values = log_mel.astype(np.float32)
  return dequantise(values, peak_db, uint8_range) if log_mel.dtype == np.uint8 else values
