"""Occurrence and co-occurrence counts of labels."""

from __future__ import annotations

import array
import csv
import dataclasses
import math
import os
from typing import NamedTuple

import numpy as np
import scipy

from atgcn_jax.errors import PART, UserError, counted, printable
from atgcn_jax.labels.label_files import SHOWN, has_controls, read_arrays, text_lines
from atgcn_jax.labels.sparse import Matrix, equal, selected, sized, without_diagonal
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id

SEGMENT_FORM = 'YTID, start, end, "id,id"'
EXAMPLES = 3  # maximum number of broken rows in a message


@dataclasses.dataclass(frozen=True)
class Counts:
  """Counts over a set of clips.

  Attributes:
    occurrences: int64[K]. The number of clips with each label, T of Eq. 5.
    cooccurrences: int64[K, K]. The number of clips with both labels of a pair, X of Eq. 5.
      Symmetric with a zero diagonal. An array, or scipy's csr_array for more than `DENSE_LABELS`
      labels.
  """

  occurrences: np.ndarray
  cooccurrences: Matrix


def count_labels(offsets: np.ndarray, label_indices: np.ndarray, num_classes: int) -> Counts:
  """Return the counts X and T of Eq. 5. A label that is repeated in a clip counts once.

  Args:
    offsets: int[N + 1]. The labels of clip n are `label_indices[offsets[n]:offsets[n + 1]]`.
    label_indices: int[M]. Positions of labels in the vocabulary, 0 to K-1.
    num_classes: The number of labels K.

  Raises:
    ValueError: Offsets and labels do not match, or a label is outside 0 to K-1.
  """
  # Copies, because repeated labels are merged in place.
  offsets = np.array(offsets, np.int64)
  labels = np.array(label_indices, np.int64)
  if offsets.ndim != 1 or labels.ndim != 1 or len(offsets) == 0:
    raise ValueError(
      "offsets and label_indices must have shapes [N + 1] and [M], got "
      f"{offsets.shape} and {labels.shape}"
    )
  if offsets[0] != 0 or offsets[-1] != len(labels) or (np.diff(offsets) < 0).any():
    raise ValueError(f"offsets must increase from 0 to the number of labels, {len(labels)}")
  if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
    raise ValueError(f"label_indices must be 0 to {num_classes - 1}")
  clips = scipy.sparse.csr_array(
    (np.ones(len(labels), np.int64), labels, offsets), shape=(len(offsets) - 1, num_classes)
  )
  clips.sum_duplicates()
  clips.data[:] = 1
  pairs = clips.T.tocsr() @ clips
  return Counts(pairs.diagonal(), sized(without_diagonal(pairs)))


def check_counts(occurrences: np.ndarray, cooccurrences: Matrix) -> None:
  """Raise an error unless the arrays can be counts of the same clips.

  Args:
    occurrences: [K]. The number of clips with each label.
    cooccurrences: [K, K]. The number of clips with both labels of a pair. The diagonal is ignored.

  Raises:
    ValueError: The shapes do not match, a count is negative or not finite, or a pair occurs more
      often than one of its labels.
  """
  if occurrences.ndim != 1 or cooccurrences.shape != (len(occurrences),) * 2:
    raise ValueError(
      "counts must have the shapes [K] and [K, K], got "
      f"{occurrences.shape} and {cooccurrences.shape}"
    )
  pairs = scipy.sparse.coo_array(cooccurrences)
  for counts in (occurrences, pairs.data):
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
      raise ValueError("a count is negative or not finite")
  most = np.minimum(occurrences[pairs.row], occurrences[pairs.col])
  wrong = np.flatnonzero((pairs.data > most) & (pairs.row != pairs.col))
  if len(wrong):
    i, j = pairs.row[wrong[0]], pairs.col[wrong[0]]
    raise ValueError(
      f"labels {i} and {j} occur {occurrences[i]} and {occurrences[j]} times "
      f"but {pairs.data[wrong[0]]} times together"
    )


class Segment(NamedTuple):
  """A row of a segment list: a clip id, times in seconds and label ids."""

  clip_id: str
  start: float
  end: float
  labels: list[str]


class Segments(NamedTuple):
  """The valid rows of a segment list, in its order.

  Attributes:
    clip_ids: N different strings.
    starts: float64[N], in seconds.
    ends: float64[N], in seconds.
    offsets: int64[N + 1]. The labels of clip n are `label_indices[offsets[n]:offsets[n + 1]]`.
    label_indices: int64[M]. Positions of labels in the vocabulary.
    broken: The number of broken rows, which are left out.
    examples: Line and reason of the first broken rows.
    repeated: The number of rows that repeat the id of an earlier row and are left out.
  """

  clip_ids: list[str]
  starts: np.ndarray
  ends: np.ndarray
  offsets: np.ndarray
  label_indices: np.ndarray
  broken: int
  examples: list[str]
  repeated: int


