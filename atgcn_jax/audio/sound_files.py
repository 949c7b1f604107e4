"""Loading of sound files of any format, length, rate and channel count as mono waveforms."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import soxr

from atgcn_jax.audio.decoding import open_sound
from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.inputs import Source, name_of
from atgcn_jax.errors import SoundWarning


class Decoded(NamedTuple):
  """A waveform float32[S] at `rate` Hz, and the findings on the sound."""

  waveform: np.ndarray
  rate: int
  findings: list[Finding]


def load_waveform(source: Source, sample_rate: int) -> np.ndarray:
  """Return a sound as a mono waveform, float32[S], at `sample_rate`.

  Channels are averaged. Samples are as decoded (integers scaled to [-1, 1)) and not normalised.

  Args:
    source: The path of a file, its bytes, or a binary file object. The content determines the
      format.
    sample_rate: The sample rate of the waveform, in Hz.

  Warns:
    SoundWarning: Part of the sound is missing, or its samples look wrong.

  Raises:
    UserError: The source is missing, a folder, empty, not sound, without samples, too damaged to
      decode, or contains samples that are not finite or above `findings.LOUDEST`.

  Source:
    libsndfile through soundfile; soxr.
  """
  waveform, rate, findings = decode(source)
  for finding in findings:
    warnings.warn(f"{name_of(source)}: {finding.detail}", SoundWarning, stacklevel=2)
  return resample(waveform, rate, sample_rate)


def decode(source: Source, *, strict: bool = False) -> Decoded:
  """Return a sound as a mono waveform at its own sample rate.

  Args:
    source: As for `load_waveform`.
    strict: Whether to refuse a sound with missing parts.

  Raises:
    UserError: As for `load_waveform`; with `strict`, also if a part is missing.
  """
  with open_sound(source, strict=strict) as sound:
    return Decoded(np.concatenate(list(sound.blocks)), sound.rate, sound.findings)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """Return the waveform at another sample rate.

  Args:
    waveform: float[S], S at least 1.
    from_rate: Its sample rate, in Hz.
    to_rate: The new sample rate, in Hz. The same rate leaves the samples unchanged.

  Returns:
    float32[S'], S' = S * to_rate / from_rate, rounded, at least 1.

  Raises:
    ValueError: A rate is not positive, or the waveform is not one-dimensional or is empty.

  Source:
    soxr, quality HQ.
  """
  waveform = _row(waveform)
  if from_rate <= 0 or to_rate <= 0:
    raise ValueError(f"sample rates must be positive, got {from_rate} and {to_rate}")
  if from_rate == to_rate:
    return waveform
  resampled = soxr.resample(waveform, from_rate, to_rate, quality="HQ")
  # A sound shorter than half a new sample would become empty; keep one sample.
  return resampled if resampled.size else waveform[:1]


def _row(waveform: np.ndarray) -> np.ndarray:
  """Return the waveform in float32, or raise if it is not one-dimensional or is empty."""
  waveform = np.asarray(waveform, np.float32)
  if waveform.ndim != 1 or not waveform.size:
    raise ValueError(f"expected a waveform [S] with S at least 1, got shape {waveform.shape}")
  return waveform
