"""Faults in the containers of sound files that libsndfile passes over in silence."""

from __future__ import annotations

import mmap
import struct
import zlib

Bytes = bytes | mmap.mmap
_STREAMED = 0x7FFFF000  # sizes from here on are what writers to a pipe put for "not known"
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LAYER3_KBPS = {  # by the MPEG version bits; index 0 (free format) and 15 (invalid) have no length
  3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
  2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_LAYER3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def checked(data: Bytes) -> tuple[Bytes, str | None]:
  """The bytes to decode instead of a file's own, and what is wrong with the file, or None.

  A cut wav or aiff file, a damaged or chained ogg file and an mp3 file that lost frames are told.
  An mp3 file that does not hold its length gets a header that does. Other formats pass as they
  are: their decoders find such faults.

  Args:
    data: all bytes of a file; mapped, they are read where they are looked at.

  Source: the WAVE, AIFF, RF64 and Ogg (RFC 3533) formats, MPEG audio layer III, Xing's header.
  """
  if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
    return data, _chunk_fault(data)
  if data[:4] == b"OggS":
    return data, _ogg_fault(data)
  return _counted_mp3(data)


def _chunk_fault(data: Bytes) -> str | None:
  """What the sound chunk of a wav or aiff file lacks."""
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


def _ogg_fault(data: Bytes) -> str | None:
  """What is wrong with the pages of an ogg file."""
  position, ended = 0, False
  while data[position : position + 4] == b"OggS":
    lengths = position + 27
    header = lengths + (data[lengths - 1] if lengths <= len(data) else 0)
    stop = header + sum(data[lengths:header])
    if max(lengths, stop) > len(data):
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


def _counted_mp3(data: Bytes) -> tuple[Bytes, str | None]:
  """An mp3 file with a right count of its frames in front; what is not mp3 passes unchanged.

  Without a count libsndfile guesses the length from the first bit rate, and silently drops the end
  where the bit rate rises.
  """
  start = _behind_id3(data)
  head = data[start : start + 4]
  if not _frame_size(data, start):
    return data, None
  count, position, gaps = 0, start, 0
  while position >= 0:
    size = _frame_size(data, position, head)
    if size and position + size > len(data):
      return data, "its last mp3 frame is incomplete"
    count += size > 0
    position = position + size if size else _next_frames(data, position, head)
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
    start += _frame_size(data, start)
  head = bytes([head[0], head[1] | 1, head[2] & 0x0F | 0x80, head[3]])  # no checksum, a middle rate
  xing = head.ljust(side, b"\0") + struct.pack(">4sII", b"Xing", 1, count)
  return xing.ljust(_frame_size(head, 0), b"\0") + data[start:], None


def _behind_id3(data: Bytes) -> int:
  """Where the tags at the front of an mp3 file end."""
  start = 0
  while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
    a, b, c, d = data[start + 6 : start + 10]
    start += 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[start + 5] & 0x10 else 0)
  return start


def _frame_size(data: Bytes, position: int, like: bytes = b"") -> int:
  """The bytes of the MPEG layer III frame (of the kind `like`) that begins there, 0 for none."""
  head = data[position : position + 4]
  if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] >> 3 & 3 == 1:
    return 0
  version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
  kbps = _LAYER3_KBPS[version or 2][head[2] >> 4]
  if rate == 3 or not kbps or (like and (head[1] ^ like[1]) & 0xFE | (head[2] ^ like[2]) & 0x0C):
    return 0
  slot = 144000 if version == 3 else 72000
  return slot * kbps // _LAYER3_RATES[version][rate] + (head[2] >> 1 & 1)


def _next_frames(data: Bytes, position: int, like: bytes) -> int:
  """Where, after tags or damage, two frames of one kind follow each other, or -1."""
  while (position := data.find(b"\xff", position + 1)) >= 0:
    size = _frame_size(data, position, like)
    if size and _frame_size(data, position + size, like):
      break
  return position
