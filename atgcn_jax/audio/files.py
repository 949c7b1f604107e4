"""Sound files of any format, length, rate and channel count to mono float32 waveforms."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from atgcn_jax.audio import containers
from atgcn_jax.buckets import in_bucket, path_of
from atgcn_jax.errors import UserError

Source = str | os.PathLike | bytes | BinaryIO

# The largest sample that is sound, where full scale is 1. The power spectrum of samples above 1e16
# exceeds float32, and then log-mels are infinite.
LOUDEST = 1e12
_BLOCK = 1 << 18  # frames decoded at a time


class Sound(NamedTuple):
  """A sound that is read while it is used: blocks float32[n] of the mean of its channels.

  `samples` is how many there are to come in all, at `rate` a second.
  """

  rate: int
  samples: int
  blocks: Iterator[np.ndarray]


def load(source: Source, sample_rate: int) -> np.ndarray:
  """Returns the sound as a mono waveform, float32[S], at `sample_rate`.

  Channels are averaged. Samples are as decoded (integers scaled to [-1, 1)), never normalised.

  Args:
    source: path of a file, its bytes, or a binary file object; the content decides the format.
    sample_rate: of the waveform, in Hz.

  Raises:
    UserError: the source is missing, a folder, empty, not sound, cut short, damaged, without
      samples, or holds samples that are not finite or above LOUDEST.

  Source: libsndfile through soundfile; soxr.
  """
  return resample(*decode(source), sample_rate)


def decode(source: Source) -> tuple[np.ndarray, int]:
  """Returns the sound as a mono waveform, float32[S], at its own sample rate, and that, in Hz.

  Args:
    source: as for `load`, and so is what is raised.
  """
  with opened(source) as sound:
    return np.concatenate(list(sound.blocks)), sound.rate


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Sound]:
  """The sound, to be read block by block while the context lasts.

  Of a file on a disk no more is held than a block and what checking it takes: of an mp3 file all
  its bytes, of others little. What is wrong is raised where it is met, so what came before the last
  block has passed may have to be thrown away.

  Args:
    source: as for `load`, and so is what is raised.
  """
  with contextlib.ExitStack() as stack:
    name, file = _checked(source, stack)
    try:
      sound = stack.enter_context(soundfile.SoundFile(file, closefd=False))
    except soundfile.SoundFileError as error:
      reason = "malformed" if "malformed" in str(error) else "format not known"
      raise UserError(
        f"{name}: cannot be read as sound ({reason}); give an intact wav, flac, ogg or mp3 file"
      ) from None
    if sound.frames > 2**62:  # a flac encoder that wrote to a pipe; libsndfile cannot read its end
      raise _damaged(name, "its header does not say how long it is")
    yield Sound(sound.samplerate, sound.frames, _blocks(name, sound))


def _blocks(name: str, sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
  """The mean of the channels, at least one block.

  Raises:
    UserError: at the end if samples are missing, and for samples that are not finite or above
      LOUDEST.
  """
  done = 0
  try:
    while len(block := sound.read(_BLOCK, np.float32, always_2d=True)):
      with np.errstate(all="ignore"):  # what overflows is told as not finite
        waveform = block.mean(axis=1)
      if (bad := first_unusable(waveform)) is not None:
        at = (done + bad) / sound.samplerate
        raise UserError(
          f"{name}: the sample at {at:.3f} s is {fault_of(waveform[bad])}; write the file again "
          "from its source"
        )
      done += len(waveform)
      yield waveform
  except soundfile.SoundFileError:
    raise _damaged(name, "it does not decode to its end") from None
  if done < sound.frames:
    raise _damaged(name, f"{done} of {sound.frames} samples are there")
  if not done:
    raise UserError(f"{name}: holds no samples; leave it out or record it again")


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


class _Memory(io.BytesIO):
  """Bytes as a file in which a seek to before the start fails in silence, as libsndfile expects."""

  def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
    try:
      return super().seek(offset, whence)
    except ValueError:
      return self.tell()


def _checked(source: Source, stack: contextlib.ExitStack) -> tuple[str, Any]:
  """Returns a name for messages, and what is to be decoded: a file object, or a descriptor.

  Args:
    stack: closes what is opened.
  """
  file = None
  if isinstance(source, str | os.PathLike):
    name = one_line(os.fspath(source))
    try:
      file, data = _from_disk(source, stack)
    except FileNotFoundError:
      raise UserError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
      raise UserError(f"{name}: is a folder; name the sound files in it") from None
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or error
      raise UserError(f"{name}: cannot be read ({reason}); check path and permissions") from None
  elif isinstance(source, bytes | bytearray | memoryview):
    name, data = "sound data", bytes(source)
  else:
    name, data = one_line(getattr(source, "name", "sound data")), source.read()
    if not isinstance(data, bytes):
      raise TypeError("a file object must be open in binary mode")
  if not data:
    raise UserError(f"{name}: is empty (0 bytes); fetch or record it again")
  checked, fault = containers.checked(data)
  if fault:
    raise _damaged(name, fault)
  # By its descriptor, since a file object would tell its name, and soundfile judge by the suffix.
  return name, file.fileno() if file is not None and checked is data else _Memory(checked)


def _from_disk(source: str | os.PathLike, stack: contextlib.ExitStack) -> tuple[Any, Any]:
  """Returns the open file and its bytes as they lie on the disk; None and bytes if on no disk."""
  if in_bucket(source):
    return None, path_of(source).read_bytes()
  file = stack.enter_context(io.FileIO(source))
  status = os.fstat(file.fileno())
  if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a pipe cannot be mapped
    return None, file.read()
  return file, stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def one_line(name: object) -> str:
  """A file's name as messages show it."""
  text = str(name)
  return text if text.isprintable() else ascii(text)


def _damaged(name: str, fault: str) -> UserError:
  return UserError(f"{name}: is cut short or damaged ({fault}); fetch or encode it again")
