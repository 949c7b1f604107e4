"""Mel filter banks over the bins of a Fourier transform."""

from __future__ import annotations

import functools

import numpy as np

# The Slaney scale: linear up to 1000 Hz, which is 15 mel; 27 mel per factor of 6.4 above.
_KNEE_HZ, _KNEE_MEL, _STEP = 1000.0, 15.0, np.log(6.4) / 27.0


@functools.lru_cache(maxsize=16)
def mel_filterbank(
  *,
  sample_rate: int,
  n_fft: int,
  n_mels: int,
  fmin: float,
  fmax: float,
  mel_scale: str = "slaney",
) -> np.ndarray:
  """Return the triangular filters, float32[F, n_fft // 2 + 1], read-only.

  The corners are equidistant on the mel scale. With "slaney" the triangles are linear in Hz and
  have unit area. With "htk" they are linear in mel and have height 1. The lowest bin, 0 Hz, has
  weight 0.

  Args:
    sample_rate: Sample rate of the waveform, in Hz.
    n_fft: Number of points of the Fourier transform.
    n_mels: Number of mel bands, F.
    fmin: Lower end of the lowest band, in Hz.
    fmax: Upper end of the highest band, in Hz.
    mel_scale: "slaney" or "htk".

  Raises:
    ValueError: The scale is unknown.

  Source:
    Slaney, Auditory Toolbox (1998); librosa.filters.mel with htk=False, norm="slaney". Young et
    al., The HTK Book; Hershey et al., ICASSP 2017 (VGGish).
  """
  bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
  if mel_scale == "htk":
    low, high = _hz_to_htk_mel(np.array([fmin, fmax]))
    return _triangles(np.linspace(low, high, n_mels + 2), _hz_to_htk_mel(bins), 1.0)
  if mel_scale != "slaney":
    raise ValueError(f"unknown mel scale {mel_scale!r}; choose slaney or htk")
  corners = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2))
  return _triangles(corners, bins, 2 / (corners[2:] - corners[:-2])[:, None])


def _triangles(corners: np.ndarray, bins: np.ndarray, height: np.ndarray | float) -> np.ndarray:
  """Return triangles over three corners each, sampled at the bins, float32[F, N], read-only."""
  lower, centre, upper = corners[:-2, None], corners[1:-1, None], corners[2:, None]
  slopes = np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre))
  bank = (np.maximum(slopes, 0) * height).astype(np.float32)
  bank.setflags(write=False)
  return bank


def _hz_to_mel(hz: float) -> float:
  if hz < _KNEE_HZ:
    return hz * _KNEE_MEL / _KNEE_HZ
  return float(_KNEE_MEL + np.log(hz / _KNEE_HZ) / _STEP)


def _hz_to_htk_mel(hz: np.ndarray) -> np.ndarray:
  return 1127.0 * np.log1p(hz / 700.0)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
  above = _KNEE_HZ * np.exp(_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
  return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)
