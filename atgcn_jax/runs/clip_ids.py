"""Clips by their ids: a hash of a set of them, and whose rows of an official list they are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # of YouTube


def clip_ids_hash(clip_ids: Iterable[str]) -> str:
  """SHA-256 of a set of clips, in hex: of their ids in UTF-8, sorted, a line each.

  The same clips have the same hash whatever their order; `LC_ALL=C sort ids.txt | sha256sum` says
  it too.
  """
  digest = hashlib.sha256()
  for clip_id in sorted(map(str, clip_ids)):
    digest.update(f"{clip_id}\n".encode())
  return digest.hexdigest()


def listed_id(clip_id: str, listed: Container[str]) -> str | None:
  """The id in a list that a clip of a store is, or None.

  A store's clips are named by their files, such as `ID`, `ID.wav`, `Y` before either, with folders
  before it, or `ID_START` and more after it; the longest reading that the list has is taken.

  Args:
    clip_id: The clip in the store.
    listed: The ids of the list.
  """
  if clip_id in listed:
    return clip_id
  name = os.path.basename(clip_id.replace("\\", "/"))
  stem = os.path.splitext(name)[0]
  for known in (name, stem, stem[1:] if stem.startswith("Y") else ""):
    if known in listed:
      return known
  # A start or a span after the id; ids hold underscores themselves, but have a fixed length.
  for text in (stem, stem[1:] if stem.startswith("Y") else ""):
    found = VIDEO_ID.match(text)
    if found and found[0] in listed and not text[11:12].isalnum():
      return found[0]
  return None
