"""Suggestions for file names that do not exist."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Mapping

from atgcn_jax.audio.folders import SOUNDS
from atgcn_jax.labels.label_files import folded


def hint(folder: str | os.PathLike, filename: str) -> str:
  """Return a hint for a file that does not exist.

  A similar file differs in case or Unicode form, has or lacks a suffix of sound files, lacks
  leading folders, or has `/` in place of a backslash.

  Args:
    folder: Folder of the file.
    filename: Path of the file in `folder`.

  Returns:
    The hint. Empty if the file exists or if no similar file exists.
  """
  path = os.path.join(folder, filename)
  if os.path.islink(path) and not os.path.exists(path):
    return f"it is a link to {os.readlink(path)}, which does not exist"
  if os.path.exists(path):
    return ""
  parts = [part for part in filename.replace("\\", "/").split("/") if part not in ("", ".")]
  for start in range(len(parts)):
    below = "/".join(parts[start:-1])
    names = _names(os.path.join(folder, below))
    name = folded(parts[-1].strip())
    if found := names.get(name) or next((names[s] for s in _with_suffix(name) if s in names), ""):
      same = unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", parts[-1])
      form = ", in the Unicode form of the file" if same and found != parts[-1] else ""
      return f"did you mean {os.path.join(below, found)}{form}"
  return ""


def _with_suffix(name: str) -> list[str]:
  stem = os.path.splitext(name)[0]
  return [name + suffix for suffix in SOUNDS] + [stem + suffix for suffix in SOUNDS]


@functools.lru_cache(maxsize=16)
def _names(folder: str) -> Mapping[str, str]:
  """Return the names in a folder by their folded form; empty if it is unreadable."""
  try:
    return {folded(name): name for name in sorted(os.listdir(folder), reverse=True)}
  except (OSError, ValueError):
    return {}
