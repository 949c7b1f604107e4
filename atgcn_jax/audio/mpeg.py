"""MPEG audio, layers II and III: search for frames, and correction of the frame count."""

from __future__ import annotations

import struct
from typing import NamedTuple

from atgcn_jax.audio.byte_ranges import Bytes, Contents, Part

_LAYER3, _LAYER2 = 0x02, 0x04  # bits of the second byte of a frame
_LOW_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_KBPS = {  # by layer, for MPEG 1; 0 for index 0 (free format) and 15 (invalid)
  _LAYER3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
  _LAYER2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_TAGS = (b"ID3", b"TAG", b"APE")
LAYER2_SAMPLES = 1152  # samples of a frame


class _Frames(NamedTuple):
  """The frames of a stream.

  Attributes:
    frames: The number of complete frames.
    runs: (start, stop) of each contiguous run of frames.
    lost: The number of bytes between the runs that are not tags.
    cut: Whether the last frame is incomplete.
  """

  frames: int
  runs: list[tuple[int, int]]
  lost: int
  cut: bool


def read_mpeg(data: Bytes, start: int, stop: int) -> Contents | None:
  """Return what to decode of MPEG audio between two positions of a file; None if it is not MPEG.

  A layer III stream without a correct frame count gets one. Otherwise libsndfile estimates the
  length from the first bit rate, and drops the end of the sound if the bit rate rises.

  Args:
    data: All bytes of the file.
    start: The first byte.
    stop: The byte after the last.

  Source:
    MPEG audio, layers II and III; the headers of Xing and LAME.
  """
  start = _after_id3(data, start)
  first = _frame_size(data, start)
  if not first:
    return None
  head, (count, runs, lost, cut) = data[start : start + 4], _frames(data, start, stop)
  if not count:
    return Contents((), "its first mp3 frame is incomplete", 1.0)
  size = sum(end - begin for begin, end in runs)
  # The lost bytes are assumed to be frames of mean size.
  missing = (lost / size * count + cut) / (lost / size * count + cut + count)
  fault = "its last mp3 frame is incomplete" if cut else ""
  fault = f"{lost} bytes between its mp3 frames are damaged" if lost else fault
  if head[1] & 0x06 == _LAYER2:
    return Contents((_part(data, b"", runs),), fault, missing, count * LAYER2_SAMPLES)
  tag = _counting_tag(data, start, head)
  if not tag:
    return Contents((_part(data, _count_header(head, count), runs),), fault, missing)
  count, stated = count - 1, int.from_bytes(data[tag + 8 : tag + 12], "big")
  if count == stated:
    return Contents((Part(b"", start, runs[-1][1]),))
  # Some writers also count the frame of the header.
  if count < stated - (len(runs) == 1 and not cut):
    fault, missing = f"{count} of {stated} mp3 frames are present", (stated - count) / stated
  header = _recounted(bytearray(data[start : start + first]), tag - start, count, size)
  return Contents((_part(data, header, [(start + first, runs[0][1]), *runs[1:]]),), fault, missing)


def _frames(data: Bytes, start: int, stop: int) -> _Frames:
  """Find the frames between two positions that are of the same kind as the first."""
  like, count, lost, cut = data[start : start + 4], 0, 0, False
  runs = [(start, start)]
  position = start
  while 0 <= position < stop:
    size = _frame_size(data, position, like)
    if size and position + size > stop:
      cut = True
      break
    if size:
      count, position = count + 1, position + size
      runs[-1] = (runs[-1][0], position)
      continue
    is_tag = data[position : position + 3] in _TAGS
    position = _next_frames(data, position, like, stop)
    if position >= 0:
      lost += 0 if is_tag else position - runs[-1][1]
      runs.append((position, position))
  return _Frames(count, [run for run in runs if run[0] < run[1]], lost, cut)


def _part(data: Bytes, header: bytes, runs: list[tuple[int, int]]) -> Part:
  """Return the header followed by the runs of frames."""
  if len(runs) == 1:
    return Part(header, *runs[0])
  return Part(header + b"".join(data[begin:end] for begin, end in runs), 0, 0)


def _counting_tag(data: Bytes, start: int, head: bytes) -> int:
  """Return the position of the tag with the frame count in the first frame, 0 if there is none."""
  for checksum in (0, 2):  # size of a checksum before the side information
    at = start + _side(head) + checksum
    if data[at : at + 4] in (b"Xing", b"Info") and data[at + 7] & 1:
      return at
  return 0


def _side(head: bytes) -> int:
  """Return the size of the header and side information of a layer III frame, in bytes."""
  version, mono = head[1] >> 3 & 3, head[3] >> 6 == 3
  return 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))


def _count_header(head: bytes, count: int) -> bytes:
  """Return a frame of the same kind with a tag that states the number of the other frames."""
  # Without a checksum, at a medium bit rate.
  head = bytes([head[0], head[1] | 1, head[2] & 0x0F | 0x80, head[3]])
  tag = head.ljust(_side(head), b"\0") + struct.pack(">4sII", b"Xing", 1, count)
  return tag.ljust(_frame_size(head, 0), b"\0")


def _recounted(frame: bytearray, tag: int, count: int, size: int) -> bytes:
  """Return the first frame with another number of frames and bytes in its tag.

  The delay, which players drop from the start of the sound, is unchanged. The padding is set to 0,
  because the end of the sound that it refers to is missing.
  """
  flags = frame[tag + 7]
  frame[tag + 8 : tag + 12] = struct.pack(">I", count)
  if flags & 2:
    frame[tag + 12 : tag + 16] = struct.pack(">I", size)
  lame = tag + 12 + (4 if flags & 2 else 0) + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
  if len(frame) >= lame + 24:  # 12 bits of delay and 12 bits of padding
    frame[lame + 22] &= 0xF0
    frame[lame + 23] = 0
  return bytes(frame)


def _after_id3(data: Bytes, start: int) -> int:
  """Return the position after the ID3 tags at the start."""
  while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
    a, b, c, d = data[start + 6 : start + 10]
    footer = 10 if data[start + 5] & 0x10 else 0
    start += 10 + (a << 21 | b << 14 | c << 7 | d) + footer
  return start


def _frame_size(data: Bytes, position: int, like: bytes = b"") -> int:
  """Return the size in bytes of the frame (of the kind `like`) at a position; 0 if none."""
  head = data[position : position + 4]
  if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[1] >> 3 & 3 == 1:
    return 0
  version, layer, rate = head[1] >> 3 & 3, head[1] & 0x06, head[2] >> 2 & 3
  if layer not in _KBPS or rate == 3:
    return 0
  kbps = (_KBPS[layer] if version == 3 else _LOW_KBPS)[head[2] >> 4]
  if not kbps or (like and (head[1] ^ like[1]) & 0xFE | (head[2] ^ like[2]) & 0x0C):
    return 0
  slot = 72000 if layer == _LAYER3 and version != 3 else 144000
  return slot * kbps // _RATES[version][rate] + (head[2] >> 1 & 1)


def _next_frames(data: Bytes, position: int, like: bytes, stop: int) -> int:
  """Return the position after tags or damage where two frames of one kind follow, -1 if none."""
  while (position := data.find(b"\xff", position + 1, stop)) >= 0:
    size = _frame_size(data, position, like)
    if size and _frame_size(data, position + size, like):
      break
  return position
