"""Sound files as blocks of samples, as far as they decode."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile

from atgcn_jax.audio import inputs
from atgcn_jax.audio.byte_ranges import Contents, Part, PartFile
from atgcn_jax.audio.containers import contents_of
from atgcn_jax.audio.findings import Finding, Meter, fault_of, first_unusable, incomplete
from atgcn_jax.errors import UserError

_SIZES = (1 << 18, 1 << 12, 1 << 6)  # frames decoded at a time: usually, and near damage
_UNKNOWN = 1 << 62  # libsndfile's count of frames is higher where the header states none


class Sound(NamedTuple):
  """A sound that is read while it is used: blocks float32[n] of the mean of its channels.

  `samples` is how many are to come, at `rate` a second. `findings` says what is wrong with it; it
  is filled when the last block has been read.
  """

  rate: int
  samples: int
  blocks: Iterator[np.ndarray]
  findings: list[Finding]


class _Stream(soundfile.SoundFile):
  """The decoder of a descriptor or file object, from its first byte."""

  def __init__(self, file: Any):
    """Open it."""
    if isinstance(file, int):
      os.lseek(file, 0, os.SEEK_SET)
    else:
      file.seek(0)
    super().__init__(file, closefd=False)
    self.file = file

  def seekable(self) -> bool:
    """Never, for `read`.

    After each block of a seekable file it seeks to where the block should have ended; where damage
    was passed over, what follows it would be read twice.
    """
    return False

  def go_to(self, sample: int) -> None:
    """Continue there, with the same bits wherever the decoder was before."""
    if self.format == "MP3":  # after a seek it rounds otherwise, and lacks bits of earlier frames
      if self.tell() > sample:
        self.close()
        _Stream.__init__(self, self.file)
    else:
      # In the last page of an ogg file libsndfile misses the sample.
      self.seek(max(0, sample - _SIZES[0]) if self.format == "OGG" else sample)
    while (rest := sample - self.tell()) > 0 and len(self.read(min(_SIZES[0], rest), np.float32)):
      pass


class Reader(NamedTuple):
  """An open sound file: the decoders of its streams, which follow each other.

  `samples` is how many there should be in all, at `rate` a second.
  """

  name: str
  rate: int
  samples: int
  contents: Contents
  streams: list[_Stream]


@contextlib.contextmanager
def open_sound(source: inputs.Source, *, strict: bool = False) -> Iterator[Sound]:
  """The sound, to be read block by block within the context.

  Of a file on a disk no more is held than a block and what checking it takes: of a damaged mp3 file
  all its bytes, of others little. An error is raised where it is met, so what came before the last
  block has passed may have to be discarded.

  Args:
    source: as for `files.load`, and so is what is raised.
    strict: refuse a sound of which a part is missing.
  """
  with reading(source) as reader:
    yield sound_of(reader, strict=strict)


@contextlib.contextmanager
def reading(source: inputs.Source) -> Iterator[Reader]:
  """A file that is open for decoding; arguments and what is raised are those of `files.load`."""
  with contextlib.ExitStack() as stack:
    name = inputs.name_of(source)
    file, data = inputs.open_source(source, stack)
    contents = contents_of(data)
    files: list[Any]
    if file is not None and not contents.parts:
      # By its descriptor: of a file object soundfile judges by the suffix of its name.
      files = [file.fileno()]
    else:
      parts = contents.parts or (Part(b"", 0, len(data)),)
      files = [PartFile(data, part) for part in parts]
    try:
      streams = [stack.enter_context(_Stream(file)) for file in files]
    except soundfile.SoundFileError as error:
      if contents.fault:
        raise _damaged(name, contents.fault) from None
      reason = "malformed" if "malformed" in str(error) else "format not known"
      raise UserError(
        f"{name}: cannot be read as sound ({reason}); give an intact wav, flac, ogg or mp3 file"
      ) from None
    rate = streams[0].samplerate
    same = [stream for stream in streams if stream.samplerate == rate]
    if len(same) < len(streams):
      fault = f"{len(streams) - len(same)} of its {len(streams)} streams have another sample rate"
      contents = contents._replace(fault=fault, missing=math.nan)
    samples = sum(stream.frames for stream in same)
    if samples > _UNKNOWN:  # of a flac file that was written to a pipe
      contents = contents._replace(fault="its header does not state its length")
    elif contents.samples is not None:
      samples = contents.samples
    yield Reader(name, rate, samples, contents, same)


def sound_of(
  reader: Reader, start: int = 0, stop: int | None = None, *, strict: bool = False
) -> Sound:
  """The sound of an open file, or of its samples from `start` to `stop`.

  Args:
    strict: as for `opened`, and so is what is raised.
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
  """The mean of the channels, at least one block."""
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
  # What is missing at the end of a file is a matter of the last of its pieces.
  fault, share = (contents.fault, contents.missing) if stop == reader.samples else ("", 0.0)
  there = reader.samples if reader.samples < _UNKNOWN else done
  missing = there * share / (1 - share) if share < 1 else math.nan
  if done < wanted < _UNKNOWN:
    fault = fault or f"{done} of {wanted} samples are there"
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
  """The samples float32[n, C] from `start` to `stop`, without those that do not decode.

  Args:
    seek: go to `start` first, for a decoder that is not there as it was opened.
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
    # A block with damage is read in smaller ones up to the damage, which is then skipped.
    sizes.pop(0)
    if not sizes:
      sizes, start, skip = list(_SIZES), start + skip, 2 * skip
    opened, seek = _Stream(sound.file), True


def _damaged(name: str, fault: str) -> UserError:
  return UserError(f"{name}: is cut short or damaged ({fault}); fetch or encode it again")
