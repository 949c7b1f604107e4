"""SONYC-UST: its table of annotations, coarse and fine labels, and its folder of recordings."""

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
from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

COLUMNS = ("split", "audio_filename", "annotator_id")
PRESENCE = re.compile(r"((\d+(?:-[\dX]+)?)_(.+))_presence")
FOLDS = {"validate": "validation"}
AGREED = 0  # annotator_id of what the experts agreed on


def list_sonyc(
  audio: str | os.PathLike, annotations: str | os.PathLike, settings: Frontend
) -> Listing:
  """The recordings of SONYC-UST, version 1 or 2, with all its coarse and fine labels.

  Where a recording has a row that the experts agreed on (annotator_id 0), that one counts;
  otherwise a label is present if any annotator says so. The `X` labels, for other or unknown kinds,
  are labels like the rest. A label's id is the number with the name, as `1-1_small-…`.

  Args:
    audio: the folder of recordings, which may lie in subfolders.
    annotations: `annotations.csv`.
  Raises:
    UserError: the table cannot be used, or the folder holds none of the recordings.

  Source: the data's README; the baseline of DCASE 2019 task 5.
  """
  root = str(check_audio_folder(audio))
  columns, rows = _recordings(annotations)
  vocabulary = Vocabulary(
    tuple(match[1] for match in columns), tuple(match[3] for match in columns)
  )
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
      f"{root}: holds none of the {len(absent)} recordings of {annotations}, "
      f"such as {absent[0][0]}; give their folder to --audio"
    )
  listing.absent.extend(absent)
  listing.unreadable.extend(found.faults)
  return listing


def _recordings(
  path: str | os.PathLike,
) -> tuple[list[re.Match[str]], dict[str, tuple[str, list[str]]]]:
  """The columns of labels, and each recording's fold and the ids of its labels."""
  reader = csv.DictReader(text_lines(path), strict=True)
  votes: dict[str, tuple[str, bool, list[bool]]] = {}
  try:
    names = reader.fieldnames or ()
    columns = [match for name in names if (match := PRESENCE.fullmatch(name))]
    missing = [name for name in COLUMNS if name not in names]
    if missing or not columns:
      raise UserError(
        f"{path}: no column {', '.join(missing) or 'NUMBER_NAME_presence'}; "
        "give SONYC-UST's own annotations.csv to --labels"
      )
    # Coarse labels first, as the taxonomy has them.
    columns.sort(key=lambda match: "-" in match[2])
    for row in reader:
      _count(row, columns, votes, f"{path}, line {reader.line_num}")
  except csv.Error as error:
    raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); mend the line") from None
  if not votes:
    raise UserError(f"{path}: names no recording; give SONYC-UST's own annotations.csv")
  ids = [match[1] for match in columns]
  return columns, {
    name: (split, [label for label, said in zip(ids, present) if said])
    for name, (split, _, present) in votes.items()
  }


def _count(
  row: dict[str, str],
  columns: list[re.Match[str]],
  votes: dict[str, tuple[str, bool, list[bool]]],
  where: str,
) -> None:
  """Add what one annotator says of a recording."""
  name, split = row["audio_filename"], row["split"]
  try:
    agreed = float(row["annotator_id"]) == AGREED
    present = [float(row[match[0]] or 0) > 0 for match in columns]  # -1: was not asked for
  except (TypeError, ValueError):
    raise UserError(f"{where}: a presence or annotator is no number; mend the row") from None
  if not name or not split:
    raise UserError(f"{where}: names no recording or no split; mend the row")
  _, settled, before = votes.get(name, ("", False, [False] * len(columns)))
  if agreed:
    votes[name] = (FOLDS.get(split, split), True, present)
  elif not settled:
    either = [one or other for one, other in zip(before, present)]
    votes[name] = (FOLDS.get(split, split), False, either)
