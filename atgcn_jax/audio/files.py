"""Sound files of any format, length, rate and channel count to mono float32 waveforms."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zlib
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from atgcn_jax.errors import UserError

Source = str | os.PathLike | bytes | BinaryIO

_SUFFIXES = frozenset(
  {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"}
)
_BLOCK = 1 << 18  # frames decoded at a time, so that channels are averaged in small pieces
_MIN_TAIL = 10  # a last window with less than 1/10 of sound is dropped
_STREAMED = 0x7FFFF000  # sizes from here on are what writers to a pipe put for "not known"

_MP3_KBPS = {  # by the MPEG version bits; index 0 (free format) and 15 (invalid) have no length
  3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
  2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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
  return resample(waveform, rate, sample_rate)


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
  count = full + (rest * _MIN_TAIL >= size or not full) if rest else full
  kept = waveform[: count * size]
  return np.pad(kept, (0, count * size - kept.size)).reshape(count, size)


def is_sound_file(path: str | os.PathLike) -> bool:
  """Returns whether a name is that of a sound file, by its suffix; hidden names are not.

  Args:
    path: a path or name; nothing needs to exist there.
  """
  path = pathlib.PurePath(path)
  return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


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
      data = pathlib.Path(source).read_bytes()
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
  if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
    fault = _chunks_fault(data)
  elif data[:4] == b"OggS":
    fault = _ogg_fault(data)
  else:
    data, fault = _check_mp3(data)
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


def _chunks_fault(data: bytes) -> str | None:
  """Returns what is wrong with a wav or aiff file: libsndfile reads what is there of a cut one."""
  order = ">" if data[:4] in (b"FORM", b"RIFX") else "<"
  position = 12
  while position + 8 <= len(data):
    kind, size = struct.unpack_from(f"{order}4sI", data, position)
    position += 8
    if kind in (b"data", b"SSND"):
      if data[:4] == b"RF64" and len(data) >= 36:  # its sizes have 64 bits in the first chunk
        size = struct.unpack_from("<Q", data, 28)[0]
      elif size >= _STREAMED:
        return None
      missing = position + size - len(data)
      return f"{missing} of {size} bytes of sound are missing" if missing > 0 else None
    position += size + size % 2
  return None


def _ogg_fault(data: bytes) -> str | None:
  """Returns what is wrong with the pages of an ogg file: libsndfile steps over such faults."""
  position, ended = 0, False
  while data[position : position + 4] == b"OggS":
    header = position + 27 + (data[position + 26] if position + 26 < len(data) else 0)
    stop = header + sum(data[position + 27 : header])
    if position + 27 > len(data) or stop > len(data):
      return "its last page is incomplete"
    checksum = struct.unpack_from("<I", data, position + 22)[0]
    if _ogg_checksum(data[position : position + 22], data[position + 26 : stop]) != checksum:
      return f"the page at byte {position} fails its checksum"
    if ended and data[position + 5] & 2:
      return "of the streams that are chained in it only the first can be read"
    ended = bool(data[position + 5] & 4)
    position = stop
  return None if ended else "its end-of-stream page is missing"


def _ogg_checksum(before: bytes, after: bytes) -> int:
  # Ogg's CRC is zlib's with all bits reversed, begun at 0 and not inverted.
  page = (before + bytes(4) + after).translate(_REVERSED_BITS)
  return int(f"{zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _check_mp3(data: bytes) -> tuple[bytes, str | None]:
  """Returns the bytes to decode, and what is wrong with them; what is not mp3 passes unchanged.

  Without a count of frames in a Xing header libsndfile guesses the length from the first bit rate,
  and silently drops the end where the bit rate rises: such a file is given a header with the count.
  """
  start = 0
  while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
    a, b, c, d = data[start + 6 : start + 10]
    start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[start + 5] & 0x10 else 0)
  if not _mp3_frame(data, start):
    return data, None
  head, count, position, gaps = data[start : start + 4], 0, start, 0
  while position >= 0:
    size = _mp3_frame(data, position, head)
    if size and position + size > len(data):
      return data, "its last mp3 frame is incomplete"
    count += size > 0
    position = position + size if size else _mp3_resume(data, position, head)
    gaps += not size and position >= 0
  version, mono = head[1] >> 3 & 3, head[3] >> 6 == 3
  side = 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))
  # A checksum of two bytes may stand before the side information.
  tags = [data[start + side + k :][:12] for k in (0, 2)]
  tag = next((tag for tag in tags if tag[:4] in (b"Xing", b"Info")), b"")
  if len(tag) == 12 and tag[7] & 1:
    count -= 1
    declared = int.from_bytes(tag[8:], "big")
    if count == declared:
      return data, None
    if count < declared - (not gaps):  # some writers count the header's own frame too
      return data, f"{count} of {declared} mp3 frames are there"
    start += _mp3_frame(data, start)
  head = bytes([head[0], head[1] | 1, head[2] & 0x0F | 0x80, head[3]])  # no checksum, a middle rate
  xing = head.ljust(side, b"\0") + struct.pack(">4sII", b"Xing", 1, count)
  return xing.ljust(_mp3_frame(head, 0), b"\0") + data[start:], None


def _mp3_frame(data: bytes, position: int, like: bytes = b"") -> int:
  """Returns the bytes of the MPEG layer III frame that begins there, or 0 where none does."""
  head = data[position : position + 4]
  if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] >> 3 & 3 == 1:
    return 0
  version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
  kbps = _MP3_KBPS[version or 2][head[2] >> 4]
  if rate == 3 or not kbps or (like and (head[1] ^ like[1]) & 0xFE | (head[2] ^ like[2]) & 0x0C):
    return 0
  return (144000 if version == 3 else 72000) * kbps // _MP3_RATES[version][rate] + (
    head[2] >> 1 & 1
  )


def _mp3_resume(data: bytes, position: int, like: bytes) -> int:
  """Returns where, after tags or damage, two frames of the same kind follow each other, or -1."""
  while (position := data.find(b"\xff", position + 1)) >= 0:
    size = _mp3_frame(data, position, like)
    if size and _mp3_frame(data, position + size, like):
      break
  return position
