"""Waveforms packed into HDF5 files as PANNs pack them: `audio_name`, `waveform`, `target`."""

from __future__ import annotations

import collections
import functools
import pathlib
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from tqdm import tqdm

from atgcn_jax.audio import folders, sound_files
from atgcn_jax.audio.findings import Meter, fault_of, first_unusable
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import (
  NOT_THERE,
  Clip,
  Listing,
  Row,
  first_of_each,
  fold_of,
  make_listing,
  told_repeats,
)
from atgcn_jax.data.store import hdf5
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

KEYS = ("audio_name", "waveform", "target")
SUFFIXES = (".h5", ".hdf5")
CLIP_SECONDS = 10.0  # what PANNs cut or pad every clip to
BLOCK = 1024  # rows of names and targets read at a time


def list_packed(
  audio: Sequence[str], settings: Frontend, vocabulary: Vocabulary, fold: str | None
) -> Listing:
  """The clips of packed HDF5 files, under the names that they have there.

  A row without a name, whose sound PANNs did not find, is `absent`; a file that is not of this kind
  is `unreadable`; a name that comes again is left out and counted.

  Args:
    audio: files, or folders of them.
    vocabulary: the labels of the columns of `target`, in order.
    fold: of all clips; by default `train`, `validation` or `eval` after the name of the file.
  Raises:
    UserError: no file is of this kind.

  Source: PANNs' `pack_waveforms_to_hdf5`.
  """
  paths = packed_files(audio, SUFFIXES)
  absent: list[tuple[str, str]] = []
  unreadable: list[tuple[str, str]] = []
  repeated: collections.Counter[str] = collections.Counter()

  def rows() -> Iterator[Row]:
    for path in tqdm(paths, unit="file", desc="listing", disable=None):
      try:
        with h5py.File(path, "r") as file:
          _check(file, len(vocabulary))
          yield from _rows(file, path, fold_of(path, fold), vocabulary, absent)
      except (OSError, ValueError, KeyError) as error:
        unreadable.append((path, " ".join(str(error).split())))

  named = first_of_each(rows(), repeated)
  listing = make_listing(named, vocabulary, functools.partial(load_packed, settings), "")
  if not listing.clip_ids and unreadable:
    raise UserError(f"{unreadable[0][0]}: {unreadable[0][1]}; give PANNs' packed files to --audio")
  if not listing.clip_ids:
    raise UserError(f"{paths[0]}: holds no clip; give PANNs' packed files to --audio")
  listing.absent.extend(absent)
  listing.unreadable.extend(unreadable)
  listing.remarks.extend(told_repeats("--audio", repeated))
  return listing


def packed_files(audio: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
  """The files of `--audio`, those of its folders with these endings in order.

  Raises:
    UserError: there is none, or a folder in them cannot be read.
  """
  paths = []
  for place in map(pathlib.Path, audio):
    if not place.exists():
      raise UserError(f"{place}: no such file or folder; give {suffixes[0]} files to --audio")
    found = folders.contents(place, suffixes) if place.is_dir() else None
    paths += [str(place)] if found is None else [str(place / name) for name in found.files]
    for name, reason in found.faults if found else ():
      raise UserError(f"{place / name}: is {reason}; restore it or remove it")
  if not paths:
    raise UserError(f"{audio[0]}: holds no {suffixes[0]} file; give a folder of them to --audio")
  return paths


def load_packed(settings: Frontend, source: str) -> Clip:
  """A row of a packed file, `PATH:ROW`, at the front end's rate.

  Raises:
    OSError: it cannot be read.
    ValueError: its samples are not finite or above `findings.LOUDEST`.
  """
  path, _, row = source.rpartition(":")
  file = _opened(path)
  waveform, rate = hdf5.plain_dataset(file, "waveform")[int(row)], sample_rate(file)
  if waveform.dtype.kind == "i":
    waveform = waveform / np.float32(np.iinfo(waveform.dtype).max)
  with np.errstate(over="ignore"):  # what exceeds float32 is refused
    waveform = waveform.astype(np.float32)
  if (bad := first_unusable(waveform)) is not None:
    raise ValueError(f"a sample is {fault_of(waveform[bad])}")
  meter, seconds = Meter(), len(waveform) / rate
  meter.add(waveform[:, None])
  resampled = sound_files.resample(waveform, rate, settings.sample_rate)
  return Clip(resampled, seconds, rate, meter.findings())


def sample_rate(file: h5py.File) -> int:
  """The rate of a packed file's waveforms, in Hz: as it says, or as clips of 10 s have it."""
  told = hdf5.attribute(file, "sample_rate")
  return round(file["waveform"].shape[1] / CLIP_SECONDS) if told is None else int(told)


@functools.lru_cache(maxsize=4)
def _opened(path: str) -> h5py.File:
  return h5py.File(path, "r")


def _check(file: h5py.File, labels: int) -> None:
  """Raises ValueError saying what is wrong with a file's keys and shapes."""
  if missing := [key for key in KEYS if key not in file]:
    raise ValueError(f"has no {', '.join(missing)}, but {', '.join(file) or 'no keys'}")
  names, waveform, target = (hdf5.plain_dataset(file, key) for key in KEYS)
  if names.ndim != 1 or waveform.ndim != 2 or not waveform.shape[1] or target.ndim != 2:
    raise ValueError("its audio_name, waveform and target are not [N], [N, samples], [N, labels]")
  if not len(names) == len(waveform) == len(target):
    raise ValueError(f"{len(names)} names, {len(waveform)} waveforms and {len(target)} targets")
  if target.shape[1] != labels:
    raise ValueError(f"targets of {target.shape[1]} labels, the vocabulary has {labels}")


def _rows(
  file: h5py.File,
  path: str,
  fold: str,
  vocabulary: Vocabulary,
  absent: list[tuple[str, str]],
) -> Iterator[Row]:
  for start in range(0, len(file["target"]), BLOCK):
    names = file["audio_name"][start : start + BLOCK]
    targets = np.asarray(file["target"][start : start + BLOCK]) > 0
    for row, (name, target) in enumerate(zip(names, targets), start):
      source = f"{path}:{row}"
      text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
      if text:
        labels = [vocabulary.ids[k] for k in np.flatnonzero(target)]
        yield Row(text, fold, source, labels, source)
      else:
        absent.append((source, NOT_THERE))
