"""Tagging of many files, for `atgcn tag`, and what all commands on many files share."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from atgcn_jax.audio.inputs import name_of
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.summary import find_label
from atgcn_jax.runs.resumable_results import Key, PartialResults, partial_results
from atgcn_jax.runtime import signals
from atgcn_jax.runtime.buckets import in_bucket, path_of
from atgcn_jax.runtime.whole_files import check_regular, csv_bytes, whole_file
from atgcn_jax.serving.explain import draw_explanation, explanation_json, explanation_text
from atgcn_jax.serving.sound_scorer import Outcome
from atgcn_jax.serving.sources import spread
from atgcn_jax.serving.tagger import Tag, Tagger
from atgcn_jax.serving.timeline import Timeline

COLUMNS = 100  # maximum width of printed lines
FINDINGS = 20  # maximum number of printed warnings, over all files
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
  """Print the tags of sound files, or write them to a CSV file.

  Args:
    tagger: The tagger.
    files: The files and folders.
    top: The number of labels per file, or per row of the timeline.
    above_threshold: Whether to report all labels above their threshold instead.
    timeline: Whether to tag the timeline of each file instead of the complete file.
    hop_seconds: See `Tagger.timeline`.
    csv_file: The CSV file to write instead of printing a table. It is written atomically. Rows of
      finished files are stored, so that the same call continues after an interruption (see
      `partial_results`).
    as_json: Whether to print one JSON object per file instead of a table.

  Returns:
    The errors of the files that could not be used.

  Raises:
    UserError, WorkFailed: If none of the files could be used. This is the last error, and nothing
      is written.
  """
  chosen = tagger.choice(top, above_threshold)
  sounds, bad = spread(files)

  def outcomes(files: Sequence[str], alone: bool) -> Iterator[Outcome]:
    if timeline:
      return tagger.timelines(files, hop_seconds=hop_seconds, alone=alone)
    return tagger.clips(files, alone=alone)

  if not csv_file:
    form = _json if as_json else _table
    return each_outcome(
      "tag",
      outcomes(sounds, True),
      bad,
      lambda o: say(form(o.source, _rows(o.value, chosen), timeline)),
    )

  def finished(outcome: Outcome) -> tuple[bytes, str]:
    rows = _rows(outcome.value, chosen)
    table = [
      (outcome.source, f"{start:.3f}", f"{end:.3f}", tag.id, tag.name, f"{tag.score:.6f}")
      for start, end, tags in rows
      for tag in tags
    ]
    return csv_bytes(table), _json(outcome.source, rows, timeline) if as_json else ""

  options = {
    "--top": None if above_threshold else top,
    "--above-threshold": _digest(tagger.thresholds) if above_threshold else False,
    "--timeline": timeline,
    "--hop-seconds": hop_seconds,
    "--json": as_json,
    "--strict": tagger.strict,
  }
  heading = csv_bytes([CSV_COLUMNS])
  with output_of("tag", "--csv", csv_file, options | tagger.identity(), sounds, heading) as part:
    bad, contents = finish_files("tag", part, sounds, bad, outcomes, finished)
    with whole_file(path_of(csv_file)) as file:
      file.write(heading)
      file.writelines(content for _, content in contents)
  return bad


def explain_files(
  tagger: Tagger, files: Sequence[str], label: str, *, as_json: bool, plot: str | None
) -> list[Exception]:
  """Print why a label has its score in each of some sound files.

  Args:
    tagger: The tagger.
    files: The files and folders.
    label: The id or the name of the label.
    as_json: Whether to print one JSON object per file instead of text.
    plot: The picture to write, for one file.

  Returns:
    The errors of the files that could not be used.

  Raises:
    UserError, WorkFailed: If none of the files could be used, the label does not exist, or there
      are several sounds for a picture.
  """
  sounds, bad = spread(files)
  if plot and len(sounds) > 1:
    raise UserError(f"--plot {plot}: {files[0]} has {len(sounds)} sounds; name one of them")

  def outcomes() -> Iterator[Outcome]:
    for file in sounds:
      try:
        yield Outcome(file, tagger.explain(file, label), None)
      except (UserError, WorkFailed) as error:
        yield Outcome(file, None, error)

  def use(outcome: Outcome) -> None:
    if plot:
      draw_explanation(plot, outcome.value)
    form = explanation_json if as_json else explanation_text
    say(form(outcome.source, outcome.value))

  find_label(tagger.vocabulary, label, "--explain")
  return each_outcome("tag", outcomes(), bad, use)


@contextlib.contextmanager
def output_of(
  verb: str,
  option: str,
  out: str,
  identity: dict[str, Any],
  files: Sequence[str],
  heading: bytes = b"",
) -> Iterator[PartialResults]:
  """Yield the finished files of an output.

  Raises:
    UserError: If the output cannot be written.
  """
  try:
    if path_of(out).is_dir():
      raise UserError(f"{option} {out}: must be a file, but is a folder; name a file")
    check_regular(path_of(out))
    identity = {"command": verb} | identity
    with partial_results(out, identity, total=len(files), unit="files", heading=heading) as part:
      yield part
  except BrokenPipeError:
    raise
  except OSError as error:
    reason = error.strerror or error
    raise UserError(f"{option} {out}: cannot be written ({reason}); name another file") from error


def finish_files(
  verb: str,
  part: PartialResults,
  files: Sequence[str],
  bad: list[Exception],
  outcomes: Callable[[Sequence[str], bool], Iterator[Outcome]],
  finished: Callable[[Outcome], tuple[bytes, str]],
) -> tuple[list[Exception], Iterator[tuple[str, bytes]]]:
  """Process the files that are not finished.

  Args:
    verb: The name of the command.
    part: The finished files.
    files: All files.
    bad: Known errors.
    outcomes: A function of files, and whether these are all the files, that yields their outcomes.
    finished: A function from an outcome to its part of the output and the text to print.

  Returns:
    The errors of the files that could not be used, and an iterator over the other files and their
    parts of the output, in order.
  """
  keys = {file: _key(file) for file in files}
  rest = [file for file in files if keys[file] not in part]
  for file in files:
    if keys[file] in part and (text := part.note(keys[file])):
      say(text)

  def use(outcome: Outcome) -> None:
    content, text = finished(outcome)
    part.add(keys[outcome.source], content, text)
    if text:
      say(text)

  done = len(files) - len(rest)
  bad = each_outcome(verb, outcomes(rest, not done), bad, use, done)
  return bad, ((file, part[keys[file]]) for file in files if keys[file] in part)


def _key(file: str) -> Key:
  """Return the key by which a file is recognised when the command continues.

  The key changes with the content of the file, except in a bucket.
  """
  path = os.fspath(file)
  if in_bucket(path):
    return (path,)
  with contextlib.suppress(OSError, ValueError):
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode):
      return (path, status.st_size, status.st_mtime_ns)
  return (path, "read once", time.time_ns())  # for example a pipe, which cannot be recognised


def _digest(thresholds: np.ndarray | None) -> str:
  return hashlib.sha256(np.asarray(thresholds, np.float64).tobytes()).hexdigest()[:16]


def each_outcome(
  verb: str,
  outcomes: Iterable[Outcome],
  bad: list[Exception],
  use: Callable[[Outcome], None],
  used: int = 0,
) -> list[Exception]:
  """Use the outcome of each file, and return the errors of the others.

  Args:
    verb: The name of the command.
    outcomes: The outcomes.
    bad: Known errors.
    use: A function that uses a successful outcome.
    used: The number of files used earlier.

  Raises:
    UserError, WorkFailed: If none of the files could be used. This is the last error.
  """
  bad = list(bad)
  found: collections.Counter[str] = collections.Counter()
  with signals.deferred():
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
      signals.raise_if_stopped()
  if found.total() > FINDINGS:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.items())
    print(
      f"atgcn {verb}: only the first {FINDINGS} warnings are shown, of {kinds}",
      file=sys.stderr,
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
  entries: list[dict[str, Any]] = [
    {"start_s": start, "end_s": end, "tags": [tag._asdict() for tag in tags]}
    for start, end, tags in rows
  ]
  return json.dumps(
    {"file": file} | ({"timeline": entries} if timeline else {"tags": entries[0]["tags"]})
  )


def _table(file: str, rows: list[tuple[float, float, list[Tag]]], timeline: bool) -> str:
  if not timeline:
    return "\n".join([file, *(_tag_line(tag) for tag in rows[0][2])])
  lines = (f"{start:9.2f} {end:9.2f}  {scores_text(tags)}" for start, end, tags in rows)
  return "\n".join([file, *(shortened(line, COLUMNS) for line in lines)])


def scores_text(tags: Sequence[Tag]) -> str:
  """Return scores and names, separated by semicolons because names contain commas."""
  return "; ".join(f"{tag.score:.2f} {tag.name}" for tag in tags)


def _tag_line(tag: Tag) -> str:
  before, after = f"  {tag.score:.3f}  ", "" if tag.id == tag.name else f"  ({tag.id})"
  return before + shortened(tag.name, COLUMNS - len(before) - len(after)) + after


def shortened(text: str, columns: int) -> str:
  """Return the text, truncated to this number of columns."""
  return text if len(text) <= columns else text[: max(0, columns - 1)] + "…"


def say(text: str) -> None:
  """Print a text above the progress bar, at once."""
  tqdm.write(text)
  sys.stdout.flush()
