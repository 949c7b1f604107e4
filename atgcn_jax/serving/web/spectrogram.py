"""The spectrogram of the page: the mel bands of a front end, pooled to the width of a screen."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.mel import mel_filterbank

COLUMNS = 1500  # maximum number of columns
RANGE_DB = 70.0  # below the loudest value
_AT_ONCE = 1024  # number of frames per Fourier transform


def spectrogram_json(waveform: np.ndarray, frontend: Frontend) -> dict[str, Any]:
  """Return the mel spectrogram of a waveform as JSON.

  NumPy computes it, because JAX would compile a program for each length.

  Args:
    waveform: float32[S] at the rate of the front end.
    frontend: The front end.

  Returns:
    `columns` and `bands`; `data`, base64 of uint8[columns, bands], where 255 is the loudest value
    and 0 is RANGE_DB below; `seconds_per_column`; and `hz`, the centre of each band.
  """
  mel = _mel(waveform, frontend)
  pooled = -(-len(mel) // COLUMNS)
  mel = np.maximum.reduceat(mel, np.arange(0, len(mel), pooled))
  decibels = 10 / frontend.power * 2 * np.log10(np.maximum(mel, 1e-10))
  scaled = (decibels - decibels.max()) / RANGE_DB + 1
  levels = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
  return {
    "columns": len(levels),
    "bands": frontend.n_mels,
    "data": base64.b64encode(levels.tobytes()).decode(),
    "seconds_per_column": pooled * frontend.hop / frontend.sample_rate,
    "hz": [round(hz) for hz in _centres(frontend)],
  }


def _bank(frontend: Frontend) -> np.ndarray:
  names = ("sample_rate", "n_fft", "n_mels", "fmin", "fmax", "mel_scale")
  return mel_filterbank(**{name: getattr(frontend, name) for name in names})


def _centres(frontend: Frontend) -> list[float]:
  """Return the frequency of the highest weight of each band, in Hz."""
  bins = _bank(frontend).argmax(axis=1)
  return (bins * frontend.sample_rate / frontend.n_fft).tolist()


def _mel(waveform: np.ndarray, frontend: Frontend) -> np.ndarray:
  """Return magnitudes or powers float32[T, F], one frame per hop, at least one."""
  size = frontend.win_length
  padded = np.pad(waveform, (size // 2, max(size - size // 2, size - len(waveform))))
  frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: frontend.hop]
  window, bank = np.hanning(size).astype(np.float32), _bank(frontend).T
  parts = []
  for start in range(0, len(frames), _AT_ONCE):
    spectra = np.abs(np.fft.rfft(frames[start : start + _AT_ONCE] * window, frontend.n_fft))
    parts.append((spectra**frontend.power).astype(np.float32) @ bank)
  return np.concatenate(parts)
