"""What `atgcn tag` and `atgcn embed` do with many files, and what they print and write."""

from __future__ import annotations

import collections
import contextlib
import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from atgcn_jax.audio.inputs import name_of
from atgcn_jax.buckets import path_of, whole_file
from atgcn_jax.errors import UserError
from atgcn_jax.serving.sources import spread
from atgcn_jax.serving.tagger import Outcome, Tag, Tagger
from atgcn_jax.serving.timeline import Timeline

COLUMNS = 100  # of what is printed
FINDINGS = 20  # warnings that are printed, of all files together
CSV_COLUMNS = ("file", "start_s", "end_s", "mid", "display_name", "score")


def tag_files(
  tagger: Tagger,
  files: Sequence[str],
  *,
  top: int,
  above_threshold: bool = False,
  timeline: bool = False,
  hop_seconds: float | None = None,
  csv_file: str | None = None,
  as_json: bool = False,
) -> list[Exception]:
  """Prints the tags of sound files, or writes them as CSV; returns why some could not be used.

  Args:
    files: also folders.
    top: labels a file, or a row of its timeline, unless all above their threshold are asked for.
    hop_seconds: as for `Tagger.timeline`.
    csv_file: written whole, in place of a table.
    as_json: print a JSON object a file in place of a table.
  Raises:
    UserError, WorkFailed: if none of the files could be used, with the last reason; nothing is
      written then.
  """
  chosen = tagger.choice(top, above_threshold)
  given, bad = spread(files)
  lines = tagger.timelines(given, hop_seconds=hop_seconds) if timeline else tagger.clips(given)
  if not csv_file:
    form = _json if as_json else _table
    return _each(
      "tag", lines, bad, lambda o: _say(form(o.source, _rows(o.value, chosen), timeline))
    )
  with _written("--csv", csv_file) as file:
    # Of names that are not UTF-8, as on the terminal.
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)

    def write(outcome: Outcome) -> None:
      rows = _rows(outcome.value, chosen)
      for start, end, tags in rows:
        times = (outcome.source, f"{start:.3f}", f"{end:.3f}")
        writer.writerows((*times, tag.id, tag.name, f"{tag.score:.6f}") for tag in tags)
      if as_json:
        _say(_json(outcome.source, rows, timeline))

    bad = _each("tag", lines, bad, write)
    text.detach()
  return bad


def embed_files(tagger: Tagger, files: Sequence[str], out: str) -> tuple[int, list[Exception]]:
  """Writes `embedding` float32[N, C] and `file` str[N]; returns N, and why some were left out.

  Args:
    files: also folders.
    out: the .npz to write, whole.
  Raises:
    UserError, WorkFailed: if none of the files could be used, with the last reason; nothing is
      written then.
  """
  given, bad = spread(files)
  names: list[str] = []
  vectors: list[np.ndarray] = []

  def keep(outcome: Outcome) -> None:
    names.append(outcome.source)
    vectors.append(outcome.value)

  with _written("--out", out) as file:
    bad = _each("embed", tagger.embeddings(given), bad, keep)
    # np.savez has an argument of its own that is called `file`.
    with zipfile.ZipFile(file, "w") as archive:
      arrays = {"embedding": np.stack(vectors).astype(np.float32), "file": np.array(names)}
      for name, array in arrays.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
          np.lib.format.write_array(member, array)
  return len(names), bad


def _each(
  verb: str, outcomes: Iterator[Outcome], bad: list[Exception], use: Callable[[Outcome], None]
) -> list[Exception]:
  """Uses what came of each file; returns why there are some of which nothing came.

  Args:
    bad: reasons that are known before.
  """
  bad, used = list(bad), 0
  found: collections.Counter[str] = collections.Counter()
  for outcome in outcomes:
    if outcome.error is not None:
      bad.append(outcome.error)
      continue
    use(outcome)
    used += 1
    for finding in outcome.findings:
      if found.total() < FINDINGS:
        text = f"atgcn {verb}: {name_of(outcome.source)}: {finding.detail}"
        tqdm.write(text, file=sys.stderr)
      found[finding.kind] += 1
  if found.total() > FINDINGS:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.items())
    print(
      f"atgcn {verb}: only the first {FINDINGS} warnings are shown, of {kinds}", file=sys.stderr
    )
  if not used:
    for error in bad[:-1]:
      print(f"atgcn {verb}: {error}", file=sys.stderr)
    raise bad[-1]
  return bad


def _rows(line: Timeline, chosen: Callable) -> list[tuple[float, float, list[Tag]]]:
  return [
    (float(start), float(end), chosen(scores))
    for start, end, scores in zip(line.start_s, line.end_s, line.scores)
  ]


def _json(file: str, rows: list[tuple[float, float, list[Tag]]], timeline: bool) -> str:
  told: list[dict[str, Any]] = [
    {"start_s": start, "end_s": end, "tags": [tag._asdict() for tag in tags]}
    for start, end, tags in rows
  ]
  return json.dumps(
    {"file": file} | ({"timeline": told} if timeline else {"tags": told[0]["tags"]})
  )


def _table(file: str, rows: list[tuple[float, float, list[Tag]]], timeline: bool) -> str:
  if not timeline:
    return "\n".join([file, *(_tag_line(tag) for tag in rows[0][2])])
  lines = (
    f"{start:9.2f} {end:9.2f}  " + ", ".join(f"{tag.score:.2f} {tag.name}" for tag in tags)
    for start, end, tags in rows
  )
  return "\n".join([file, *(shortened(line, COLUMNS) for line in lines)])


def _tag_line(tag: Tag) -> str:
  before, behind = f"  {tag.score:.3f}  ", f"  ({tag.id})"
  return before + shortened(tag.name, COLUMNS - len(before) - len(behind)) + behind


def shortened(text: str, columns: int) -> str:
  """The text, or its beginning where it is longer than so many columns."""
  return text if len(text) <= columns else text[: max(0, columns - 1)] + "…"


def _say(text: str) -> None:
  tqdm.write(text)  # above a bar
  sys.stdout.flush()


@contextlib.contextmanager
def _written(option: str, place: str) -> Iterator[IO[bytes]]:
  """A file that appears under its name when the block has ended well."""
  try:
    if path_of(place).is_dir():
      raise UserError(f"{option} {place}: is a folder; name a file")
    with whole_file(path_of(place)) as file:
      yield file
  except BrokenPipeError:
    raise
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"{option} {place}: cannot be written ({reason}); name another") from error
