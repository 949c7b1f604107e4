"""A sound as windows of one length, cut while it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import soxr

from atgcn_jax.audio.decoding import Sound


class Window(NamedTuple):
  """Samples float32[size] that begin at sample `start` of a sound; behind `stop` is silence."""

  start: int
  stop: int
  waveform: np.ndarray


def shortest_tail(size: int) -> int:
  """The samples of sound, a tenth of a window, that are worth another window of their own."""
  return -(-size // 10)


def resampled(sound: Sound, sample_rate: int) -> Sound:
  """The sound at another rate, bit by bit what `files.resample` makes of the whole.

  Args:
    sample_rate: the rate asked for, in Hz.
  """
  if sound.rate == sample_rate:
    return sound
  samples = max(1, round(sound.samples * sample_rate / sound.rate))
  return Sound(sample_rate, samples, _resampled(sound, sample_rate), sound.findings)


def _resampled(sound: Sound, sample_rate: int) -> Iterator[np.ndarray]:
  stream = soxr.ResampleStream(sound.rate, sample_rate, 1, dtype="float32", quality="HQ")
  first, made = None, 0
  for block in sound.blocks:
    first = block[:1] if first is None else first
    made += len(piece := stream.resample_chunk(block))
    yield piece
  made += len(piece := stream.resample_chunk(np.empty(0, np.float32), last=True))
  yield piece
  # Less than half a sample of sound rounds to nothing; a sound stays a sound.
  if first is not None and not made:
    yield first


def cut(
  blocks: Iterable[np.ndarray], size: int, hop: int, *, shortest: int = 1, at_end: bool = False
) -> Iterator[Window]:
  """The windows of a sound that begin every `hop` samples, at least one.

  What remains behind the last whole window becomes a window filled up with silence if it has at
  least `shortest` samples; with `at_end`, a whole window that ends with the sound takes its place.
  A sound shorter than a window is always filled up.

  Args:
    blocks: float32[n], at least one sample in all.
    size: samples of a window.
    hop: samples from one window to the next, at most `size`.

  Raises:
    ValueError: for another size or hop, or no samples.
  """
  if not 1 <= hop <= size:
    raise ValueError(f"windows of {size} samples cannot begin every {hop}")
  kept, base, start = np.empty(0, np.float32), 0, 0  # kept[0] is sample `base`
  for block in blocks:
    kept = np.concatenate([kept, block])
    total = base + len(kept)
    while start + size <= total:
      yield Window(start, start + size, kept[start - base : start - base + size].copy())
      start += hop
    drop = max(0, min(start, total - size) - base)
    kept, base = kept[drop:], base + drop
  total = base + len(kept)
  if not total:
    raise ValueError("a sound has at least one sample")
  covered = start - hop + size if start else 0
  if start and at_end:
    if covered < total:
      yield Window(total - size, total, kept[-size:].copy())
  elif not start or total - start >= shortest:
    rest = kept[start - base :]
    yield Window(start, total, np.pad(rest, (0, size - len(rest))))
