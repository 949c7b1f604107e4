"""Clip ids: the hash of a set of clips, and the matching of clips to the ids of official lists."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")  # a YouTube id


def clip_ids_hash(clip_ids: Iterable[str]) -> str:
  """Return the SHA-256 of a set of clips in hex: of their sorted ids in UTF-8, one per line.

  The hash does not depend on the order of the clips. `LC_ALL=C sort ids.txt | sha256sum` prints the
  same hash.
  """
  digest = hashlib.sha256()
  for clip_id in sorted(map(str, clip_ids)):
    digest.update(f"{clip_id}\n".encode())
  return digest.hexdigest()


def listed_id(clip_id: str, listed: Container[str]) -> str | None:
  """Return the id in a list that matches a clip of a store, or None.

  Clips in a store are named after their files. Known forms are `ID`, `ID.wav`, `YID`, `YID.wav` and
  `ID_START` with any ending, each optionally preceded by folders. The longest match in the list is
  returned.

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
  # A start time or a span follows the id. Ids may contain underscores, but have a fixed length.
  for text in (stem, stem[1:] if stem.startswith("Y") else ""):
    found = VIDEO_ID.match(text)
    if found and found[0] in listed and not text[11:12].isalnum():
      return found[0]
  return None
