"""Sources of sounds: a path, the bytes of a file, samples, or a folder of files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from atgcn_jax.audio import decoding, folders
from atgcn_jax.audio.decoding import Sound
from atgcn_jax.audio.findings import Finding, Meter, fault_of, first_unusable
from atgcn_jax.audio.folders import SOUNDS
from atgcn_jax.audio.inputs import one_line
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import path_of

MOST_CHANNELS = 64  # of samples and of uploads
MOST_HZ = 1_000_000  # highest sample rate of samples and of uploads
_BLOCK = 1 << 18  # number of samples per block of an array


@contextlib.contextmanager
def open_any_sound(source: Any, rate: int, *, strict: bool = False) -> Iterator[Sound]:
  """Open a sound, which can be read block by block within the context.

  Args:
    source: A path, the bytes of a sound file, a binary file object, or samples [S] or
      [S, channels].
    rate: The sample rate of samples, in Hz.
    strict: Whether to refuse incomplete files.

  Yields:
    The sound.

  Raises:
    UserError: If the file cannot be read as sound.
    ValueError: If samples are not as `float_samples` takes them, or `rate` is not
      `decoding.SLOWEST_HZ` to MOST_HZ.
  """
  if not hasattr(source, "__array__"):
    with decoding.open_sound(source, strict=strict) as sound:
      yield sound
    return
  if not decoding.SLOWEST_HZ <= rate <= MOST_HZ:  # soxr never ends at an infinite rate
    raise ValueError(
      f"rate must be positive and finite, {decoding.SLOWEST_HZ} to {MOST_HZ} Hz, got {rate}"
    )
  samples = float_samples(source)
  findings: list[Finding] = []

  def blocks() -> Iterator[np.ndarray]:
    meter = Meter()
    for start in range(0, len(samples), _BLOCK):
      yield meter.add(samples[start : start + _BLOCK])
    findings.extend(meter.findings())

  yield Sound(rate, len(samples), blocks(), findings)


def is_folder(source: Any) -> bool:
  """Return whether a source is the path of a folder."""
  if not isinstance(source, str | os.PathLike):
    return False
  try:
    return path_of(source).is_dir()
  except (OSError, ValueError):  # reported when the source is opened
    return False


def sounds_in(folder: str | os.PathLike) -> tuple[list[str], list[UserError]]:
  """Return the sorted paths of the sound files in a folder and its subfolders.

  Sound files are recognised by their suffixes; see `folders.contents`.

  Returns:
    The paths, and errors for files of other formats, unreadable folders and broken links. Files
    with a known suffix but without sound are in the paths.

  Raises:
    UserError: If there is no sound file.
  """
  place, name = path_of(folder), one_line(folder)
  found = folders.contents(folder)
  sounds = [os.fspath(place / path) for path in found.files if path.lower().endswith(SOUNDS)]
  others = folders.other_formats(found.files)
  if not sounds:
    why = [f"{one_line(path)} is {reason}" for path, reason in found.faults[: folders.SHOWN]]
    why = [*why, *([others] if others else [])] or ["name a folder with sound files"]
    raise UserError(f"{name}: no sound file in this folder; {'; '.join(why)}")
  left_out = [
    UserError(f"{one_line(place / path)}: is {reason}; restore it or remove it")
    for path, reason in found.faults
  ]
  return sounds, [*left_out, *([UserError(f"{name}: {others}")] if others else [])]


def spread(sources: Iterable[Any]) -> tuple[list[Any], list[Exception]]:
  """Return the sources with folders replaced by their sound files, and the errors of folders."""
  found: list[Any] = []
  bad: list[Exception] = []
  for source in sources:
    try:
      sounds, left_out = sounds_in(source) if is_folder(source) else ([source], [])
    except UserError as error:
      bad.append(error)
    else:
      found.extend(sounds)
      bad.extend(left_out)
  return found, bad


def float_samples(given: Any) -> np.ndarray:
  """Return samples [S] or [S, channels] as float32[S, channels].

  Integers are scaled as PCM samples.

  Raises:
    ValueError: If the shape is different, there are more than MOST_CHANNELS channels or no samples,
      the type is not an integer or a float, or a sample is masked, not finite or above
      `findings.LOUDEST`.
  """
  if np.ma.is_masked(given):
    raise ValueError("some of the samples are masked; fill them, or leave them out")
  samples = np.asarray(given)
  if samples.ndim not in (1, 2) or not samples.size:
    raise ValueError(f"expected samples [S] or [S, channels], got shape {samples.shape}")
  if samples.ndim == 2 and samples.shape[1] > MOST_CHANNELS:
    raise ValueError(
      f"expected samples [S] or [S, channels] with at most {MOST_CHANNELS} channels, got shape "
      f"{samples.shape}; transpose samples [channels, S]"
    )
  if samples.dtype.kind in "iu":
    info = np.iinfo(samples.dtype)
    middle = (info.max + info.min + 1) // 2  # 0, or half the range of an unsigned type
    samples = (samples - float(middle)) / (float(info.max) + 1 - middle)
  elif not jax.dtypes.issubdtype(samples.dtype, np.floating):
    raise ValueError(f"expected samples of an integer or float type, got {samples.dtype}")
  with np.errstate(over="ignore"):  # values beyond float32 are refused below
    samples = samples.astype(np.float32)
  if (bad := first_unusable(samples.ravel())) is not None:
    raise ValueError(f"one of the samples is {fault_of(samples.flat[bad])}")
  return samples.reshape(len(samples), -1)
