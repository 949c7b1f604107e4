"""What a sound can be given as: a path, the bytes of a file, samples, or a folder of files."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from atgcn_jax.audio import files
from atgcn_jax.audio.files import Sound
from atgcn_jax.buckets import path_of
from atgcn_jax.errors import UserError

# Of the files of a folder; a file that is named by itself may be called anything.
SUFFIXES = (
  *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
  *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
)
_BLOCK = 1 << 18  # samples of an array handed on at a time


@contextlib.contextmanager
def opened(source: Any, rate: int) -> Iterator[Sound]:
  """The sound, to be read block by block while the context lasts.

  Args:
    source: a path, the bytes of a sound file, a binary file object, or samples [S] or
      [S, channels].
    rate: of samples, in Hz.

  Raises:
    UserError: for a file that is not sound.
    ValueError: for samples that are empty, not finite or of another shape, or such a rate.
  """
  if not hasattr(source, "__array__"):
    with files.opened(source) as sound:
      yield sound
    return
  if rate <= 0:
    raise ValueError(f"the rate of samples must be positive, got {rate}")
  waveform = mono(np.asarray(source))
  starts = range(0, len(waveform), _BLOCK)
  yield Sound(rate, len(waveform), (waveform[start : start + _BLOCK] for start in starts))


def is_folder(source: Any) -> bool:
  """Whether this is the path of a folder."""
  if not isinstance(source, str | os.PathLike):
    return False
  try:
    return path_of(source).is_dir()
  except (OSError, ValueError):  # told when it is opened
    return False


def sounds_in(folder: str | os.PathLike) -> list[str]:
  """The paths of the sound files in a folder and the folders in it, sorted.

  They are known by their suffixes; hidden files are left out.

  Raises:
    UserError: if there is none.
  """
  place = path_of(folder)
  found = [
    os.fspath(path)
    for path in place.rglob("*")
    if pathlib.PurePath(path.name).suffix.lower() in SUFFIXES and not path.name.startswith(".")
  ]
  found = sorted(path for path in found if not path_of(path).is_dir())
  if not found:
    raise UserError(
      f"{files.one_line(folder)}: no sound file in this folder; name one that has any"
    )
  return found


def spread(sources: Iterable[Any]) -> tuple[list[Any], list[Exception]]:
  """The sources with folders replaced by their sound files, and what is wrong with folders."""
  found: list[Any] = []
  bad: list[Exception] = []
  for source in sources:
    try:
      found.extend(sounds_in(source) if is_folder(source) else [source])
    except UserError as error:
      bad.append(error)
  return found, bad


def mono(samples: np.ndarray) -> np.ndarray:
  """Samples [S] or [S, channels] as float32[S]; integers are taken for full-scale PCM.

  Raises:
    ValueError: for another shape, no samples, or samples that are not finite or above
      `files.LOUDEST`.
  """
  if samples.ndim not in (1, 2) or not samples.size:
    raise ValueError(f"expected samples [S] or [S, channels], got shape {samples.shape}")
  if np.issubdtype(samples.dtype, np.integer):
    info = np.iinfo(samples.dtype)
    middle = (info.max + info.min + 1) // 2  # 0, or half the range of an unsigned type
    samples = (samples - float(middle)) / (float(info.max) + 1 - middle)
  with np.errstate(over="ignore"):  # what exceeds float32 is refused
    samples = samples.astype(np.float32)
  if (bad := files.first_unusable(samples.ravel())) is not None:
    raise ValueError(f"one of the samples is {files.fault_of(samples.flat[bad])}")
  return samples if samples.ndim == 1 else samples.mean(axis=1)
