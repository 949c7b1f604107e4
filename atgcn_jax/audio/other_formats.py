"""Decoding of formats that libsndfile does not read, such as m4a and webm, through PyAV."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import soundfile

from atgcn_jax.audio.byte_ranges import Bytes, Contents, Part, PartFile
from atgcn_jax.errors import UserError

INSTALLED = importlib.util.find_spec("av") is not None
# First bytes of these formats and their positions.
_MAGIC = (
  *((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"0&\xb2u"), (0, b"#!AMR"), (0, b"ADIF")),
  *((0, b"\xff\xf1"), (0, b"\xff\xf9"), (0, b"caff")),
)
_STATING = ("mov", "matroska")  # formats whose duration is stated; others estimate it
# A list of files, such as an ffconcat script, could otherwise read any file as sound.
_NO_OTHER_FILES = {"protocol_whitelist": "none"}
_SLACK = 0.1  # seconds that a container may state in excess of its sound


def is_other(data: Bytes) -> bool:
  """Return whether a file starts as m4a, mp4, webm, mkv, wma, amr, aac or caf."""
  return any(data[at : at + len(magic)] == magic for at, magic in _MAGIC)


def decoded(
  name: str, data: Bytes, stack: contextlib.ExitStack, *, most_seconds: float = math.inf
) -> tuple[Any, Contents] | None:
  """Decode the first audio stream of a file into a temporary file that libsndfile reads.

  The temporary file has float32 samples of all channels, and has no name on the disk.

  Args:
    name: Name of the file, for messages.
    data: All bytes of the file.
    stack: Stack that closes the temporary file.
    most_seconds: The rest of a sound that is longer is left out, after at least this length.

  Returns:
    The temporary file and the faults of the sound; None if FFmpeg does not know the format.

  Raises:
    UserError: If the file has no sound, or the temporary file cannot be written.
  """
  import av

  target = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
  source = PartFile(data, Part(b"", 0, len(data)))
  try:
    with av.open(source, options=_NO_OTHER_FILES) as container:
      if not container.streams.audio:
        raise UserError(f"{name}: has no sound; leave it out")
      return target, _write(container, target, most_seconds)
  except av.FFmpegError:
    return None
  except (OSError, soundfile.SoundFileError) as error:
    raise UserError(
      f"{name}: cannot be decoded into a temporary file ({error}); free space in "
      f"{tempfile.gettempdir()} or set TMPDIR"
    ) from None


def _write(container: Any, target: Any, most_seconds: float) -> Contents:
  """Write the sound of an open container and return its faults. See `decoded` for the arguments."""
  stream, faults = container.streams.audio[0], list[Exception]()
  stated, sound = _stated_seconds(container, stream), None
  try:
    for block, rate in _blocks(container, stream, faults):
      if sound is None:
        sound = soundfile.SoundFile(target, "w", rate, block.shape[1], "FLOAT", format="W64")
      sound.write(block)
      if sound.frames > most_seconds * rate:
        break
    seconds = sound.frames / sound.samplerate if sound is not None else 0.0
  finally:
    if sound is not None:
      sound.close()
  target.flush()
  if faults:
    return Contents(fault=f"{len(faults)} packets do not decode", missing=math.nan)
  if seconds and stated - seconds > _SLACK:
    fault = f"the file states {stated:.3f} s and has {seconds:.3f} s"
    return Contents(fault=fault, missing=1 - seconds / stated)
  return Contents()


def _stated_seconds(container: Any, stream: Any) -> float:
  """Return the length of a stream that the file states, or 0 if it states none.

  The length of the container is that of its longest stream, which may be a picture.
  """
  if not any(name in container.format.name for name in _STATING):
    return 0.0
  if stream.duration is not None:
    return float(stream.duration * stream.time_base)
  is_sound_only = len(container.streams) == len(container.streams.audio)
  return (container.duration or 0) / 1e6 if is_sound_only else 0.0


def _blocks(
  container: Any, stream: Any, faults: list[Exception]
) -> Iterator[tuple[np.ndarray, int]]:
  """Yield samples float32[n, C] and their rate. Errors of packets are added to `faults`."""
  import av

  resampler, channels, rate = None, 0, 0
  for packet in container.demux(stream):
    try:
      frames = packet.decode()
    except av.FFmpegError as error:
      faults.append(error)
      continue
    for frame in frames:
      if resampler is None:
        channels, rate = len(frame.layout.channels), frame.sample_rate
        resampler = av.AudioResampler("flt", frame.layout, rate)
      try:
        pieces = resampler.resample(frame)
      except (av.FFmpegError, ValueError) as error:  # the channels or the rate change
        faults.append(error)
        continue
      for piece in pieces:
        yield piece.to_ndarray().reshape(-1, channels), rate
  if resampler is not None:
    for piece in resampler.resample(None):
      yield piece.to_ndarray().reshape(-1, channels), rate
