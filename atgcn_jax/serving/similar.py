"""Nearest clips to a clip by their embeddings, for `atgcn similar`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.errors import UserError, printable
from atgcn_jax.labels.label_files import SHOWN
from atgcn_jax.runtime.whole_files import csv_bytes, write_output
from atgcn_jax.serving.embed_files import Embedded
from atgcn_jax.serving.many_files import say
from atgcn_jax.serving.tagger import Tagger

CSV_COLUMNS = ("clip", "file", "start_s", "end_s", "similarity")


class Neighbour(NamedTuple):
  """An embedded file, or window of a file, and its cosine similarity. Times are None for files."""

  file: str
  start_s: float | None
  end_s: float | None
  similarity: float


def similar_clips(
  embedded: Embedded,
  path: str | os.PathLike,
  clips: Sequence[str],
  tagger_of: Callable[[], Tagger] | None,
  *,
  top: int,
  csv_file: str | None,
  as_json: bool,
) -> None:
  """Print the nearest embedded files of clips, or write them to a CSV file.

  Args:
    embedded: The embedded files, or clips of a store.
    path: Where they are from: the file of `atgcn embed`, or the store.
    clips: Embedded files, by path or name, or other sound files. `FILE@SECONDS` stands for one
      window, where windows are embedded.
    tagger_of: A function that returns the tagger of the embeddings, for clips that are other sound
      files; None if there is none.
    top: The number of neighbours.
    csv_file: The CSV file to write, or None.
    as_json: Whether to print one JSON object per clip instead of a table.

  Raises:
    UserError: If a clip cannot be used.
  """
  rows_of = {clip: find_rows(embedded, clip) for clip in clips}
  others = [clip for clip in clips if not len(rows_of[clip])]
  vectors = _embedded_now(path, embedded, others, tagger_of)
  table = []
  for clip in clips:
    rows = rows_of[clip]
    vector = embedded.embedding[rows].mean(axis=0) if len(rows) else vectors[clip]
    names = set(embedded.file[rows])
    found = nearest(embedded, vector, top, without=np.isin(embedded.file, list(names)))
    if as_json:
      say(json.dumps({"clip": clip, "similar": [one._asdict() for one in found]}))
    elif csv_file is None:
      say("\n".join([clip, *map(_line, found)]))
    for one in found:
      times = ["" if time is None else f"{time:.3f}" for time in (one.start_s, one.end_s)]
      table.append([clip, one.file, *times, f"{one.similarity:.6f}"])
  if csv_file is not None:
    write_output(csv_file, csv_bytes([CSV_COLUMNS, *table]), "--csv")


def find_rows(embedded: Embedded, clip: str) -> np.ndarray:
  """Return the positions of a file's embeddings, or of a window's for FILE@SECONDS, int[n].

  There is none for a file that is not embedded.

  Raises:
    UserError: If several files have this name.
  """
  rows = _rows_named(embedded, clip)
  name, _, seconds = clip.rpartition("@")
  if len(rows) or not name or embedded.start_s is None or embedded.end_s is None:
    return rows
  rows = _rows_named(embedded, name)
  try:
    time = float(seconds)
  except ValueError:
    return rows[:0]
  if not len(rows):
    return rows
  middles = (embedded.start_s[rows] + embedded.end_s[rows]) / 2
  inside = (embedded.start_s[rows] <= time) & (time <= embedded.end_s[rows])
  if not inside.any():
    raise UserError(f"{printable(clip, SHOWN)}: no window of {name} is at {seconds} seconds")
  return rows[[np.argmin(np.abs(middles - time))]]


def _rows_named(embedded: Embedded, name: str) -> np.ndarray:
  files = np.unique(embedded.file).tolist()
  path = os.path.abspath(name)
  matching = [file for file in files if file == name or os.path.abspath(file) == path][:1]
  matching = matching or [file for file in files if os.path.basename(file) == name]
  if len(matching) > 1:
    raise UserError(
      f"{printable(name, SHOWN)}: {len(matching)} embedded files have this name, such as "
      f"{matching[0]} and {matching[1]}; name one of these"
    )
  return np.flatnonzero(np.isin(embedded.file, matching))


def nearest(
  embedded: Embedded, vector: np.ndarray, top: int, *, without: np.ndarray
) -> list[Neighbour]:
  """Return the embeddings with the highest cosine similarity to a vector, highest first.

  Args:
    embedded: N embeddings.
    vector: float32[C].
    top: The maximum number.
    without: bool[N], which embeddings are left out.
  """
  similarity = unit_rows(embedded.embedding) @ unit_rows(vector[None])[0]
  order = np.argsort(np.where(without, np.inf, -similarity), kind="stable")
  order = order[: min(top, int((~without).sum()))]
  start_s, end_s = embedded.start_s, embedded.end_s
  return [
    Neighbour(
      str(embedded.file[i]),
      None if start_s is None else float(start_s[i]),
      None if end_s is None else float(end_s[i]),
      float(similarity[i]),
    )
    for i in order
  ]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
  """Return the vectors [N, C] with length 1. Vectors of zeros stay zeros."""
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(lengths > 0, lengths, 1)


def _embedded_now(
  path: str | os.PathLike,
  embedded: Embedded,
  clips: Sequence[str],
  tagger_of: Callable[[], Tagger] | None,
) -> dict[str, np.ndarray]:
  """Return the embeddings of sound files that are not among the embedded ones.

  Raises:
    UserError: If there is no such file, or no tagger of these embeddings.
  """
  if not clips:
    return {}
  for clip in clips:
    if not os.path.isfile(clip):
      raise UserError(
        f"{printable(clip, SHOWN)}: neither in {os.fspath(path)} nor a sound file; name one, "
        f"such as {embedded.file[0]}"
      )
  if tagger_of is None:
    raise UserError(
      f"{printable(clips[0], SHOWN)}: not in {os.fspath(path)}; to embed it, give the --workdir or "
      "--model of these embeddings"
    )
  tagger = tagger_of()
  if embedded.checkpoint and tagger.checkpoint() != embedded.checkpoint:
    raise UserError(
      f"{os.fspath(path)}: made with another checkpoint; name its --workdir and --step or its "
      "--model, or embed the files again"
    )
  vectors = dict(zip(clips, tagger.embed(list(clips))))
  if vectors[clips[0]].shape != embedded.embedding.shape[1:]:
    raise UserError(
      f"{os.fspath(path)}: has vectors of {embedded.embedding.shape[1]} numbers, but those of this "
      f"system have {len(vectors[clips[0]])}; embed the files with it"
    )
  return vectors


def _line(one: Neighbour) -> str:
  times = "" if one.start_s is None else f"{one.start_s:9.2f} {one.end_s:9.2f}"
  return f"  {one.similarity:.3f}{times}  {one.file}"
