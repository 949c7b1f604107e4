"""Cutting of a sound into windows of one length while it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soxr

from atgcn_jax.audio.decoding import Sound


class Window(NamedTuple):
  """Samples float32[S] of a sound from `start` on. Samples after `stop` are zeros."""

  start: int
  stop: int
  waveform: np.ndarray


def shortest_tail(size: int) -> int:
  """Return the minimum number of remaining samples for another window: a tenth of a window."""
  return -(-size // 10)


def resampled(sound: Sound, sample_rate: int) -> Sound:
  """Return the sound at another sample rate, with the same bits as from `sound_files.resample`.

  Args:
    sound: The sound.
    sample_rate: The new sample rate, in Hz.
  """
  if sound.rate == sample_rate:
    return sound
  samples = max(1, round(sound.samples * sample_rate / sound.rate))
  return Sound(sample_rate, samples, _resampled(sound, sample_rate), sound.findings)


def _resampled(sound: Sound, sample_rate: int) -> Iterator[np.ndarray]:
  """Yield the resampled blocks."""
  stream = soxr.ResampleStream(sound.rate, sample_rate, 1, dtype="float32", quality="HQ")
  first, made = None, 0
  for block in sound.blocks:
    first = block[:1] if first is None else first
    made += len(piece := stream.resample_chunk(block))
    yield piece
  made += len(piece := stream.resample_chunk(np.empty(0, np.float32), last=True))
  yield piece
  # A sound shorter than half a new sample would become empty; keep one sample.
  if first is not None and not made:
    yield first


def cut(
  blocks: Iterable[np.ndarray], size: int, hop: int, *, shortest: int = 1, at_end: bool = False
) -> Iterator[Window]:
  """Yield the windows of a sound that start every `hop` samples, at least one.

  A sound shorter than a window is always padded with zeros.

  Args:
    blocks: float32[n], at least one sample over all blocks.
    size: Number of samples of a window.
    hop: Number of samples from one window to the next, at most `size`.
    shortest: Minimum number of samples after the last complete window for one more window, which
      is padded with zeros.
    at_end: Whether the last window is instead a complete window that ends with the sound.

  Raises:
    ValueError: `hop` is not in 1 to `size`, or there are no samples.
  """
  if not 1 <= hop <= size:
    raise ValueError(f"hop must be 1 to the window size {size}, got {hop}")
  buffer, base, start = np.empty(0, np.float32), 0, 0  # buffer[0] is sample `base`
  for block in blocks:
    buffer = np.concatenate([buffer, block])
    total = base + len(buffer)
    while start + size <= total:
      yield Window(start, start + size, buffer[start - base : start - base + size].copy())
      start += hop
    drop = max(0, min(start, total - size) - base)
    buffer, base = buffer[drop:], base + drop
  total = base + len(buffer)
  if not total:
    raise ValueError("the sound has no samples")
  covered = start - hop + size if start else 0
  if start and at_end:
    if covered < total:
      yield Window(total - size, total, buffer[-size:].copy())
  elif not start or total - start >= shortest:
    rest = buffer[start - base :]
    yield Window(start, total, np.pad(rest, (0, size - len(rest))))


def shortened(window: Window, step: int) -> Window:
  """Return the only window of a short sound, with the smallest multiple of `step` samples.

  Other windows are returned as they are.

  Args:
    window: The window.
    step: Number of samples.
  """
  steps = -(-window.stop // step)
  return window if window.start else window._replace(waveform=window.waveform[: steps * step])
