"""How often labels occur, alone and in pairs."""

from __future__ import annotations

import array
import csv
import dataclasses
import os

import numpy as np
import scipy.sparse

from atgcn_jax.errors import UserError
from atgcn_jax.labels.files import read_arrays, text_lines
from atgcn_jax.labels.sparse import Matrix, equal, selected, sized, without_diagonal
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id


@dataclasses.dataclass(frozen=True)
class Counts:
  """Counts over a set of clips.

  `occurrences` int64[K] is the number of clips with each label, T of Eq. 5; `cooccurrences`
  int64[K, K] the number of clips with both labels of a pair, X of Eq. 5: symmetric, its diagonal
  zero; an array, or scipy's csr_array for more than `DENSE_LABELS` labels.
  """

  occurrences: np.ndarray
  cooccurrences: Matrix


def count_labels(offsets: np.ndarray, label_indices: np.ndarray, num_classes: int) -> Counts:
  """Counts labels and pairs of labels; a label named twice in a clip counts once.

  Args:
    offsets: int[N + 1]; the labels of clip n are `label_indices[offsets[n]:offsets[n + 1]]`.
    label_indices: int[M], positions of labels in the vocabulary, 0 to K-1.
    num_classes: K.

  Raises:
    ValueError: Offsets and labels do not fit together, or a label is outside 0 to K-1.

  Source: the counts X and T of Eq. 5.
  """
  # Copies: merging repeated labels below works in place.
  offsets = np.array(offsets, np.int64)
  labels = np.array(label_indices, np.int64)
  if offsets.ndim != 1 or labels.ndim != 1 or len(offsets) == 0:
    raise ValueError(f"offsets {offsets.shape} and labels {labels.shape} must be [N + 1] and [M]")
  if offsets[0] != 0 or offsets[-1] != len(labels) or (np.diff(offsets) < 0).any():
    raise ValueError(f"offsets must rise from 0 to the number of labels, {len(labels)}")
  if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
    raise ValueError(f"labels must be 0 to {num_classes - 1}")
  clips = scipy.sparse.csr_array(
    (np.ones(len(labels), np.int64), labels, offsets), shape=(len(offsets) - 1, num_classes)
  )
  clips.sum_duplicates()
  clips.data[:] = 1
  pairs = clips.T.tocsr() @ clips
  return Counts(pairs.diagonal(), sized(without_diagonal(pairs)))


def check_counts(occurrences: np.ndarray, cooccurrences: Matrix) -> None:
  """Raises ValueError unless the arrays can be counts of the same clips.

  Args:
    occurrences: [K], clips with each label.
    cooccurrences: [K, K], clips with both labels of a pair; the diagonal is not looked at.
  """
  if occurrences.ndim != 1 or cooccurrences.shape != (len(occurrences),) * 2:
    raise ValueError(f"counts of shapes {occurrences.shape} and {cooccurrences.shape}, not K, KxK")
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


def read_segments(
  path: str | os.PathLike[str], vocabulary: Vocabulary
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """The clips of a segment list: ids (N strings), offsets int64[N + 1], label indices int64[M].

  The labels of clip n are `label_indices[offsets[n]:offsets[n + 1]]`.

  Args:
    path: A list in the official AudioSet format, rows `YTID, start, end, "id,id"` and comment lines
      that begin with #; read line by line, also as `.gz`.
    vocabulary: The labels.

  Raises:
    UserError: The file cannot be read or holds no segment, or a row has another number of fields or
      a label outside the vocabulary.
  """
  clip_ids: list[str] = []
  offsets, labels = array.array("q", [0]), array.array("q")
  # Comments become empty lines, so that the reader's line numbers stay those of the file.
  lines = ("" if line.startswith("#") else line for line in text_lines(path))
  rows = csv.reader(lines, skipinitialspace=True, strict=True)
  try:
    for row in rows:
      if not row:
        continue
      where = f"{path}, line {rows.line_num}"
      if len(row) != 4:
        raise UserError(
          f'{where}: {len(row)} fields instead of 4; write YTID, start, end, "id,id" with quotes'
        )
      ids = (label_id.strip() for label_id in row[3].split(","))
      clip_ids.append(row[0])
      labels.extend(vocabulary.indices((label for label in ids if label), where=where))
      offsets.append(len(labels))
  except csv.Error as error:
    raise UserError(f"{path}, line {rows.line_num}: not CSV ({error}); mend the line") from None
  if not clip_ids:
    raise UserError(f'{path}: holds no segment; write rows of YTID, start, end, "id,id"')
  return clip_ids, np.array(offsets, np.int64), np.array(labels, np.int64)


def load_counts(
  path: str | os.PathLike[str], vocabulary: Vocabulary, counts_set: str | None = None
) -> Counts:
  """The stored counts of a vocabulary's labels, in its order.

  Args:
    path: An .npz file with `mids` str[M] and, for a set S, `occurrences_S` int[M] and
      `cooccurrences_S` int[M, M], which may be sparse (`labels.sparse.packed`); without a set the
      keys end at the underscore.
    vocabulary: The K labels, all of which must be in the file.
    counts_set: `balanced`, `unbalanced` or `full`, or None.

  Raises:
    UserError: The file cannot be read, lacks a key or a label, or what it holds are no counts.
  """
  arrays = read_arrays(path)
  suffix = "" if counts_set is None else f"_{counts_set}"
  for key in ("mids", f"occurrences{suffix}", f"cooccurrences{suffix}"):
    if key not in arrays:
      sets = sorted(name[12:] for name in arrays if name.startswith("occurrences_"))
      raise UserError(
        f"{path}: no key {key} among its keys {', '.join(sorted(arrays))}; "
        f"give a file of counts, with one of its sets (here: {', '.join(sets) or 'none'})"
      )
  occurrences, cooccurrences = arrays[f"occurrences{suffix}"], arrays[f"cooccurrences{suffix}"]
  rows = rows_by_id(path, arrays["mids"], vocabulary)
  try:
    if occurrences.dtype.kind not in "iu" or cooccurrences.dtype.kind not in "iu":
      raise ValueError(f"counts are {occurrences.dtype} and {cooccurrences.dtype}, not integers")
    if occurrences.shape != arrays["mids"].shape:
      raise ValueError(f"{len(arrays['mids'])} mids but counts of shape {occurrences.shape}")
    check_counts(occurrences, cooccurrences)
    if not equal(cooccurrences, cooccurrences.T):
      raise ValueError(f"`cooccurrences{suffix}` is not symmetric")
  except ValueError as error:
    raise UserError(f"{path}: {error}; count the labels again") from None
  pairs = without_diagonal(selected(cooccurrences, rows).astype(np.int64))
  return Counts(occurrences[rows].astype(np.int64), sized(pairs))
