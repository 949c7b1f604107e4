"""Listing of the clips to store: ids, folds, labels, and a function that loads each clip."""

from __future__ import annotations

import array
import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from atgcn_jax.audio import decoding
from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.inputs import Source
from atgcn_jax.audio.windows import resampled
from atgcn_jax.data.layouts import nearby
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import PART, UserError, printable
from atgcn_jax.labels.label_files import check_name, folded
from atgcn_jax.labels.vocabulary import Vocabulary

NOT_THERE = "not there"
SHOWN = 3  # maximum number of examples in a message


class Clip(NamedTuple):
  """Loaded clip.

  Attributes:
    sound: Waveform float32[S] at the front end's rate, log-mel float32[T, F], or embeddings
      uint8[T, F] of a front end with a `value_limit`.
    seconds: Length of the source, NaN if unknown.
    rate_hz: Sample rate of the source, 0 if unknown.
    findings: Faults of the sound, None if unknown.
  """

  sound: np.ndarray
  seconds: float = float("nan")
  rate_hz: int = 0
  findings: Sequence[Finding] | None = None


class Row(NamedTuple):
  """Row of a layout: one clip.

  `where` is its position in the source, for messages. `group` names the clips that are never split
  between folds; empty if the clip is a group of its own.
  """

  clip_id: str
  fold: str
  source: str
  labels: Iterable[str]
  where: str
  group: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
  """Listing of N clips.

  Attributes:
    clip_ids: Id of each clip.
    folds: Fold of each clip.
    sources: Argument of `load` for each clip.
    label_offsets: int64[N + 1]. Clip i has the labels
      `label_indices[label_offsets[i]:label_offsets[i + 1]]`.
    label_indices: int32, positions in `vocabulary`.
    vocabulary: Labels of the clips.
    load: Picklable function that loads the clip of a source and raises if it cannot be read.
    root: Folder of the sources, or a description of their origin.
    absent: (file, reason) for each file that is known to be missing.
    unreadable: (file, reason) for each file that is known to be unusable.
    remarks: Lines for the user.
    normaliser: float32[2, F], mean and deviation of each band that were delivered with the clips.
    groups: `Row.group` of each clip. Empty if each clip is a group of its own.
    shown: Name of each clip in reports. Empty if that is its source.
  """

  clip_ids: list[str]
  folds: list[str]
  sources: list[str]
  label_offsets: np.ndarray
  label_indices: np.ndarray
  vocabulary: Vocabulary
  load: Callable[[str], Clip]
  root: str
  absent: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  unreadable: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  remarks: list[str] = dataclasses.field(default_factory=list)
  normaliser: np.ndarray | None = None
  groups: list[str] = dataclasses.field(default_factory=list)
  shown: list[str] = dataclasses.field(default_factory=list)


def make_listing(
  rows: Iterable[Row], vocabulary: Vocabulary | None, load: Callable[[str], Clip], root: str
) -> Listing:
  """Build a listing from rows, which are consumed one at a time.

  Args:
    rows: The clips.
    vocabulary: Labels of the listing. Defaults to the sorted label ids of the rows.
    load: `Listing.load`.
    root: `Listing.root`.

  Raises:
    UserError: If a label is not in the vocabulary, or there is none and a label has a comma or a
      blank at an end, or an id, fold or label has control characters.
  """
  clip_ids, folds, sources, groups = [], [], [], []
  offsets, indices = array.array("q", [0]), array.array("i")
  known_folds: dict[str, str] = {}  # one shared string per fold, to save memory
  met: dict[str, int] = {}
  for row in rows:
    for text in (row.clip_id, row.fold):
      check_name(text, row.where)
    clip_ids.append(row.clip_id)
    folds.append(known_folds.setdefault(row.fold, row.fold))
    # Share one string if both are equal, to save memory.
    sources.append(row.clip_id if row.source == row.clip_id else row.source)
    groups.append(row.group)
    if vocabulary is None:
      indices.extend(met.setdefault(label, len(met)) for label in row.labels)
    else:
      indices.extend(vocabulary.indices(row.labels, where=row.where))
    offsets.append(len(indices))
  numbers = np.array(indices, np.int32)
  if vocabulary is None:
    ids = tuple(sorted(met))
    if comma := next((label for label in ids if "," in label), ""):
      raise UserError(
        f"{root}: label {printable(comma, PART)!r}: commas separate labels; rename it, or give a "
        "vocabulary with this name"
      )
    for label in ids:
      check_name(label, root)
      if label != label.strip():
        raise UserError(f"{root}: label {label!r} starts or ends with a blank; rename it")
    position = {label: k for k, label in enumerate(ids)}
    numbers = np.array([position[label] for label in met], np.int32)[numbers] if ids else numbers
    vocabulary = Vocabulary(ids, ids)
  listing = Listing(
    clip_ids, folds, sources, np.array(offsets, np.int64), numbers, vocabulary, load, root
  )
  return dataclasses.replace(listing, groups=groups) if any(groups) else listing


def spelling_doubts(folds: Iterable[str], labels: Iterable[str]) -> Iterator[str]:
  """Yield a remark on each fold or label that differs from another one only in spelling."""
  for what, words in (("folds", folds), ("labels", labels)):
    first: dict[str, str] = {}
    for word in sorted({*words}):
      if (other := first.setdefault(folded(word), word)) != word:
        why = "differ only in case or Unicode form; write one if they are the same"
        yield f"{what} {other} and {word} {why}"


