"""Sound files of any format, length, rate and channel count to mono float32 waveforms."""

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
  """A waveform float32[S] at `rate` Hz, and what is wrong with it."""

  waveform: np.ndarray
  rate: int
  findings: list[Finding]


def load_waveform(source: Source, sample_rate: int) -> np.ndarray:
  """Return the sound as a mono waveform, float32[S], at `sample_rate`.

  Channels are averaged. Samples are as decoded (integers scaled to [-1, 1)), never normalised. What
  is wrong with a sound that can be used is reported by a SoundWarning.

  Args:
    source: path of a file, its bytes, or a binary file object; the content decides the format.
    sample_rate: of the waveform, in Hz.

  Raises:
    UserError: the source is missing, a folder, empty, not sound, without samples, so damaged that
      nothing decodes, or holds samples that are not finite or above `findings.LOUDEST`.

  Source: libsndfile through soundfile; soxr.
  """
  waveform, rate, findings = decode(source)
  for finding in findings:
    warnings.warn(f"{name_of(source)}: {finding.detail}", SoundWarning, stacklevel=2)
  return resample(waveform, rate, sample_rate)


def decode(source: Source, *, strict: bool = False) -> Decoded:
  """Return the sound as a mono waveform at its own sample rate.

  Args:
    source: as for `load`, and so is what is raised.
    strict: as for `opened`.
  """
  with open_sound(source, strict=strict) as sound:
    return Decoded(np.concatenate(list(sound.blocks)), sound.rate, sound.findings)


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """Returns the waveform at another rate, float32[S * to_rate / from_rate rounded, at least 1].

  Args:
    waveform: float[S], S at least 1.
    from_rate: its sample rate, in Hz.
    to_rate: the rate asked for, in Hz; the same rate leaves the samples as they are.

  Raises:
    ValueError: a rate is not positive, or the waveform is not a row of at least one sample.

  Source: soxr, quality HQ.
  """
  waveform = _row(waveform)
  if from_rate <= 0 or to_rate <= 0:
    raise ValueError(f"sample rates must be positive, got {from_rate} and {to_rate}")
  if from_rate == to_rate:
    return waveform
  resampled = soxr.resample(waveform, from_rate, to_rate, quality="HQ")
  # Less than half a sample of sound rounds to nothing; a sound stays a sound.
  return resampled if resampled.size else waveform[:1]


def _row(waveform: np.ndarray) -> np.ndarray:
  waveform = np.asarray(waveform, np.float32)
  if waveform.ndim != 1 or not waveform.size:
    raise ValueError(f"expected a waveform [S] with S at least 1, got shape {waveform.shape}")
  return waveform
