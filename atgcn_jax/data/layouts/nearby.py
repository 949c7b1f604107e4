"""The file of a folder that a name which is not there may stand for."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from atgcn_jax.audio.folders import SOUNDS


def hint(folder: str | os.PathLike, filename: str) -> str:
  """Return what to do about a file that is not there; empty if it is, or if nothing is like it.

  What is like it has another case or the suffix of a sound file, lacks leading folders, or has `/`
  where the name has a backslash.
  """
  path = os.path.join(folder, filename)
  if os.path.islink(path) and not os.path.exists(path):
    return f"it is a link to {os.readlink(path)}, which is not there"
  if os.path.exists(path):
    return ""
  parts = [part for part in filename.replace("\\", "/").split("/") if part not in ("", ".")]
  for start in range(len(parts)):
    below = "/".join(parts[start:-1])
    names = _names(os.path.join(folder, below))
    name = parts[-1].strip().casefold()
    if found := names.get(name) or next((names[s] for s in _with_suffix(name) if s in names), ""):
      return f"did you mean {os.path.join(below, found)}"
  return ""


def _with_suffix(name: str) -> list[str]:
  stem = os.path.splitext(name)[0]
  return [name + suffix for suffix in SOUNDS] + [stem + suffix for suffix in SOUNDS]


@functools.lru_cache(maxsize=16)
def _names(folder: str) -> Mapping[str, str]:
  """The names in a folder by how they are compared; none if it cannot be read."""
  try:
    return {name.casefold(): name for name in sorted(os.listdir(folder), reverse=True)}
  except (OSError, ValueError):
    return {}
