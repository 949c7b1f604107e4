"""Inspection of sound files by container format, to find faults that libsndfile ignores."""

from __future__ import annotations

from atgcn_jax.audio import mpeg, ogg, riff
from atgcn_jax.audio.byte_ranges import Bytes, Contents


def contents_of(data: Bytes) -> Contents:
  """Return what to decode of a file and what is wrong with it.

  Formats other than wav, aiff, au, caf, ogg and mp3 are decoded as they are: their decoders find
  such faults.

  Args:
    data: All bytes of the file. A memory map is read only where it is inspected.
  """
  if data[:4] in riff.MAGIC:
    return riff.read_chunks(data)
  if data[:4] == ogg.MAGIC:
    return ogg.read_ogg(data)
  return mpeg.read_mpeg(data, 0, len(data)) or Contents()
