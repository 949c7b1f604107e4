"""The sound files most worth labelling next, for `atgcn suggest`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.data.layouts.label_list import read_label_list
from atgcn_jax.errors import UserError, counted
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.whole_files import csv_bytes, whole_file
from atgcn_jax.serving.many_files import (
  each_outcome,
  finish_files,
  output_of,
  say,
  scores_text,
)
from atgcn_jax.serving.similar import unit_rows
from atgcn_jax.serving.sources import is_folder, spread
from atgcn_jax.serving.tagger import Outcome, Tag, Tagger

CSV_COLUMNS = ("file", "uncertainty_bits", "distance")
SHOWN_TAGS = 3


class Suggestion(NamedTuple):
  """The position of a sound, its uncertainty in bits, and its distance to earlier suggestions."""

  position: int
  uncertainty_bits: float
  distance: float


def suggestions(scores: np.ndarray, embeddings: np.ndarray, top: int) -> list[Suggestion]:
  """Return the sounds most worth labelling next, best first.

  The uncertainty of a sound is the entropy of its scores, summed over the labels. Each suggestion
  is the sound with the largest product of uncertainty and cosine distance to the nearest earlier
  suggestion, which is at most 1. For the first one the distance is 1.

  Args:
    scores: float[N, K], in [0, 1].
    embeddings: float[N, C].
    top: The maximum number.

  Source:
    Uncertainty sampling by entropy: Settles, Active Learning Literature Survey, 2009. Diversity by
    farthest-first traversal: Sener and Savarese, Active Learning for Convolutional Neural Networks:
    A Core-Set Approach, ICLR 2018.
  """
  bits = entropy_bits(scores)
  vectors = unit_rows(embeddings.astype(np.float64))
  distance = np.ones(len(bits))
  left = np.ones(len(bits), bool)
  chosen: list[Suggestion] = []
  for _ in range(min(top, len(bits))):
    best = int(np.argmax(np.where(left, bits * distance, -1)))
    chosen.append(Suggestion(best, float(bits[best]), float(distance[best])))
    left[best] = False
    distance = np.minimum(distance, np.clip(1 - vectors @ vectors[best], 0, None))
  return chosen


def entropy_bits(scores: np.ndarray) -> np.ndarray:
  """Return the sum of the binary entropies of scores float[N, K] over the labels, float64[N]."""
  share = scores.astype(np.float64)
  terms = [np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0) for p in (share, 1 - share)]
  return -(terms[0] + terms[1]).sum(axis=1)


def suggest_files(
  tagger: Tagger,
  files: Sequence[str],
  *,
  top: int,
  labels: str | None = None,
  csv_file: str | None = None,
  as_json: bool = False,
) -> list[Exception]:
  """Print the sound files most worth labelling next, or write them to a CSV file.

  Args:
    tagger: The tagger.
    files: The files and folders.
    top: The number of suggestions.
    labels: A label list, whose files are left out (see `without_labelled`).
    csv_file: The CSV file to write instead of printing a table. Results of finished files are
      stored, so that the same call continues after an interruption (see `partial_results`).
    as_json: Whether to print one JSON object per suggestion instead of a table.

  Returns:
    The errors of the files that could not be used.

  Raises:
    UserError, WorkFailed: If an option is invalid, or none of the files could be used.
  """
  if top < 1:
    raise UserError(f"--top {top}: must be at least 1")
  sounds, bad = spread(files)
  if labels is not None and sounds:
    sounds = without_labelled(sounds, files, labels)
  K = len(tagger.vocabulary)

  def outcomes(files: Sequence[str], alone: bool) -> Iterator[Outcome]:
    return tagger.scores_and_embeddings(files, alone=alone)

  def finished(outcome: Outcome) -> tuple[bytes, str]:
    return np.concatenate(outcome.value).tobytes(), ""

  if csv_file is None:
    names: list[str] = []
    values: list[np.ndarray] = []

    def use(outcome: Outcome) -> None:
      names.append(outcome.source)
      values.append(np.concatenate(outcome.value))

    bad = each_outcome("suggest", outcomes(sounds, True), bad, use)
    both = np.stack(values)
    _report(tagger, names, both, suggestions(both[:, :K], both[:, K:], top), as_json)
    return bad
  options = {"--strict": tagger.strict} | tagger.identity()
  with output_of("suggest", "--csv", csv_file, options, sounds) as part:
    bad, contents = finish_files("suggest", part, sounds, bad, outcomes, finished)
    names, parts = map(list, zip(*contents))
    both = np.stack([np.frombuffer(content, np.float32) for content in parts])
    found = suggestions(both[:, :K], both[:, K:], top)
    rows = [
      (names[one.position], f"{one.uncertainty_bits:.4f}", f"{one.distance:.4f}") for one in found
    ]
    with whole_file(path_of(csv_file)) as file:
      file.write(csv_bytes([CSV_COLUMNS, *rows]))
  if as_json:
    _report(tagger, names, both, found, as_json)
  return bad


def without_labelled(sounds: Sequence[str], given: Sequence[str], labels: str) -> list[str]:
  """Return the sound files that a label list does not name, and print how many it names.

  A row names a file by a path that is absolute, or relative to the current folder, to one of the
  given folders, or to the folder of a given file.

  Args:
    sounds: The sound files.
    given: The files and folders on the command line that they come from.
    labels: The label list, see `read_label_list`.

  Raises:
    UserError: If the list cannot be read, or names all the files.
  """
  folders = {"", *(file if is_folder(file) else os.path.dirname(file) for file in given)}
  rows = read_label_list(labels, folds=False)
  named = {
    os.path.abspath(os.path.join(folder, row.filename)) for folder in folders for row in rows
  }
  left = [sound for sound in sounds if os.path.abspath(sound) not in named]
  if not left:
    raise UserError(f"--labels {labels}: names every file; give recordings without labels")
  count = len(sounds) - len(left)
  hint = "" if count else "; the names must be relative to a folder on the command line"
  files = f"of {len(sounds)} files"
  labelled = counted(count, f"{files} is", f"{files} are")
  print(
    f"atgcn suggest: {labels}: {labelled} labelled and left out{hint}",
    file=sys.stderr,
  )
  return left


def _report(
  tagger: Tagger,
  names: Sequence[str],
  both: np.ndarray,
  found: Sequence[Suggestion],
  as_json: bool,
) -> None:
  """Print suggestions among files with scores and embeddings float32[N, K + C]."""
  K = len(tagger.vocabulary)
  chosen_tags = tagger.choice(SHOWN_TAGS)
  for one in found:
    name, tags = names[one.position], chosen_tags(both[one.position, :K])
    say(_json(name, one, tags) if as_json else _line(name, one, tags))


def _json(name: str, one: Suggestion, tags: Sequence[Tag]) -> str:
  values = {"uncertainty_bits": one.uncertainty_bits, "distance": one.distance}
  return json.dumps({"file": name} | values | {"tags": [tag._asdict() for tag in tags]})


def _line(name: str, one: Suggestion, tags: Sequence[Tag]) -> str:
  return f"{one.uncertainty_bits:7.3f} {one.distance:6.3f}  {name}  ({scores_text(tags)})"