def read_segments(path: str | os.PathLike[str], vocabulary: Vocabulary) -> Segments:
  """Return the segments of a list. Broken rows and repeated ids are left out and counted.

  Args:
    path: A list in the official AudioSet format: rows `YTID, start, end, "id,id"` and comment lines
      that start with #. May be compressed (`.gz`).
    vocabulary: The labels.

  Raises:
    UserError: The file cannot be read, contains no valid row, or most of its rows have a label
      outside the vocabulary.
  """
  seen: dict[str, None] = {}
  times, offsets, labels = array.array("d"), array.array("q", [0]), array.array("q")
  examples: list[str] = []
  broken = repeated = unknown = 0
  for number, line in enumerate(text_lines(path), 1):
    line = line.strip()
    if not line or line.startswith("#"):
      continue
    try:
      clip_id, start, end, ids = parsed_segment(line)
      indices = [vocabulary.index[label] for label in ids if label]
    except (ValueError, KeyError) as error:
      broken += 1
      reason = str(error)
      if isinstance(error, KeyError):
        unknown += 1
        reason = f"label {error} is not in the vocabulary"
      if len(examples) < EXAMPLES:
        examples.append(f"line {number}: {printable(reason, PART)}")
      continue
    if clip_id in seen:
      repeated += 1
      continue
    seen[clip_id] = None
    times.extend((start, end))
    labels.extend(indices)
    offsets.append(len(labels))
  rows = len(seen) + repeated + broken
  named = "; ".join(examples)
  if unknown > rows / 2:
    raise UserError(
      f"{path}: {unknown} of {rows} rows have unknown labels ({named}); "
      "use the vocabulary that the list was written for"
    )
  if not seen:
    raise UserError(
      f"{path}: contains no valid segment{named and f' ({named})'}; write rows {SEGMENT_FORM}"
    )
  starts, ends = np.array(times).reshape(-1, 2).T
  offsets_array, indices_array = np.array(offsets, np.int64), np.array(labels, np.int64)
  return Segments(
    list(seen), starts, ends, offsets_array, indices_array, broken, examples, repeated
  )


def left_out(path: str | os.PathLike[str], segments: Segments) -> str:
  """Return a one-line message on the rows of a list that are left out; empty if none are."""
  parts = []
  if segments.broken:
    more = ", …" if segments.broken > len(segments.examples) else ""
    rows = counted(segments.broken, "broken row", "broken rows")
    parts.append(f"{rows} left out ({'; '.join(segments.examples)}{more})")
  if segments.repeated:
    rows = counted(segments.repeated, "row", "rows")
    parts.append(f"{rows} with a repeated id left out")
  return f"{path}: {', '.join(parts)}; {len(segments.clip_ids)} used" if parts else ""


def parsed_segment(line: str) -> Segment:
  """Return the segment of a stripped row. Its labels may contain empty ids.

  Raises:
    ValueError: The row is broken. The message says how.
  """
  fields = line.split(", ", 3)
  # The official format does not need a CSV reader, which is slower.
  if len(fields) == 4 and line.count('"') == 2 and fields[3][0] == '"' == fields[3][-1]:
    fields[3] = fields[3][1:-1]
  else:
    try:
      fields = next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
      raise ValueError(f"not CSV ({error})") from None
    if len(fields) != 4:
      raise ValueError(f"{len(fields)} fields instead of 4, {SEGMENT_FORM}")
  clip_id = fields[0].strip()
  if not clip_id or has_controls(clip_id):
    raise ValueError("no id, or one with control characters")
  try:
    start, end = float(fields[1]), float(fields[2])
  except ValueError:
    raise ValueError(
      f"times {printable(fields[1], SHOWN)} and {printable(fields[2], SHOWN)} are not both numbers"
    ) from None
  if not 0 <= start < end < math.inf:
    times = " to ".join(printable(field, SHOWN) for field in fields[1:3])
    raise ValueError(f"times {times} are negative or out of order")
  return Segment(clip_id, start, end, [label.strip() for label in fields[3].split(",")])


def load_counts(
  path: str | os.PathLike[str], vocabulary: Vocabulary, counts_set: str | None = None
) -> Counts:
  """Return the stored counts of the labels of a vocabulary, in its order.

  Args:
    path: An .npz file with `mids` str[M] and, for a set S, `occurrences_S` int[M] and
      `cooccurrences_S` int[M, M], which may be sparse (`labels.sparse.pack_matrices`). Without a
      set the keys are `occurrences` and `cooccurrences`.
    vocabulary: The K labels, all of which must be in the file.
    counts_set: `balanced`, `unbalanced` or `full`, or None for no set.

  Raises:
    UserError: The file cannot be read, lacks a key or a label, or contains invalid counts.
  """
  arrays = read_arrays(path)
  suffix = "" if counts_set is None else f"_{counts_set}"
  for key in ("mids", f"occurrences{suffix}", f"cooccurrences{suffix}"):
    if key not in arrays:
      sets = sorted(name[12:] for name in arrays if name.startswith("occurrences_"))
      raise UserError(
        f"{path}: no key {key} among the keys {', '.join(sorted(arrays))}; "
        f"use a file of counts, with one of its sets (here: {', '.join(sets) or 'none'})"
      )
  occurrences, cooccurrences = arrays[f"occurrences{suffix}"], arrays[f"cooccurrences{suffix}"]
  rows = rows_by_id(path, arrays["mids"], vocabulary)
  try:
    if occurrences.dtype.kind not in "iu" or cooccurrences.dtype.kind not in "iu":
      raise ValueError(
        f"counts must be integers, got {occurrences.dtype} and {cooccurrences.dtype}"
      )
    if occurrences.shape != arrays["mids"].shape:
      raise ValueError(f"{len(arrays['mids'])} mids, but counts of shape {occurrences.shape}")
    check_counts(occurrences, cooccurrences)
    if not equal(cooccurrences, cooccurrences.T):
      raise ValueError(f"`cooccurrences{suffix}` is not symmetric")
  except ValueError as error:
    raise UserError(f"{path}: {error}; count the labels again") from None
  pairs = without_diagonal(selected(cooccurrences, rows).astype(np.int64))
  return Counts(occurrences[rows].astype(np.int64), sized(pairs))
