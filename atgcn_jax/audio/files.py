"""Sound files of any format, length, rate and channel count to mono float32 waveforms."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from atgcn_jax.audio import containers
from atgcn_jax.buckets import path_of
from atgcn_jax.errors import UserError

Source = str | os.PathLike | bytes | BinaryIO

_BLOCK = 1 << 18  # frames decoded at a time, so that channels are averaged in small pieces
MIN_TAIL = 10  # a last window with less than 1/10 of sound is dropped


def load(source: Source, sample_rate: int) -> np.ndarray:
  """Returns the sound as a mono waveform, float32[S], at `sample_rate`.

  Channels are averaged. Samples are as decoded (integers scaled to [-1, 1)), never normalised.

  Args:
    source: path of a file, its bytes, or a binary file object; the content decides the format.
    sample_rate: of the waveform, in Hz.

  Raises:
    UserError: the source is missing, a folder, empty, not sound, cut short, damaged, without
      samples, or holds samples that are not finite.

  Source: libsndfile through soundfile; soxr.
  """
  return resample(*decode(source), sample_rate)


def decode(source: Source) -> tuple[np.ndarray, int]:
  """Returns the sound as a mono waveform, float32[S], at its own sample rate, and that, in Hz.

  Args:
    source: as for `load`, and so is what is raised.
  """
  name, data = _read(source)
  waveform, rate = _decode(name, data)
  if not waveform.size:
    raise UserError(f"{name}: holds no samples; leave it out or record it again")
  bad = np.flatnonzero(~np.isfinite(waveform))
  if bad.size:
    raise UserError(
      f"{name}: {bad.size} samples are NaN or infinite, the first at {bad[0] / rate:.3f} s; "
      "write the file again from its source"
    )
  return waveform, rate


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


def windows(waveform: np.ndarray, size: int) -> np.ndarray:
  """Returns consecutive windows of the waveform, float32[N, size], N at least 1.

  The last window is padded with zeros at its end; where less than a tenth of it would be sound and
  another window comes before it, it is left out.

  Args:
    waveform: float[S], S at least 1.
    size: samples in a window.

  Raises:
    ValueError: `size` is not positive, or the waveform is not a row of at least one sample.
  """
  waveform = _row(waveform)
  if size <= 0:
    raise ValueError(f"a window has at least one sample, got size {size}")
  full, rest = divmod(waveform.size, size)
  count = full + (rest * MIN_TAIL >= size or not full) if rest else full
  kept = waveform[: count * size]
  return np.pad(kept, (0, count * size - kept.size)).reshape(count, size)


def _row(waveform: np.ndarray) -> np.ndarray:
  waveform = np.asarray(waveform, np.float32)
  if waveform.ndim != 1 or not waveform.size:
    raise ValueError(f"expected a waveform [S] with S at least 1, got shape {waveform.shape}")
  return waveform


class _Memory(io.BytesIO):
  """Bytes as a file in which a seek to before the start fails in silence, as libsndfile expects."""

  def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
    try:
      return super().seek(offset, whence)
    except ValueError:
      return self.tell()


def _read(source: Source) -> tuple[str, bytes]:
  """Returns a name for messages, and all bytes."""
  if isinstance(source, bytes | bytearray | memoryview):
    name, data = "sound data", bytes(source)
  elif isinstance(source, str | os.PathLike):
    name = _one_line(os.fspath(source))
    try:
      data = path_of(source).read_bytes()
    except FileNotFoundError:
      raise UserError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
      raise UserError(f"{name}: is a folder; name the sound files in it") from None
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or error
      raise UserError(f"{name}: cannot be read ({reason}); check path and permissions") from None
  else:
    name, data = _one_line(getattr(source, "name", "sound data")), source.read()
    if not isinstance(data, bytes):
      raise TypeError("a file object must be open in binary mode")
  if not data:
    raise UserError(f"{name}: is empty (0 bytes); fetch or record it again")
  return name, data


def _one_line(name: object) -> str:
  text = str(name)
  return text if text.isprintable() else ascii(text)


def _decode(name: str, data: bytes) -> tuple[np.ndarray, int]:
  """Returns the mean of the channels, float32[S], and the sample rate."""
  data, fault = containers.checked(data)
  if fault:
    raise _damaged(name, fault)
  try:
    sound = soundfile.SoundFile(_Memory(data))
  except soundfile.SoundFileError as error:
    reason = "malformed" if "malformed" in str(error) else "format not known"
    raise UserError(
      f"{name}: cannot be read as sound ({reason}); give an intact wav, flac, ogg or mp3 file"
    ) from None
  with sound:
    if sound.frames > 2**62:  # a flac encoder that wrote to a pipe; libsndfile cannot read its end
      raise _damaged(name, "its header does not say how long it is")
    blocks = [np.empty(0, np.float32)]
    try:
      while len(block := sound.read(_BLOCK, np.float32, always_2d=True)):
        with np.errstate(all="ignore"):  # what overflows is reported as not finite
          blocks.append(block.mean(axis=1))
    except soundfile.SoundFileError:
      raise _damaged(name, "it does not decode to its end") from None
    waveform = np.concatenate(blocks)
    if waveform.size < sound.frames:
      raise _damaged(name, f"{waveform.size} of {sound.frames} samples are there")
    return waveform, sound.samplerate


def _damaged(name: str, fault: str) -> UserError:
  return UserError(f"{name}: is cut short or damaged ({fault}); fetch or encode it again")
