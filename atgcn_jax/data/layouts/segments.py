"""AudioSet segment lists with a folder of clips named by YouTube id."""

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
  repeat_remarks,
)
from atgcn_jax.errors import UserError, counted
from atgcn_jax.labels.counts import SEGMENT_FORM, Segment, parsed_segment
from atgcn_jax.labels.label_files import text_lines
from atgcn_jax.labels.vocabulary import Vocabulary

FORMATS = folders.SOUNDS + folders.OTHERS  # in order of preference, if a clip has several files
# ID or YID, optionally with _START or _START_END, where the separator may also be -. An id has 11
# characters, which may include - and _, and may begin with Y.
NAME = re.compile(r"Y?([\w-]{11})(?:[_-](\d+(?:\.\d+)?)(?:[_-]\d+(?:\.\d+)?)?)?", re.ASCII)


def list_segments(
  audio: str | os.PathLike,
  lists: Sequence[str | os.PathLike],
  settings: Frontend,
  vocabulary: Vocabulary | None,
  fold: str | None,
) -> Listing:
  """List the clips of AudioSet segment lists in a folder and its subfolders.

  The clip id is the YouTube id. A file name with a start, in seconds or milliseconds, matches the
  clip with that start. A file name without a start matches the first clip with its id. A further
  clip with the same id gets the id `ID_START`. Broken rows, and further clips with the same id and
  no matching file, are left out and counted. A clip that is not in the folder is `absent`.

  Args:
    audio: Folder of the clips.
    lists: Segment lists in the official format, optionally as .gz.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the lists.
    fold: Fold of all clips. Defaults to `train`, `validation` or `eval`, taken from the name of
      the list.

  Raises:
    UserError: If a list cannot be read or has no segment, or the folder has none of the clips.
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

  def present_rows() -> Iterator[Row]:
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
  listing = make_listing(present_rows(), vocabulary, load, root)
  if not listing.clip_ids:
    instead = f", but files such as {one_line(example)}" if example else ""
    raise UserError(
      f"{root}: contains none of the {len(absent)} clips of {lists[0]}, such as {absent[0][0]}.wav"
      f"{instead}; give the folder of clips named by YouTube id to --audio"
    )
  listing.absent.extend(absent)
  listing.unreadable.extend(contents.faults)
  listing.remarks.extend([*remarks, *repeat_remarks("--labels", repeated)])
  return listing


def read_segment_list(path: str | os.PathLike, remarks: list[str]) -> Iterator[Segment]:
  """Yield the valid rows of a segment list; `counts.read_segments` reads a complete list.

  Args:
    path: Path of the list.
    remarks: If rows are broken, a line with their number and the first faults is appended.

  Raises:
    UserError: If the file cannot be read or has no segment.
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
    reason = f" ({shown[0]})" if shown else ""
    raise UserError(f"{path}: contains no segment{reason}; write rows of {SEGMENT_FORM}")
  if broken:
    rows = counted(broken, "broken row is", "broken rows are")
    remarks.append(f"{path}: {rows} left out; {'; '.join(shown)}")


def _clips_by_name(paths: Iterable[str]) -> dict[str, tuple[int, str]]:
  """Map each clip, by YouTube id and the start in the file name if any, to its preferred file.

  Returns:
    A dict from the key to (position of the file format in FORMATS, path).
  """
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
