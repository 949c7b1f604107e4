"""What a sound file holds, by its container, of which libsndfile passes over many faults."""

from __future__ import annotations

from atgcn_jax.audio import chunks, mpeg, ogg
from atgcn_jax.audio.contents import Bytes, Contents


def contents_of(data: Bytes) -> Contents:
  """What to decode of a file, and what is wrong with it.

  Files of other formats than wav, aiff, au, caf, ogg and mp3 are decoded as they are: their
  decoders find such faults.

  Args:
    data: all bytes of the file; mapped, they are read where they are looked at.
  """
  if data[:4] in chunks.MAGIC:
    return chunks.read_chunks(data)
  if data[:4] == ogg.MAGIC:
    return ogg.read_ogg(data)
  return mpeg.read_mpeg(data, 0, len(data)) or Contents()