def used_only(listing: Listing) -> Listing:
  """Return the listing without the labels that no clip has."""
  used, numbers = np.unique(listing.label_indices, return_inverse=True)
  return dataclasses.replace(
    listing,
    vocabulary=listing.vocabulary.part(used),
    label_indices=numbers.astype(np.int32),
  )


def arrays_of(listing: Listing | ClipStore) -> dict[str, np.ndarray]:
  """Return the small arrays of a store that are known before the clips are loaded, by name."""
  arrays = {
    "label_offsets": listing.label_offsets,
    "label_indices": listing.label_indices,
    "clip_ids": np.array(listing.clip_ids, object),
    "folds": np.array(listing.folds, object),
  }
  return arrays if listing.normaliser is None else arrays | {"normaliser": listing.normaliser}


def only(arrays: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
  """Select clips from the result of `arrays_of`.

  Args:
    arrays: Result of `arrays_of` for N clips.
    kept: bool[N], true for the clips to select.
  """
  counts = np.diff(arrays["label_offsets"])
  return arrays | {
    "label_offsets": np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
    "label_indices": arrays["label_indices"][np.repeat(kept, counts)],
    "clip_ids": arrays["clip_ids"][kept],
    "folds": arrays["folds"][kept],
  }


def first_of_each(rows: Iterable[Row], repeated: collections.Counter[str]) -> Iterator[Row]:
  """Yield the first row of each clip id, and count the further rows by id in `repeated`."""
  seen: set[str] = set()
  for row in rows:
    if row.clip_id in seen:
      repeated[row.clip_id] += 1
    else:
      seen.add(row.clip_id)
      yield row


def repeat_remarks(where: object, repeated: collections.Counter[str]) -> list[str]:
  """Return a remark about repeated ids; an empty list if there are none.

  Args:
    where: Start of the remark, such as the name of a file or option.
    repeated: Number of left-out rows for each repeated id.
  """
  if not repeated:
    return []
  shown = ", ".join(list(repeated)[:SHOWN])
  return [
    f"{where}: {repeated.total()} rows repeat an id and are left out (the first is used): {shown}"
  ]


def load_file(folder: str, settings: Frontend, filename: str) -> Clip:
  """Load a sound file of a folder, at the front end's sample rate.

  Raises:
    UserError: If the file cannot be read. For a missing file, suggests a similar name.
  """
  path = pathlib.Path(folder) / filename
  try:
    return loaded(path, settings)
  except UserError:
    if hint := nearby.hint(folder, filename):
      raise UserError(f"{path}: no such file; {hint}") from None
    raise


def loaded(source: Source, settings: Frontend) -> Clip:
  """Load a clip from a path or from the bytes of a file; see `load_file`."""
  with decoding.open_sound(source) as sound:
    return clip_of(sound, settings)


def clip_of(sound: decoding.Sound, settings: Frontend) -> Clip:
  """Return the first clip length of a sound, at the front end's sample rate.

  The rest of the sound is decoded, to measure its length and to check it, and discarded.

  Raises:
    UserError: If the sound cannot be read.
  """
  read = 0

  def counted() -> Iterator[np.ndarray]:
    nonlocal read
    for block in sound.blocks:
      read += len(block)
      yield block

  blocks, pieces, length = counted(), [], 0
  for piece in resampled(sound._replace(blocks=blocks), settings.sample_rate).blocks:
    pieces.append(piece[: settings.samples - length])
    length += len(piece)
    if length >= settings.samples:
      break
  for _ in blocks:
    pass
  return Clip(np.concatenate(pieces), read / sound.rate, sound.rate, sound.findings)


def check_audio_folder(audio: str | os.PathLike) -> pathlib.Path:
  """Return the folder of `--audio` as a path.

  Raises:
    UserError: If the folder does not exist, cannot be read or is empty.
  """
  audio = pathlib.Path(audio)
  if not audio.is_dir():
    raise UserError(f"{audio}: no such folder; give the folder of sound files to --audio")
  try:
    with os.scandir(audio) as entries:
      empty = next(entries, None) is None
  except OSError as error:
    raise UserError(
      f"{audio}: cannot be read ({error.strerror}); check the permissions of --audio"
    ) from None
  if empty:
    raise UserError(f"{audio}: the folder is empty; give the folder of sound files to --audio")
  return audio


def fold_of(path: str | os.PathLike, fold: str | None) -> str:
  """Return the fold of all clips of a file.

  Args:
    path: Path of the file.
    fold: The fold, if the user gave one. Otherwise the name of the file or its folder determines
      the fold: `train`, `validation` or `eval`.

  Raises:
    UserError: If no fold is given and neither name determines it.
  """
  if fold:
    return fold
  path = pathlib.Path(path)
  for name in (path.name.lower(), path.absolute().parent.name.lower()):
    for part, named in (("valid", "validation"), ("eval", "eval"), ("train", "train")):
      if part in name:
        return named
  raise UserError(f"{path}: its name does not contain train, valid or eval; give --fold")
