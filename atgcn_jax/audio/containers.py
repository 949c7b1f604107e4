"""What a sound file holds, by its container, of which libsndfile passes over many faults."""

from __future__ import annotations

from atgcn_jax.audio import mpeg, ogg, riff
from atgcn_jax.audio.byte_ranges import Bytes, Contents


def contents_of(data: Bytes) -> Contents:
  """What to decode of a file, and what is wrong with it.

  Files of other formats than wav, aiff, au, caf, ogg and mp3 are decoded as they are: their
  decoders find such faults.

  Args:
    data: all bytes of the file; mapped, they are read where they are looked at.
  """
  if data[:4] in riff.MAGIC:
    return riff.read_chunks(data)
  if data[:4] == ogg.MAGIC:
    return ogg.read_ogg(data)
  return mpeg.read_mpeg(data, 0, len(data)) or Contents()
