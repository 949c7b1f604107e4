"""Findings on usable sounds: a part is missing, or the samples look wrong."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

INCOMPLETE, SILENT, OUT_OF_RANGE, OUT_OF_PHASE = KINDS = (
  "incomplete",
  "silent",
  "out of range",
  "out of phase",
)
SILENT_PEAK = 1e-4  # -80 dB of full scale; one step of 16 bits is 3e-5
LARGEST_PEAK = 8.0  # 18 dB above full scale; lossy codecs stay below 2
CANCELLED = 0.02  # share of the energy that independent channels keep when averaged


# The largest valid sample, where full scale is 1. The power spectrum of samples above 1e16 exceeds
# float32, which makes log-mels infinite.
LOUDEST = 1e12


class Finding(NamedTuple):
  """One problem of a sound.

  Attributes:
    kind: One of KINDS.
    detail: One line that describes the problem.
    seconds: The length of the sound that is unused because of it, in seconds. NaN if unknown.
  """

  kind: str
  detail: str
  seconds: float = 0.0


class Meter:
  """The peak and the energies of a sound, measured block by block."""

  def __init__(self) -> None:
    """Start with no samples."""
    self.samples = 0
    self.channels = 1
    self._peak = 0.0
    self._energy = self._energy_of_sum = 0.0

  def add(self, block: np.ndarray) -> np.ndarray:
    """Measure the next samples float32[n, C] and return the mean of their channels, float32[n]."""
    with np.errstate(all="ignore"):  # the caller reports samples that are not finite
      waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
      self.samples += len(block)
      if len(block):
        self._peak = max(self._peak, float(block.max()), -float(block.min()))
      if block.shape[1] > 1:
        self.channels = max(self.channels, block.shape[1])
        self._energy += float(np.vdot(block, block))
        self._energy_of_sum += float(np.vdot(waveform, waveform)) * block.shape[1] ** 2
    return waveform

  def findings(self) -> list[Finding]:
    """Return the findings on the samples measured so far."""
    if not self.samples:
      return []
    if self._peak < SILENT_PEAK:
      return [Finding(SILENT, f"is silent: no sample exceeds {SILENT_PEAK:g} of full scale")]
    found = []
    if self._peak > LARGEST_PEAK:
      found.append(
        Finding(
          OUT_OF_RANGE,
          f"samples reach {self._peak:.4g}, where full scale is 1; divide int16 values stored as "
          "float by 32768",
        )
      )
    if self.channels > 1 and self._energy_of_sum < CANCELLED * self._energy:
      found.append(
        Finding(
          OUT_OF_PHASE,
          f"its {self.channels} channels are out of phase and cancel when averaged to mono; write "
          "the file from one channel",
        )
      )
    return found


def first_unusable(waveform: np.ndarray) -> int | None:
  """Return the position of the first sample that is not finite or above LOUDEST, or None.

  Args:
    waveform: float[S].
  """
  valid = np.abs(waveform) <= LOUDEST  # False for NaN
  return None if valid.all() else int(np.argmin(valid))


def fault_of(sample: float) -> str:
  """Describe an unusable sample, for messages."""
  if not np.isfinite(sample):
    return "NaN or infinite"
  return f"{sample:.3g}, where full scale is 1 and the limit {LOUDEST:g}"


def incomplete(fault: str, seconds: float, missing: float) -> Finding:
  """Return the finding on a damaged or incomplete file.

  Args:
    fault: What is wrong with the file.
    seconds: The length of the used part, in seconds.
    missing: The length of the missing part, in seconds. NaN if unknown.
  """
  if math.isnan(missing):
    text = f"{seconds:.3f} s are used; the missing length is unknown"
  elif missing:
    whole = seconds + missing
    lacking = f"{missing:.3f}" if missing >= 0.001 else "less than 0.001"
    text = f"{lacking} of {whole:.3f} s ({missing / whole:.1%}) are missing; the rest is used"
  else:
    text = f"all {seconds:.3f} s present are used"
  return Finding(INCOMPLETE, f"{fault}; {text}", missing)
