"""What is wrong with a sound that can be used: part of it is missing, or its samples look wrong."""

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
CANCELLED = 0.02  # of the energy that independent channels keep when they are averaged


# The largest sample that is sound, where full scale is 1. The power spectrum of samples above 1e16
# exceeds float32, and then log-mels are infinite.
LOUDEST = 1e12


class Finding(NamedTuple):
  """One thing that is wrong: one of KINDS, and one line that says what it is.

  `seconds` is how much sound is not used because of it, NaN where that is not known.
  """

  kind: str
  detail: str
  seconds: float = 0.0


class Meter:
  """Peak and energies of a sound, measured block by block."""

  def __init__(self) -> None:
    """Before the first block."""
    self.samples = 0
    self.channels = 1
    self._peak = 0.0
    self._energy = self._energy_of_sum = 0.0

  def add(self, block: np.ndarray) -> np.ndarray:
    """Measure the next samples float32[n, C]; returns the mean of their channels, float32[n]."""
    with np.errstate(all="ignore"):  # samples that are not finite are reported by the caller
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
    """What the samples measured so far look like."""
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
          f"its {self.channels} channels are out of phase and cancel in their mean, which is what "
          "is used; write the file from one channel",
        )
      )
    return found


def first_unusable(waveform: np.ndarray) -> int | None:
  """Return where the first sample is that is not finite or above LOUDEST; None where all are sound.

  Args:
    waveform: float[S].
  """
  sound = np.abs(waveform) <= LOUDEST  # false for NaN
  return None if sound.all() else int(np.argmin(sound))


def fault_of(sample: float) -> str:
  """Return what is wrong with an unusable sample, for messages."""
  if not np.isfinite(sample):
    return "NaN or infinite"
  return f"{sample:.3g}, where full scale is 1 and the limit {LOUDEST:g}"


def incomplete(fault: str, seconds: float, missing: float) -> Finding:
  """The finding on a file of which only a part can be used.

  Args:
    fault: what is wrong with the file.
    seconds: of the sound that is used.
    missing: seconds that are missing, NaN where that is not known.
  """
  if math.isnan(missing):
    text = f"{seconds:.3f} s are used; how much is missing is not known"
  elif missing:
    whole = seconds + missing
    lacking = f"{missing:.3f}" if missing >= 0.001 else "less than 0.001"
    text = f"{lacking} of {whole:.3f} s ({missing / whole:.1%}) are missing; the rest is used"
  else:
    text = f"all {seconds:.3f} s that are there are used"
  return Finding(INCOMPLETE, f"{fault}; {text}", missing)
