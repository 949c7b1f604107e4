"""Detections in many files, for `atgcn detect`, and their output."""

from __future__ import annotations

import collections
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import csv_bytes, write_output
from atgcn_jax.serving.detection_scores import (
  COLLAR_SECONDS,
  Reference,
  score_detections,
  scores_text,
  table_files,
)
from atgcn_jax.serving.detections import (
  CSV_COLUMNS,
  FORMATS,
  Detection,
  as_file,
  as_json_lines,
  as_table,
  detections,
  rules_of,
)
from atgcn_jax.serving.many_files import each_outcome, say
from atgcn_jax.serving.sound_scorer import Outcome
from atgcn_jax.serving.sources import spread
from atgcn_jax.serving.tagger import Tagger

PER_SOUND = ("raven", "audacity")  # formats with one file per sound


def detect_files(
  tagger: Tagger,
  files: Sequence[str],
  *,
  kind: str,
  out: str | None,
  min_score: float | None = None,
  release: float = 0.5,
  min_seconds: float = 0.0,
  hop_seconds: float | None = None,
  tables: Sequence[str] = (),
  collar: float = COLLAR_SECONDS,
  as_json: bool = False,
) -> list[Exception]:
  """Write the detections in sound files, or print them, or score them against tables of events.

  Args:
    tagger: The tagger.
    files: The files and folders.
    kind: The format: `csv` or `jsonl`, one file for all sounds; `raven` or `audacity`, one file per
      sound.
    out: The file, or the folder for a file per sound. None prints `csv` and `jsonl`, unless there
      are tables.
    min_score: The score of a detection. By default the thresholds of the run, or .5 without them.
    release: See `Rules`.
    min_seconds: The least length of a detection, in seconds.
    hop_seconds: See `Tagger.timeline`.
    tables: Tables of annotated events, or folders of them. If given, the scores of the detections
      are printed.
    collar: See `score_detections`, in seconds.
    as_json: Whether the scores are printed as JSON.

  Returns:
    The errors of the files that could not be used.

  Raises:
    UserError, WorkFailed: An option is invalid, the output cannot be written, or none of the files
      could be used.
  """
  if kind in PER_SOUND and out is None and not tables:
    raise UserError(f"--format {kind}: writes a file per sound; name a folder with --out")
  rules = rules_of(tagger, min_score, release, min_seconds)
  if min_score is None:
    tagger.check_thresholds()
  if not 0 <= collar < float("inf"):
    raise UserError(f"--collar {collar:g}: must be at least 0")
  sounds, bad = spread(files)
  reference = Reference(tables, sounds, tagger.vocabulary) if tables else None
  scored: dict[str, list[Detection]] = {}
  highest = tagger.run.frontend.fmax
  parts: list[tuple[str, list[Detection]]] = []
  outcomes = tagger.timelines(sounds, hop_seconds=hop_seconds)  # refuses the hop before any output
  targets = targets_of(sounds, kind, out, tables) if kind in PER_SOUND and out else {}

  def use(outcome: Outcome) -> None:
    file, found = outcome.source, detections(outcome.value, tagger.vocabulary, rules)
    if reference is not None:
      scored[file] = found
      if out is None:
        return
    if kind in PER_SOUND:
      write_output(targets[file], as_file([(file, found)], kind, highest))
    elif out is None:
      if kind == "csv":
        say(csv_bytes(as_table(found, kind, file, highest)).decode().rstrip("\n"))
      else:
        say(as_json_lines(found, file).rstrip("\n"))
    else:
      parts.append((file, found))

  if out is None and kind == "csv" and reference is None:
    say(csv_bytes([CSV_COLUMNS]).decode().rstrip("\n"))
  bad = each_outcome("detect", outcomes, bad, use)
  if out is not None and kind not in PER_SOUND:
    write_output(out, as_file(parts, kind, highest))
  if reference is not None:
    for line in reference.remarks():
      print(f"atgcn detect: --score: {line}", file=sys.stderr)
    result = score_detections(scored, reference, tagger.vocabulary, collar=collar)
    say(json.dumps(result) if as_json else scores_text(result))
  return bad


def targets_of(
  sounds: Sequence[str], kind: str, out: str, tables: Sequence[str] = ()
) -> dict[str, pathlib.Path]:
  """Return the output file of each sound; sounds of one name get the names of their folders too.

  Args:
    sounds: The sounds.
    kind: A format of `PER_SOUND`.
    out: The folder. It is made.
    tables: Tables of annotated events, or folders of them, which must stay as they are.

  Raises:
    UserError: The folder cannot be made, two sounds would have the same file, or a file is a table.
  """
  try:
    path_of(out).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {out}: cannot be made ({error.strerror}); name a folder") from error
  counts = collections.Counter(os.path.basename(sound) for sound in sounds)
  kept = {os.path.realpath(table) for table in table_files(tables)}
  targets: dict[str, pathlib.Path] = {}
  sound_of: dict[pathlib.Path, str] = {}
  for sound in sounds:
    name = os.path.basename(sound)
    if counts[name] > 1:
      name = os.path.normpath(sound).strip(os.sep).replace(os.sep, "_")
    target = path_of(out) / f"{name}{FORMATS[kind][0]}"
    other = sound_of.setdefault(target, sound)
    if os.path.realpath(other) != os.path.realpath(sound):
      raise UserError(
        f"--out {out}: {other} and {sound} would both be written to {target.name}; use another "
        "--out for one of them"
      )
    if os.path.realpath(target) in kept:
      raise UserError(f"--out {out}: {target} is one of the tables of --score; name another folder")
    targets[sound] = target
  return targets
