"""SONYC-UST: a table of annotations with coarse and fine labels, and a folder of recordings."""

from __future__ import annotations

import csv
import functools
import os
import re

from atgcn_jax.audio import folders
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import (
  NOT_THERE,
  Listing,
  Row,
  check_audio_folder,
  load_file,
  make_listing,
)
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.label_files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("split", "audio_filename", "annotator_id")
PRESENCE = re.compile(r"((\d+(?:-[\dX]+)?)_(.+))_presence")
FOLDS = {"validate": "validation"}
AGREED = 0  # annotator_id of the rows that the experts agreed on


def list_sonyc(
  audio: str | os.PathLike, annotations: str | os.PathLike, settings: Frontend
) -> Listing:
  """List the recordings of SONYC-UST, version 1 or 2, with all coarse and fine labels.

  If a recording has a row that the experts agreed on (annotator_id 0), only that row is used.
  Otherwise a label is present if at least one annotator marked it. The `X` labels, for other or
  unknown kinds, are ordinary labels. A label id is the number and the name, such as `1-1_small-…`.

  Args:
    audio: Folder of the recordings, which may be in subfolders.
    annotations: Path of `annotations.csv`.
    settings: Front end that the clips are loaded for.

  Raises:
    UserError: If the table cannot be used, or the folder contains none of the recordings.

  Source:
    README of the data set; baseline of DCASE 2019 task 5.
  """
  root = str(check_audio_folder(audio))
  columns, rows = _recordings(annotations)
  try:
    vocabulary = Vocabulary(
      tuple(match[1] for match in columns), tuple(match[3] for match in columns)
    )
  except ValueError as error:
    raise UserError(f"{annotations}: {reason(error)}; fix the first line") from None
  paths: dict[str, str] = {}
  found = folders.contents(root)
  for path in found.files:
    paths.setdefault(os.path.basename(path), path)
  absent = [(name, NOT_THERE) for name in rows if name not in paths]
  there = (
    Row(name, split, paths[name], present, f"{annotations}: {name}")
    for name, (split, present) in rows.items()
    if name in paths
  )
  listing = make_listing(there, vocabulary, functools.partial(load_file, root, settings), root)
  if not listing.clip_ids:
    raise UserError(
      f"{root}: contains none of the {len(absent)} recordings of {annotations}, "
      f"such as {absent[0][0]}; give their folder to --audio"
    )
  listing.absent.extend(absent)
  listing.unreadable.extend(found.faults)
  return listing


def _recordings(
  path: str | os.PathLike,
) -> tuple[list[re.Match[str]], dict[str, tuple[str, list[str]]]]:
  """Return the label columns, and the fold and label ids of each recording."""
  reader = csv.DictReader(text_lines(path), strict=True)
  votes: dict[str, tuple[str, bool, list[bool]]] = {}
  try:
    names = reader.fieldnames or ()
    columns = [match for name in names if (match := PRESENCE.fullmatch(name))]
    missing = [name for name in COLUMNS if name not in names]
    if missing or not columns:
      raise UserError(
        f"{path}: no column {', '.join(missing) or 'NUMBER_NAME_presence'}; "
        "give the original annotations.csv of SONYC-UST to --labels"
      )
    # Coarse labels come first, as in the taxonomy.
    columns.sort(key=lambda match: "-" in match[2])
    for row in reader:
      _count(row, columns, votes, f"{path}, line {reader.line_num}")
  except csv.Error as error:
    raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); fix the line") from None
  if not votes:
    raise UserError(f"{path}: lists no recording; use the original annotations.csv of SONYC-UST")
  ids = [match[1] for match in columns]
  return columns, {
    name: (split, [label for label, is_present in zip(ids, present) if is_present])
    for name, (split, _, present) in votes.items()
  }


def _count(
  row: dict[str, str],
  columns: list[re.Match[str]],
  votes: dict[str, tuple[str, bool, list[bool]]],
  where: str,
) -> None:
  """Add one row, the votes of one annotator on one recording, to `votes`."""
  name, split = row["audio_filename"], row["split"]
  try:
    agreed = float(row["annotator_id"]) == AGREED
    present = [float(row[match[0]] or 0) > 0 for match in columns]  # -1: not rated
  except (TypeError, ValueError):
    raise UserError(f"{where}: a presence or annotator is not a number; fix the row") from None
  if not name or not split:
    raise UserError(f"{where}: has no recording or no split; fix the row")
  _, settled, before = votes.get(name, ("", False, [False] * len(columns)))
  if agreed:
    votes[name] = (FOLDS.get(split, split), True, present)
  elif not settled:
    either = [one or other for one, other in zip(before, present)]
    votes[name] = (FOLDS.get(split, split), False, either)
