"""Bands of equal width in mel, as filters over the bins of a Fourier transform."""

from __future__ import annotations

import functools

import numpy as np

# The Slaney scale: 15 mel are 1000 Hz, linear below, 27 steps to every factor of 6.4 above.
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
  """Returns the triangular filters, float32[F, n_fft // 2 + 1], read-only.

  The corners are equally far apart on the mel scale. On Slaney's, each triangle is one over Hz, of
  unit area; on HTK's, one over mel, of height 1; the
  lowest bin, 0 Hz, weighs nothing.

  Args:
    sample_rate: of the waveform, in Hz.
    n_fft: points of the Fourier transform.
    n_mels: mel bands, F.
    fmin: lower end of the lowest band, in Hz.
    fmax: upper end of the highest band, in Hz.
    mel_scale: "slaney" or "htk".

  Raises:
    ValueError: another scale.

  Source: Slaney, Auditory Toolbox (1998); librosa.filters.mel with htk=False, norm="slaney".
    Young et al., The HTK Book; Hershey et al., ICASSP 2017 (VGGish).
  """
  bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
  if mel_scale == "htk":
    low, high = _hz_to_htk_mel(np.array([fmin, fmax]))
    return _triangles(np.linspace(low, high, n_mels + 2), _hz_to_htk_mel(bins), 1.0)
  if mel_scale != "slaney":
    raise ValueError(f"mel scale {mel_scale!r} is not known; choose slaney or htk")
  corners = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2))
  return _triangles(corners, bins, 2 / (corners[2:] - corners[:-2])[:, None])


def _triangles(corners: np.ndarray, bins: np.ndarray, height: np.ndarray | float) -> np.ndarray:
  """float32[F, N], read-only: triangles over three corners each, at these bins."""
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
