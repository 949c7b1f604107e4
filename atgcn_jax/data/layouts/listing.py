"""What is to be stored: clips by id, with folds and labels, and how each is loaded."""

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
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

NOT_THERE = "not there"
SHOWN = 3  # broken rows that are told one by one


class Clip(NamedTuple):
  """A loaded clip.

  `sound` is a waveform float32[S] at the front end's rate, or its log-mel float32[T, F]; `seconds`
  and `rate_hz` are those of the source, NaN and 0 where they are not known. `findings` says what is
  wrong with the sound, None where that is not known.
  """

  sound: np.ndarray
  seconds: float = float("nan")
  rate_hz: int = 0
  findings: Sequence[Finding] | None = None


class Row(NamedTuple):
  """A clip as a layout lists it; `where` names its place for messages."""

  clip_id: str
  fold: str
  source: str
  labels: Iterable[str]
  where: str


@dataclasses.dataclass(frozen=True)
class Listing:
  """N clips: `load(sources[i])` is the i-th, which is called `clip_ids[i]`.

  Its labels are `label_indices[label_offsets[i]:label_offsets[i + 1]]`, positions in `vocabulary`.
  `load` is picklable; it raises for a source that cannot be read. `root` is the folder that the
  sources are in, or what else they come from. `absent` are (file, reason) known not to be there,
  `unreadable` known to be of no use, `remarks` lines for the user. `normaliser` float32[2, F] came
  with the clips.
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


def make_listing(
  rows: Iterable[Row], vocabulary: Vocabulary | None, load: Callable[[str], Clip], root: str
) -> Listing:
  """The listing of rows, which are taken one at a time.

  Args:
    vocabulary: without one the label ids of the rows, sorted, are it.
  Raises:
    UserError: a label is not in the vocabulary.
  """
  clip_ids, folds, sources = [], [], []
  offsets, indices = array.array("q", [0]), array.array("i")
  known_folds: dict[str, str] = {}  # one string a fold
  met: dict[str, int] = {}
  for row in rows:
    clip_ids.append(row.clip_id)
    folds.append(known_folds.setdefault(row.fold, row.fold))
    # A string of its own would be as large again.
    sources.append(row.clip_id if row.source == row.clip_id else row.source)
    if vocabulary is None:
      indices.extend(met.setdefault(label, len(met)) for label in row.labels)
    else:
      indices.extend(vocabulary.indices(row.labels, where=row.where))
    offsets.append(len(indices))
  numbers = np.array(indices, np.int32)
  if vocabulary is None:
    ids = tuple(sorted(met))
    position = {label: k for k, label in enumerate(ids)}
    numbers = np.array([position[label] for label in met], np.int32)[numbers] if ids else numbers
    vocabulary = Vocabulary(ids, ids)
  return Listing(
    clip_ids, folds, sources, np.array(offsets, np.int64), numbers, vocabulary, load, root
  )


def used_only(listing: Listing) -> Listing:
  """The listing without the labels of its vocabulary that no clip has."""
  used, numbers = np.unique(listing.label_indices, return_inverse=True)
  return dataclasses.replace(
    listing,
    vocabulary=listing.vocabulary.part(used),
    label_indices=numbers.astype(np.int32),
  )


def arrays_of(listing: Listing | ClipStore) -> dict[str, np.ndarray]:
  """What a store holds of its clips, by name, besides what is found when they are loaded."""
  arrays = {
    "label_offsets": listing.label_offsets,
    "label_indices": listing.label_indices,
    "clip_ids": np.array(listing.clip_ids, object),
    "folds": np.array(listing.folds, object),
  }
  return arrays if listing.normaliser is None else arrays | {"normaliser": listing.normaliser}


def only(arrays: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
  """Of `arrays_of` N clips those of the clips for which `kept` bool[N] is true."""
  counts = np.diff(arrays["label_offsets"])
  return arrays | {
    "label_offsets": np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
    "label_indices": arrays["label_indices"][np.repeat(kept, counts)],
    "clip_ids": arrays["clip_ids"][kept],
    "folds": arrays["folds"][kept],
  }


def first_of_each(rows: Iterable[Row], repeated: collections.Counter[str]) -> Iterator[Row]:
  """The rows without those whose id came before, which are counted by id."""
  seen: set[str] = set()
  for row in rows:
    if row.clip_id in seen:
      repeated[row.clip_id] += 1
    else:
      seen.add(row.clip_id)
      yield row


def told_repeats(where: object, repeated: collections.Counter[str]) -> list[str]:
  """The remark on ids that came more than once, if any."""
  if not repeated:
    return []
  shown = ", ".join(list(repeated)[:SHOWN])
  return [
    f"{where}: {repeated.total()} rows repeat an id and are left out, the first kept: {shown}"
  ]


def load_file(folder: str, settings: Frontend, filename: str) -> Clip:
  """The sound file of a folder, at the front end's rate.

  Raises:
    UserError: it cannot be read; for a missing file with the name that may be meant.
  """
  path = pathlib.Path(folder) / filename
  try:
    return loaded(path, settings)
  except UserError:
    if hint := nearby.hint(folder, filename):
      raise UserError(f"{path}: no such file; {hint}") from None
    raise


def loaded(source: Source, settings: Frontend) -> Clip:
  """As `load_file`, of a path or the bytes of a file."""
  with decoding.open_sound(source) as sound:
    return clip_of(sound, settings)


def clip_of(sound: decoding.Sound, settings: Frontend) -> Clip:
  """The first clip length of a sound, at the front end's rate; the rest is decoded, not kept.

  Raises:
    UserError: it cannot be read.
  """
  read = 0

  def counted() -> Iterator[np.ndarray]:
    nonlocal read
    for block in sound.blocks:
      read += len(block)
      yield block

  blocks, kept, length = counted(), [], 0
  for piece in resampled(sound._replace(blocks=blocks), settings.sample_rate).blocks:
    kept.append(piece[: settings.samples - length])
    length += len(piece)
    if length >= settings.samples:
      break
  for _ in blocks:
    pass
  return Clip(np.concatenate(kept), read / sound.rate, sound.rate, sound.findings)


def check_audio_folder(audio: str | os.PathLike) -> pathlib.Path:
  """The folder of `--audio`.

  Raises:
    UserError: it is not there, cannot be read or is empty.
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
  """The fold of a file of many clips: as given, or as its name or its folder's says.

  Raises:
    UserError: neither says.
  """
  if fold:
    return fold
  path = pathlib.Path(path)
  for name in (path.name.lower(), path.absolute().parent.name.lower()):
    for part, told in (("valid", "validation"), ("eval", "eval"), ("train", "train")):
      if part in name:
        return told
  raise UserError(f"{path}: its name does not say train, valid or eval; give its clips a --fold")
