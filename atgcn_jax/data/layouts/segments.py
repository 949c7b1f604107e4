"""AudioSet segment lists with a folder of clips that are named by YouTube id."""

from __future__ import annotations

import collections
import functools
import os
import re
from collections.abc import Iterator, Sequence

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import (
  NOT_THERE,
  SHOWN,
  Listing,
  Row,
  check_folder,
  files_below,
  first_of_each,
  fold_of,
  gathered,
  load_file,
  told_repeats,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import SEGMENT_FORM, Segment, parsed_segment
from atgcn_jax.labels.files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

# What libsndfile reads comes first, where a clip is there in several forms.
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".m4a", ".mp4", ".webm")
# ID, YID, ID_START or ID_START_END; an id may itself begin with Y or -, and contain _.
NAME = re.compile(r"Y?([\w-]{11})(?:_(\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?", re.ASCII)


def list_segments(
  audio: str | os.PathLike,
  lists: Sequence[str | os.PathLike],
  settings: Frontend,
  vocabulary: Vocabulary | None,
  fold: str | None,
) -> Listing:
  """The clips of AudioSet segment lists that are in a folder or below it, under their YouTube ids.

  Broken rows and ids that come again are left out and counted; a clip that is not in the folder is
  `absent`.

  Args:
    lists: in the official format, also as .gz.
    fold: of all clips; by default `train` or `eval` after the name of the list.
  Raises:
    UserError: a list cannot be read or holds no segment, or the folder none of its clips.
  """
  root = str(check_folder(audio))
  folds = [fold_of(path, fold) for path in lists]
  found = _clips_by_name(root)
  remarks: list[str] = []
  absent: list[tuple[str, str]] = []
  repeated: collections.Counter[str] = collections.Counter()

  def rows() -> Iterator[Row]:
    for path, fold in zip(lists, folds):
      for segment in read_segment_list(path, remarks):
        where = f"{path}: {segment.clip_id}"
        yield Row(segment.clip_id, fold, f"{segment.start:.3f}", segment.labels, where)

  def those_there() -> Iterator[Row]:
    for row in first_of_each(rows(), repeated):
      start = float(row.source)
      names = (row.clip_id, _key(row.clip_id, start), _key(row.clip_id, 1000 * start))
      path = next((found.pop(name)[1] for name in names if name in found), None)
      if path is None:
        absent.append((row.clip_id, NOT_THERE))
      else:
        yield row._replace(source=path)

  load = functools.partial(load_file, root, settings)
  listing = gathered(those_there(), vocabulary, load, root)
  if not listing.clip_ids:
    raise UserError(
      f"{root}: holds none of the {len(absent)} clips of {lists[0]}, such as {absent[0][0]}.wav; "
      "give the folder of clips named by YouTube id to --audio"
    )
  listing.absent.extend(absent)
  listing.remarks.extend([*remarks, *told_repeats("--labels", repeated)])
  return listing


def read_segment_list(path: str | os.PathLike, remarks: list[str]) -> Iterator[Segment]:
  """The good rows of a segment list, one at a time; `counts.read_segments` takes it as a whole.

  Args:
    remarks: gets a line on the broken rows, if any: how many, and what is wrong with the first.
  Raises:
    UserError: the file cannot be read, or holds no segment.
  """
  good = broken = 0
  shown = []
  for number, line in enumerate(text_lines(path), 1):
    if line.startswith("#") or not line.strip():
      continue
    try:
      segment = parsed_segment(line.strip())
      if not all(segment.labels):
        raise ValueError("a label without an id")
    except ValueError as error:
      broken += 1
      if broken <= SHOWN:
        shown.append(f"line {number}: {error}")
    else:
      good += 1
      yield segment._replace(labels=list(dict.fromkeys(segment.labels)))
  if not good:
    told = f" ({shown[0]})" if shown else ""
    raise UserError(f"{path}: holds no segment{told}; write rows of {SEGMENT_FORM}")
  if broken:
    remarks.append(f"{path}: {broken} broken rows are left out; {'; '.join(shown)}")


def _clips_by_name(folder: str) -> dict[str, tuple[int, str]]:
  """The best file of each clip: YouTube id, with the start where the name has it, to its path."""
  found: dict[str, tuple[int, str]] = {}
  for path in files_below(folder, SOUNDS):
    stem, suffix = os.path.splitext(os.path.basename(path))
    if match := NAME.fullmatch(stem):
      key = _key(match[1], float(match[2])) if match[2] else match[1]
      candidate = (SOUNDS.index(suffix.lower()), path)
      if candidate < found.get(key, (len(SOUNDS), "")):
        found[key] = candidate
  return found


def _key(clip_id: str, start: float) -> str:
  return f"{clip_id} {start:.3f}"
