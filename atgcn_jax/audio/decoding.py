"""Block-wise decoding of sound files, with recovery after damage."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile

from atgcn_jax.audio import inputs, other_formats
from atgcn_jax.audio.byte_ranges import Contents, Part, PartFile
from atgcn_jax.audio.containers import contents_of
from atgcn_jax.audio.findings import Finding, Meter, fault_of, first_unusable, incomplete
from atgcn_jax.audio.folders import INSTALL
from atgcn_jax.errors import UserError

_SIZES = (1 << 18, 1 << 12, 1 << 6)  # frames decoded at a time: by default, and near damage
_UNKNOWN = 1 << 62  # libsndfile returns a higher number of frames if the header states none
SLOWEST_HZ = 100  # lowest sample rate of sound


class Sound(NamedTuple):
  """A sound that is decoded while it is consumed.

  Attributes:
    rate: The sample rate, in Hz.
    samples: The expected number of samples.
    blocks: The mean of the channels, in blocks float32[n].
    findings: What is wrong with the sound. Complete after the last block has been read.
  """

  rate: int
  samples: int
  blocks: Iterator[np.ndarray]
  findings: list[Finding]


class _Stream(soundfile.SoundFile):
  """The decoder of a file descriptor or file object, from its first byte."""

  def __init__(self, file: Any):
    """Open the decoder."""
    if isinstance(file, int):
      os.lseek(file, 0, os.SEEK_SET)
    else:
      file.seek(0)
    super().__init__(file, closefd=False)
    self.file = file

  def seekable(self) -> bool:
    """Return False, for the sake of `read`.

    After each block of a seekable file, `read` seeks to where the block should have ended. If the
    decoder has skipped damage, this would read the samples after the damage twice.
    """
    return False

  def go_to(self, sample: int) -> None:
    """Move to a sample. The samples that follow do not depend on the previous position."""
    # After a seek, the MP3 decoder rounds differently and lacks the bits of earlier frames.
    if self.format == "MP3":
      if self.tell() > sample:
        self.close()
        _Stream.__init__(self, self.file)
    else:
      # In the last page of an ogg file libsndfile misses the sample.
      self.seek(max(0, sample - _SIZES[0]) if self.format == "OGG" else sample)
    while (rest := sample - self.tell()) > 0 and len(self.read(min(_SIZES[0], rest), np.float32)):
      pass


class Reader(NamedTuple):
  """An open sound file.

  Attributes:
    name: The name of the file, for messages.
    rate: The sample rate, in Hz.
    samples: The expected number of samples over all streams.
    contents: What is decoded, and what is wrong with the file.
    streams: The decoders of the streams, which follow each other.
  """

  name: str
  rate: int
  samples: int
  contents: Contents
  streams: list[_Stream]


@contextlib.contextmanager
def open_sound(source: inputs.Source, *, strict: bool = False) -> Iterator[Sound]:
  """Open a sound that is read block by block within the context.

  For a file on disk, memory holds one block and the bytes that inspection needs: all bytes of a
  damaged mp3 file, few of other files. An error may be raised by any block. Results from earlier
  blocks may then have to be discarded.

  Args:
    source: The path of a file, its bytes, or a binary file object.
    strict: Whether to refuse a sound with missing parts.

  Yields:
    The sound.

  Raises:
    UserError: As for `sound_files.load_waveform`; with `strict`, also if a part is missing.
  """
  with reading(source) as reader:
    yield sound_of(reader, strict=strict)


@contextlib.contextmanager
def reading(source: inputs.Source, *, most_seconds: float = math.inf) -> Iterator[Reader]:
  """Open a file for decoding.

  Args:
    source: The path of a file, its bytes, or a binary file object.
    most_seconds: A length after which the rest of a file may be left out. Files that libsndfile
      does not read are otherwise decoded completely here, into a temporary file.

  Yields:
    The open file.

  Raises:
    UserError: The source is missing, a folder, empty, or not sound.
  """
  with contextlib.ExitStack() as stack:
    name = inputs.name_of(source)
    file, data = inputs.open_source(source, stack)
    contents = contents_of(data)
    files: list[Any]
    if file is not None and not contents.parts:
      # A descriptor, because soundfile guesses the format of a file object from its suffix.
      files = [file.fileno()]
    else:
      parts = contents.parts or (Part(b"", 0, len(data)),)
      files = [PartFile(data, part) for part in parts]
    try:
      streams = [stack.enter_context(_Stream(file)) for file in files]
    except soundfile.SoundFileError as error:
      if contents.fault:
        raise _damaged(name, contents.fault) from None
      opened = None
      if other_formats.INSTALLED:
        opened = other_formats.decoded(name, data, stack, most_seconds=most_seconds)
      if opened is None:
        advice = "give an intact wav, flac, ogg or mp3 file"
        if not other_formats.INSTALLED and other_formats.is_other(data):
          advice = f"{INSTALL}, or {advice}"
        reason = "malformed" if "malformed" in str(error) else "unknown format"
        raise UserError(f"{name}: cannot be read as sound ({reason}); {advice}") from None
      converted, contents = opened
      streams = [stack.enter_context(_Stream(converted.fileno()))]
    rate = streams[0].samplerate
    if rate < SLOWEST_HZ:  # at the rate of a front end, it would take thousands of times the space
      raise UserError(
        f"{name}: claims a sample rate of {rate} Hz; give sound of {SLOWEST_HZ} Hz on"
      )
    same = [stream for stream in streams if stream.samplerate == rate]
    if len(same) < len(streams):
      fault = f"{len(streams) - len(same)} of its {len(streams)} streams differ in sample rate"
      contents = contents._replace(fault=fault, missing=math.nan)
    samples = sum(stream.frames for stream in same)
    if samples > _UNKNOWN:  # a flac file that was written to a pipe
      contents = contents._replace(fault="its header does not state its length")
    elif contents.samples is not None:
      samples = contents.samples
    yield Reader(name, rate, samples, contents, same)


def sound_of(
  reader: Reader, start: int = 0, stop: int | None = None, *, strict: bool = False
) -> Sound:
  """Return the sound of an open file, or the part from `start` to `stop`.

  Args:
    reader: The open file.
    start: The first sample.
    stop: The sample after the last. None for the end of the file.
    strict: Whether to refuse a sound with missing parts.

  Raises:
    UserError: With `strict`, a part of the file is missing. The blocks of the sound raise
      UserError too, as for `open_sound`.
  """
  if strict and reader.contents.fault:
    raise _damaged(reader.name, reader.contents.fault)
  stop = reader.samples if stop is None else min(stop, reader.samples)
  findings: list[Finding] = []
  return Sound(
    reader.rate, stop - start, _waveforms(reader, start, stop, strict, findings), findings
  )


def _waveforms(
  reader: Reader, start: int, stop: int, strict: bool, findings: list[Finding]
) -> Iterator[np.ndarray]:
  """Yield the mean of the channels, at least one block; then extend `findings`."""
  meter, contents, position = Meter(), reader.contents, 0
  seek = start > 0 or stop < reader.samples
  for sound in reader.streams:
    end = position + sound.frames
    if position < stop and end > start:
      first, last = max(0, start - position), min(stop, end) - position
      for block in _blocks(sound, first, last, seek):
        before, waveform = meter.samples, meter.add(block)
        if (bad := first_unusable(waveform)) is not None:
          at = (start + before + bad) / reader.rate
          raise UserError(
            f"{reader.name}: the sample at {at:.3f} s is {fault_of(waveform[bad])}; write the "
            "file again from its source"
          )
        yield waveform
    position = end
  done, wanted = meter.samples, stop - start
  # Only the part that reaches the end of the file reports what the file lacks.
  fault, share = (contents.fault, contents.missing) if stop == reader.samples else ("", 0.0)
  present = reader.samples if reader.samples < _UNKNOWN else done
  missing = present * share / (1 - share) if share < 1 else math.nan
  if done < wanted < _UNKNOWN:
    fault = fault or f"{done} of {wanted} samples are present"
    missing = max(missing, wanted - done)
  if not done:
    if fault:
      raise _damaged(reader.name, fault)
    raise UserError(f"{reader.name}: holds no samples; leave it out or record it again")
  if fault:
    if strict:
      raise _damaged(reader.name, fault)
    findings.append(incomplete(fault, done / reader.rate, missing / reader.rate))
  findings.extend(meter.findings())


def _blocks(sound: _Stream, start: int, stop: int, seek: bool) -> Iterator[np.ndarray]:
  """Yield the samples float32[n, C] from `start` to `stop`, without those that do not decode.

  Args:
    sound: The decoder.
    start: The first sample.
    stop: The sample after the last.
    seek: Whether to go to `start` first. Not needed if the decoder is new and `start` is 0.
  """
  opened: contextlib.AbstractContextManager[_Stream] = contextlib.nullcontext(sound)
  sizes, skip = list(_SIZES), _SIZES[1]
  while start < stop:
    with contextlib.suppress(soundfile.SoundFileError), opened as decoder:
      if seek:
        decoder.go_to(start)
      while len(block := decoder.read(min(sizes[0], stop - start), np.float32, always_2d=True)):
        start, skip = start + len(block), _SIZES[1]
        yield block
      return
    # A damaged block is read again in smaller blocks up to the damage, which is then skipped.
    sizes.pop(0)
    if not sizes:
      sizes, start, skip = list(_SIZES), start + skip, 2 * skip
    opened, seek = _Stream(sound.file), True


def _damaged(name: str, fault: str) -> UserError:
  """Return the error for a file that is cut short or damaged."""
  return UserError(f"{name}: is cut short or damaged ({fault}); fetch or encode it again")
