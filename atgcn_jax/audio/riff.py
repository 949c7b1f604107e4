"""Location and completeness of the sound in wav, aiff, au and caf files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from atgcn_jax.audio import mpeg
from atgcn_jax.audio.byte_ranges import Bytes, Contents, Part

MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"caff", b"riff")
_STREAMED = 0x7FFFF000  # programs that write to a pipe use sizes from here on for an unknown size
_TRAILER = 64, 0.01  # trailing bytes count as sound above this number and share of the sound
_MPEG = (0x50, 0x55)  # format tags of wav files with MPEG layers II and III
_BLOCK = 1 << 20


class _Sound(NamedTuple):
  """The chunk of sound as the header describes it.

  Attributes:
    start: The position of the first byte.
    size: The size in bytes. None if unknown.
    codec: The format tag of a wav file.
    packed: Whether the sound of a caf file is in packets, which another chunk lists.
  """

  start: int
  size: int | None
  codec: int = 0
  packed: bool = False


def read_chunks(data: Bytes) -> Contents:
  """Return what to decode of a file that starts with one of MAGIC.

  Sound beyond the size in the header is used too: if no size was written, if the size exceeds 32
  bits, and if no chunk follows the sound. If a wav file contains MPEG audio, its MPEG stream is
  decoded.

  Args:
    data: All bytes of the file.

  Source:
    The WAVE, RF64, Wave64, AIFF, AU and CAF formats.
  """
  sound = _sound_of(data)
  if sound is None:
    return Contents()
  start, stated, codec, packed = sound
  present, fault, missing = max(0, len(data) - start), "", 0.0
  size = present if stated is None else stated
  if size > present:
    lost = size - present
    fault, missing = f"{lost} of {size} bytes of sound are missing", lost / size
    size = present
  elif data[:4] in (b"RIFF", b"RIFX"):
    size += (present - size) >> 32 << 32  # the size is stored modulo 2**32
  rest = present - size
  if rest > max(_TRAILER[0], _TRAILER[1] * size) and _is_sound(data, start + size):
    fault = f"its header states {size} bytes of sound, but {present} are present"
    fault = fault if size else "its header was never completed"
    size = present
  if codec in _MPEG and (stream := mpeg.read_mpeg(data, start, start + size)):
    return stream if stream.fault else stream._replace(fault=fault, missing=missing)
  parts: tuple[Part, ...] = ()
  # In a Wave64 file, libsndfile would also read what follows the sound.
  if size and (size != stated or data[:4] == b"riff") and not packed:
    parts = (Part(_header(data, start, size), start, start + size),)
  return Contents(parts, fault, missing)


def _sound_of(data: Bytes) -> _Sound | None:
  """Return the chunk of sound, None if there is none."""
  if data[:4] == b".snd":
    if len(data) < 24:
      return None
    start, size = struct.unpack_from(">II", data, 4)
    return _Sound(start, None if size == 0xFFFFFFFF else size)
  codec, packed = 0, False
  for kind, start, size in _chunks(data):
    if kind == b"fmt " and start + 2 <= len(data):
      (codec,) = struct.unpack_from(">H" if data[:4] == b"RIFX" else "<H", data, start)
    elif kind == b"desc":
      packed = data[start + 8 : start + 12] != b"lpcm"
    elif kind == b"SSND":
      return _Sound(start + 8, size - 8 if size >= 8 else 0)
    elif kind == b"data" and data[:4] == b"caff":
      return _Sound(start + 4, size - 4 if size >= 4 else None, packed=packed)
    elif kind == b"data" and data[:4] == b"RF64" and len(data) >= 36:
      return _Sound(start, struct.unpack_from("<Q", data, 28)[0], codec)
    elif kind == b"data":
      streamed = data[:4] in (b"RIFF", b"RIFX") and size >= _STREAMED
      return _Sound(start, None if streamed else size, codec)
  return None


def _chunks(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
  """Yield the first four bytes of the name, the position and the size of each chunk's contents."""
  form, at, padded = "<4sI", 12, 2
  if data[:4] in (b"RIFX", b"FORM"):
    form = ">4sI"
  elif data[:4] == b"caff":
    form, at, padded = ">4sq", 8, 1
  elif data[:4] == b"riff":  # names have 16 bytes; a size includes the name and the size field
    form, at, padded = "<4s12xQ", 40, 8
  head = struct.calcsize(form)
  while at + head <= len(data):
    kind, size = struct.unpack_from(form, data, at)
    size -= head if data[:4] == b"riff" else 0
    yield kind, at + head, size
    if size < 0:
      return
    at += head + -(-size // padded) * padded


def _is_sound(data: Bytes, at: int) -> bool:
  """Return whether sound continues at a position, and not another chunk, a tag or zeros."""
  for first in (data[at : at + 4], data[at + 1 : at + 5]):  # a padding byte may follow the sound
    if all(32 <= byte < 127 for byte in first) or first[:3] in (b"ID3", b"TAG"):
      return False
  blocks = (data[k : k + _BLOCK] for k in range(at, len(data), _BLOCK))
  return any(block.count(0) < len(block) for block in blocks)


def _header(data: Bytes, start: int, size: int) -> bytes:
  """Return the bytes before the sound, with the size in the header set to `size`."""
  head = bytearray(data[:start])
  if data[:4] in (b"RIFF", b"RIFX"):  # with size 0 libsndfile reads to the end, also beyond 4 GiB
    head[4:8] = struct.pack("<I" if data[:4] == b"RIFF" else ">I", 8)
    head[start - 4 : start] = bytes(4)
  elif data[:4] == b"RF64":
    head[20:36] = struct.pack("<QQ", start + size - 8, size)
  elif data[:4] == b"FORM":
    head[start - 12 : start - 8] = struct.pack(">I", min(size + 8, 0xFFFFFFFF))
  elif data[:4] == b".snd":
    head[8:12] = b"\xff" * 4
  elif data[:4] == b"caff":
    head[start - 12 : start - 4] = struct.pack(">q", size + 4)
  return bytes(head)
