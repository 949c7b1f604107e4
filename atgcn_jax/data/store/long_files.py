"""Split long sound files into consecutive clips with the labels and the fold of their file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np

from atgcn_jax.audio import decoding
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.windows import shortest_tail
from atgcn_jax.data.layouts.listing import Clip, Listing, clip_of, load_file
from atgcn_jax.data.store.store_builder import BAD_CLIP
from atgcn_jax.data.store.worker_processes import in_processes
from atgcn_jax.errors import UserError
from atgcn_jax.runtime.progress import counted

_FILES = 16  # files per chunk of a worker
_LAST_SAMPLES = 64
_PLACE = re.compile(r"(.*)@(\d{6}\.\d{3})(-?)", re.DOTALL)
_TO_END = "-"


def cut_long(listing: Listing, settings: Frontend, workers: int, *, strict: bool) -> Listing:
  """Return the listing with each file that is longer than a clip split into consecutive clips.

  The id of such a clip is `ID@SECONDS`. SECONDS is the start of the clip in its file, nine digits
  and a point. The remainder after the last full clip becomes a clip if it fills at least a tenth
  of one, as in tagging. A file that cannot be read stays one clip, which fails when it is loaded.

  Args:
    listing: Listing of sound files in its `root`.
    settings: Defines the clip length and the sample rate.
    workers: Maximum number of processes that measure the files.
    strict: Whether a file with a missing part also stays one clip.
  """
  sources, count = listing.sources, len(listing.sources)
  seconds = measured(listing.root, sources, workers, strict=strict)
  tail = shortest_tail(settings.samples) / settings.sample_rate
  pieces = np.array([max(1, math.floor((s - tail) / settings.seconds) + 1) for s in seconds])
  clips = np.repeat(np.arange(count), pieces)
  within = np.arange(len(clips)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
  clip_ids, found, shown = [], [], []
  for clip, k in zip(clips.tolist(), within.tolist()):
    place = f"@{k * settings.seconds:010.3f}" if pieces[clip] > 1 else ""
    is_last = bool(place) and k == pieces[clip] - 1
    clip_ids.append(listing.clip_ids[clip] + place)
    found.append(sources[clip] + place + (_TO_END if is_last else ""))
    shown.append(clip_ids[-1] if place else sources[clip])
  sizes = np.diff(listing.label_offsets)[clips]
  offsets = np.concatenate([[0], np.cumsum(sizes)])
  places = np.arange(offsets[-1]) + np.repeat(listing.label_offsets[clips] - offsets[:-1], sizes)
  return dataclasses.replace(
    listing,
    clip_ids=clip_ids,
    folds=[listing.folds[clip] for clip in clips.tolist()],
    sources=found,
    shown=shown,
    label_offsets=offsets.astype(np.int64),
    label_indices=listing.label_indices[places],
    load=functools.partial(load_cut, listing.root, settings),
  )


def measured(
  folder: str, sources: Sequence[str], workers: int, *, strict: bool = False
) -> list[float]:
  """Return the lengths of sound files in seconds, 0 for files that cannot be read.

  Args:
    folder: Folder of the files.
    sources: Paths of the files in the folder.
    workers: Maximum number of processes.
    strict: Whether files with a missing part count as unreadable.
  """
  count, work = len(sources), functools.partial(_lengths, folder, strict)
  chunks = (sources[start : start + _FILES] for start in range(0, count, _FILES))
  with contextlib.closing(in_processes(work, chunks, min(workers, count))) as outcomes:
    chunks_done = counted(outcomes, total=count, done=0, what="measuring")
    return [length or 0.0 for chunk in chunks_done for length in chunk]


def load_cut(folder: str, settings: Frontend, source: str) -> Clip:
  """Load a clip of a listing that `cut_long` returned, at the front end's sample rate.

  Raises:
    UserError: If the clip cannot be read.
  """
  place = _PLACE.fullmatch(source)
  if place is None or os.path.isfile(os.path.join(folder, source)):
    return load_file(folder, settings, source)
  _, reader = _opened(os.path.join(folder, place[1]))
  start = round(float(place[2]) * reader.rate)
  stop = None if place[3] else start + round(settings.seconds * reader.rate)
  return clip_of(decoding.sound_of(reader, start, stop), settings)


@functools.lru_cache(maxsize=1)  # The clips of a file are loaded one after another.
def _opened(path: str) -> tuple[contextlib.ExitStack, decoding.Reader]:
  """Return a reader of a file and the exit stack that keeps the file open."""
  stack = contextlib.ExitStack()
  return stack, stack.enter_context(decoding.reading(path))


def _lengths(folder: str, strict: bool, sources: Sequence[str]) -> list[float]:
  """Return the lengths of files in seconds, 0 for unreadable files. Runs in a worker process."""
  return [_length(os.path.join(folder, source), strict) for source in sources]


def _length(path: str, strict: bool) -> float:
  try:
    with decoding.reading(path) as reader:
      if not strict and _ends_there(reader):
        return reader.samples / reader.rate
    with decoding.open_sound(path, strict=strict) as sound:
      return sum(map(len, sound.blocks)) / sound.rate
  except (MemoryError, *BAD_CLIP):
    return 0.0


def _ends_there(reader: decoding.Reader) -> bool:
  """Return whether the last samples that the header announces can be decoded.

  For MP3 files the frames have already been counted, so the length is correct.
  """
  if reader.streams[0].format == "MP3":
    return True
  start = max(0, reader.samples - _LAST_SAMPLES)
  with contextlib.suppress(UserError):
    return sum(map(len, decoding.sound_of(reader, start).blocks)) == reader.samples - start
  return False
