"""Quantisation of log-mels for storage in uint8 or float16."""

from __future__ import annotations

from typing import Any

import numpy as np

RANGE_DB = 80.0  # range of uint8 below the peak of the clip


def quantise(log_mel: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
  """Return the stored form of log-mels.

  uint8 covers RANGE_DB below the peak of each clip in 255 steps of 0.31 dB. float16 stores dB.

  Args:
    log_mel: float[N, T, F], in dB.
    dtype: `uint8` or `float16`.

  Returns:
    The stored values [N, T, F] and the peaks float32[N] in dB.

  Raises:
    ValueError: A value is NaN, infinite or outside the range of float16.
  """
  if not np.isfinite(log_mel).all():
    raise ValueError("its log-mel is NaN or infinite")
  peaks = log_mel.max(axis=(1, 2)).astype(np.float32)
  if dtype == "float16":
    if (largest := np.abs(log_mel).max()) > (limit := np.finfo(np.float16).max):
      raise ValueError(f"its log-mel reaches {largest:g}, beyond the float16 limit of {limit:g}")
    return log_mel.astype(np.float16), peaks
  above_floor = log_mel - peaks[:, None, None] + RANGE_DB
  return np.rint(above_floor.clip(0, RANGE_DB) * (255 / RANGE_DB)).astype(np.uint8), peaks


def dequantise(values: Any, peak_db: Any, uint8_range: float = RANGE_DB) -> Any:
  """Return log-mels in dB, or embeddings, float32[N, T, F], from stored uint8 values.

  VGGish's embeddings have the peak 2 and the range 4, so 0 … 255 become -2 … 2. This inverts the
  scaling of AudioSet's `vggish_postprocess.py`, which rounds down. YouTube-8M's `Dequantize` adds
  half a step, 4 / 512. A normaliser removes the difference, which is constant.

  Args:
    values: The uint8 values [N, T, F] after a cast to float32; a NumPy or JAX array.
    peak_db: The peaks [N], in dB.
    uint8_range: The range of the uint8 values below the peak, `Frontend.uint8_range`.
  """
  return values * (uint8_range / 255) + (peak_db[:, None, None] - uint8_range)
