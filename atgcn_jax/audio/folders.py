"""Listing of folders of sound files."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable
from typing import NamedTuple

from atgcn_jax.audio.inputs import one_line
from atgcn_jax.audio.other_formats import INSTALLED
from atgcn_jax.runtime.buckets import in_bucket, path_of

# Suffixes of files that PyAV reads.
CONTAINERS = (
  *(".m4a", ".m4b", ".mp4", ".m4v", ".aac", ".webm", ".weba", ".mkv", ".mka", ".wma", ".mov"),
  *(".3gp", ".amr"),
)
# Suffixes of files that are read, in order of preference; first those that libsndfile reads.
SOUNDS = (
  *(".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
  *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph"),
  *(CONTAINERS if INSTALLED else ()),
)
# Suffixes of sound and video files that are not read.
OTHERS = (
  *(() if INSTALLED else CONTAINERS),
  *(".wmv", ".avi", ".3g2", ".ac3", ".ape", ".wv", ".mpg", ".mpeg", ".mts", ".ogv"),
  *(".flv", ".ra", ".dsf", ".dff", ".tta", ".spx"),
)
INSTALL = "`pip install av` to read m4a, aac, webm and the like"
SYSTEM = {"__macosx", "$recycle.bin", "system volume information", "lost+found"}
SHOWN = 3  # maximum number of files in a message


class FolderContents(NamedTuple):
  """The contents of a folder: sorted relative paths of `files`, and `faults` (path, reason)."""

  files: list[str]
  faults: list[tuple[str, str]]


def contents(folder: str | os.PathLike, suffixes: tuple[str, ...] = ()) -> FolderContents:
  """Return all files below a folder, including those in linked folders.

  Each folder is entered once: under its own name if it is below this folder, otherwise under the
  first link to it. A link to a folder that contains the link is a loop and is not entered. Files
  and folders whose names start with a dot and those of operating systems (`SYSTEM`) are left out.

  Faults are unreadable folders, broken links, and entries that are neither files nor folders. The
  reason of a fault completes the sentence “it is …”.

  Args:
    folder: A path, or a URL in a bucket.
    suffixes: File name suffixes to keep, in lower case. If empty, all files are kept.
  """
  files, faults = _in_bucket(folder) if in_bucket(folder) else _on_disk(folder)
  if suffixes:
    files = [path for path in files if path.lower().endswith(suffixes)]
  return FolderContents(sorted(files), sorted(faults))


def other_formats(files: Iterable[str]) -> str:
  """Return a message on the files in formats that cannot be read; empty if there are none.

  Args:
    files: File names. Those with a suffix in `OTHERS` count.
  """
  found = [one_line(path) for path in files if path.lower().endswith(OTHERS)]
  if not found:
    return ""
  names = ", ".join(found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
  what = "1 file of another format" if len(found) == 1 else f"{len(found)} files of other formats"
  install = f"{INSTALL}, or " if any(path.lower().endswith(CONTAINERS) for path in found) else ""
  return f"{what} left out: {names}; {install}convert to wav, flac, ogg or mp3"


def _is_hidden(name: str) -> bool:
  """Return whether a file or folder is hidden or belongs to the operating system."""
  return name.startswith(".") or name.lower() in SYSTEM


def _on_disk(folder: str | os.PathLike) -> tuple[list[str], list[tuple[str, str]]]:
  """Return the files and faults below a folder on disk, in no particular order."""
  files: list[str] = []
  faults: list[tuple[str, str]] = []
  entered: set[str] = set()
  linked = [("", os.path.realpath(folder))]  # a heap, for a fixed order of links
  while linked:
    folders = [heapq.heappop(linked)]
    while folders:
      below, real = folders.pop()
      if real in entered:
        continue
      entered.add(real)
      try:
        with os.scandir(real) as scanned:
          entries = [entry for entry in scanned if not _is_hidden(entry.name)]
      except OSError as error:
        faults.append((below.rstrip("/") or ".", f"not readable ({error.strerror})"))
        continue
      for entry in entries:
        path = below + entry.name
        if fault := _fault(entry):
          faults.append((path, fault))
        elif entry.is_file():
          files.append(path)
        elif not entry.is_symlink():
          folders.append((f"{path}/", os.path.join(real, entry.name)))
        elif not _contains(target := os.path.realpath(entry.path), real):
          heapq.heappush(linked, (f"{path}/", target))
  return files, faults


def _fault(entry: os.DirEntry[str]) -> str:
  """Return why an entry can be neither read nor entered; empty if it can."""
  try:
    if entry.is_file() or entry.is_dir():
      return ""
    if entry.is_symlink():
      return f"a link to {one_line(os.readlink(entry.path))}, which does not exist"
    return "neither a file nor a folder"
  except OSError as error:  # for example, a link to itself
    return f"not readable ({error.strerror})"


def _contains(folder: str, path: str) -> bool:
  """Return whether a folder equals or contains a path; both are real paths."""
  return os.path.commonpath([folder, path]) == folder


def _in_bucket(folder: str | os.PathLike) -> tuple[list[str], list[tuple[str, str]]]:
  """Return the files and faults below a folder in a bucket, which has no links."""
  place = path_of(folder)
  below = ((path, path.relative_to(place)) for path in place.rglob("*"))
  files = [
    relative.as_posix()
    for path, relative in below
    if not any(map(_is_hidden, relative.parts)) and not path.is_dir()
  ]
  return files, []
