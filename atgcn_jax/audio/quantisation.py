"""Log-mels as they are stored, in uint8 or float16, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

RANGE_DB = 80.0  # below its clip's peak, what uint8 spans


def quantise(log_mel: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
  """Return log-mels [N, T, F] in dB as stored: (values [N, T, F], peaks float32[N] in dB).

  uint8 keeps the RANGE_DB below each clip's peak in 255 steps of 0.31 dB; float16 keeps the dB.

  Raises:
    ValueError: if a value is NaN or infinite, or outside the range of float16.
  """
  if not np.isfinite(log_mel).all():
    raise ValueError("its log-mel is NaN or infinite")
  peaks = log_mel.max(axis=(1, 2)).astype(np.float32)
  if dtype == "float16":
    if (largest := np.abs(log_mel).max()) > (limit := np.finfo(np.float16).max):
      raise ValueError(f"its log-mel reaches {largest:g}, float16 only {limit:g}")
    return log_mel.astype(np.float16), peaks
  above_floor = log_mel - peaks[:, None, None] + RANGE_DB
  return np.rint(above_floor.clip(0, RANGE_DB) * (255 / RANGE_DB)).astype(np.uint8), peaks


def dequantise(values: Any, peak_db: Any) -> Any:
  """Return float32 log-mels in dB from uint8 `values`, cast to float32, and peaks [N] in dB.

  Takes and returns NumPy or JAX arrays [N, T, F].
  """
  return values * (RANGE_DB / 255) + (peak_db[:, None, None] - RANGE_DB)
