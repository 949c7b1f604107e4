"""AudioSet segment lists with a folder of clips that are named by YouTube id."""

from __future__ import annotations

import collections
import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from atgcn_jax.audio import folders
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.inputs import one_line
from atgcn_jax.data.layouts.listing import (
  NOT_THERE,
  SHOWN,
  Listing,
  Row,
  check_audio_folder,
  fold_of,
  load_file,
  make_listing,
  told_repeats,
)
from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import SEGMENT_FORM, Segment, parsed_segment
from atgcn_jax.labels.label_files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

FORMATS = folders.SOUNDS + folders.OTHERS  # a clip is taken in the first of these
# ID, YID, or either with _START or _START_END, where - may stand for _. An id has 11 characters,
# also - and _, and may begin with Y.
NAME = re.compile(r"Y?([\w-]{11})(?:[_-](\d+(?:\.\d+)?)(?:[_-]\d+(?:\.\d+)?)?)?", re.ASCII)


def list_segments(
  audio: str | os.PathLike,
  lists: Sequence[str | os.PathLike],
  settings: Frontend,
  vocabulary: Vocabulary | None,
  fold: str | None,
) -> Listing:
  """The clips of AudioSet segment lists that are in a folder or below it, under their YouTube ids.

  A file whose name has a start, in seconds or milliseconds, is the clip with this start, any other
  the first clip with its id. A further clip with the same id is called `ID_START`. Broken rows and
  clips with the same id that have no file of their own are left out and counted; a clip that is
  not in the folder is `absent`.

  Args:
    lists: in the official format, also as .gz.
    fold: of all clips; by default `train` or `eval` after the name of the list.
  Raises:
    UserError: a list cannot be read or holds no segment, or the folder none of its clips.
  """
  root = str(check_audio_folder(audio))
  folds = [fold_of(path, fold) for path in lists]
  contents = folders.contents(root, FORMATS)
  found = _clips_by_name(contents.files)
  example = contents.files[0] if contents.files else ""
  remarks: list[str] = []
  absent: list[tuple[str, str]] = []
  repeated: collections.Counter[str] = collections.Counter()

  def rows() -> Iterator[Row]:
    for path, fold in zip(lists, folds):
      for segment in read_segment_list(path, remarks):
        where = f"{path}: {segment.clip_id}"
        yield Row(segment.clip_id, fold, f"{segment.start:.3f}", segment.labels, where)

  def those_there() -> Iterator[Row]:
    seen: set[str] = set()
    for row in rows():
      start, again = float(row.source), row.clip_id in seen
      seen.add(row.clip_id)
      names = (_key(row.clip_id, start), _key(row.clip_id, 1000 * start), row.clip_id)
      path = next((found.pop(name)[1] for name in names[: 3 - again] if name in found), None)
      if path is not None:
        clip_id = f"{row.clip_id}_{start:.3f}" if again else row.clip_id
        yield row._replace(source=path, clip_id=clip_id)
      elif again:
        repeated[row.clip_id] += 1
      else:
        absent.append((row.clip_id, NOT_THERE))

  load = functools.partial(load_file, root, settings)
  listing = make_listing(those_there(), vocabulary, load, root)
  if not listing.clip_ids:
    instead = f" but, for example, {one_line(example)}" if example else ""
    raise UserError(
      f"{root}: holds none of the {len(absent)} clips of {lists[0]}, such as {absent[0][0]}.wav"
      f"{instead}; give the folder of clips named by YouTube id to --audio"
    )
  listing.absent.extend(absent)
  listing.unreadable.extend(contents.faults)
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


def _clips_by_name(paths: Iterable[str]) -> dict[str, tuple[int, str]]:
  """The best file of each clip: YouTube id, with the start where the name has it, to its path."""
  found: dict[str, tuple[int, str]] = {}
  for path in paths:
    stem, suffix = os.path.splitext(os.path.basename(path))
    if match := NAME.fullmatch(stem):
      key = _key(match[1], float(match[2])) if match[2] else match[1]
      candidate = (FORMATS.index(suffix.lower()), path)
      if candidate < found.get(key, (len(FORMATS), "")):
        found[key] = candidate
  return found


def _key(clip_id: str, start: float) -> str:
  return f"{clip_id} {start:.3f}"
