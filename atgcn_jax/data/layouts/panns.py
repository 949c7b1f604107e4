"""Waveforms in HDF5 files packed by PANNs: `audio_name`, `waveform`, `target`."""

from __future__ import annotations

import collections
import functools
import pathlib
from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from tqdm import tqdm

from atgcn_jax.audio import folders, sound_files
from atgcn_jax.audio.decoding import SLOWEST_HZ
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
  repeat_remarks,
)
from atgcn_jax.data.store import hdf5
from atgcn_jax.errors import UserError, printable, reason
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.labels.vocabulary import Vocabulary

KEYS = ("audio_name", "waveform", "target")
SUFFIXES = (".h5", ".hdf5")
CLIP_SECONDS = 10.0  # length to which PANNs cut or pad each clip
FASTEST_HZ = 10_000_000  # highest sample rate of sound
BLOCK = 1024  # number of rows of names and targets that are read at a time


def list_packed(
  audio: Sequence[str], settings: Frontend, vocabulary: Vocabulary, fold: str | None
) -> Listing:
  """List the clips of packed HDF5 files. Clip ids are the names in the files.

  A row without a name, whose sound PANNs did not find, is `absent`. A file with another layout is
  `unreadable`. A repeated name is left out and counted.

  Args:
    audio: Files, or folders of files.
    settings: Front end that the clips are loaded for.
    vocabulary: Labels of the columns of `target`, in order.
    fold: Fold of all clips. Defaults to `train`, `validation` or `eval`, taken from the name of
      the file.

  Raises:
    UserError: If no file has this layout.

  Source:
    `pack_waveforms_to_hdf5` of PANNs.
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
          yield from _rows(file, path, fold_of(path, fold), vocabulary, absent, unreadable)
      except hdf5.FAULTS as error:
        unreadable.append((path, reason(error)))

  named = first_of_each(rows(), repeated)
  listing = make_listing(named, vocabulary, functools.partial(load_packed, settings), "")
  if not listing.clip_ids and unreadable:
    raise UserError(f"{unreadable[0][0]}: {unreadable[0][1]}; give PANNs' packed files to --audio")
  if not listing.clip_ids:
    raise UserError(f"{paths[0]}: contains no clip; give PANNs' packed files to --audio")
  listing.absent.extend(absent)
  listing.unreadable.extend(unreadable)
  listing.remarks.extend(repeat_remarks("--audio", repeated))
  return listing


def packed_files(audio: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
  """Return the files of `--audio`. Folders are replaced by their files with given suffixes.

  Args:
    audio: Files and folders.
    suffixes: Suffixes of the files to find in folders.

  Raises:
    UserError: If there is no file, a path does not exist, or a subfolder cannot be read.
  """
  paths = []
  for place in map(pathlib.Path, audio):
    if not place.exists():
      raise UserError(f"{place}: no such file or folder; give {suffixes[0]} files to --audio")
    found = folders.contents(place, suffixes) if place.is_dir() else None
    paths += [str(place)] if found is None else [str(place / name) for name in found.files]
    for name, fault in found.faults if found else ():
      raise UserError(f"{place / name}: is {fault}; restore it or remove it")
  if not paths:
    raise UserError(f"{audio[0]}: contains no {suffixes[0]} file; give a folder of them to --audio")
  return paths


def load_packed(settings: Frontend, source: str) -> Clip:
  """Load a row of a packed file, given as `PATH:ROW`, at the front end's sample rate.

  Raises:
    OSError: If the file cannot be read.
    ValueError: If a sample is not finite or exceeds `findings.LOUDEST`.
  """
  path, _, row = source.rpartition(":")
  file = _opened(path)
  waveform, rate = hdf5.plain_dataset(file, "waveform")[int(row)], sample_rate(file)
  if waveform.dtype.kind == "i":
    waveform = waveform / np.float32(np.iinfo(waveform.dtype).max)
  with np.errstate(over="ignore"):  # Values outside float32 become infinite, which is an error.
    waveform = waveform.astype(np.float32)
  if (bad := first_unusable(waveform)) is not None:
    raise ValueError(f"a sample is {fault_of(waveform[bad])}")
  meter, seconds = Meter(), len(waveform) / rate
  meter.add(waveform[:, None])
  resampled = sound_files.resample(waveform, rate, settings.sample_rate)
  return Clip(resampled, seconds, rate, meter.findings())


def sample_rate(file: h5py.File) -> int:
  """Return the sample rate of a packed file in Hz.

  The rate is the attribute `sample_rate`. Without it, clips are assumed to be 10 s long.

  Raises:
    ValueError: If the rate is not one of sound.
  """
  rate = hdf5.attribute(file, "sample_rate")
  if rate is None:
    rate = round(file["waveform"].shape[1] / CLIP_SECONDS)
  if not isinstance(rate, int | float | np.number) or not SLOWEST_HZ <= rate <= FASTEST_HZ:
    raise ValueError(f"sample_rate is {printable(rate, 40)}, not {SLOWEST_HZ} to {FASTEST_HZ} Hz")
  return int(rate)


@functools.lru_cache(maxsize=4)
def _opened(path: str) -> h5py.File:
  return h5py.File(path, "r")


def _check(file: h5py.File, labels: int) -> None:
  """Check the keys and shapes of a file.

  Raises:
    ValueError: If a key is missing or a shape is wrong.
  """
  if missing := [key for key in KEYS if key not in file]:
    raise ValueError(f"has no {', '.join(missing)}; it has {', '.join(file) or 'no keys'}")
  names, waveform, target = (hdf5.plain_dataset(file, key) for key in KEYS)
  if names.ndim != 1 or waveform.ndim != 2 or not waveform.shape[1] or target.ndim != 2:
    raise ValueError("audio_name, waveform and target must be [N], [N, samples] and [N, labels]")
  if not len(names) == len(waveform) == len(target):
    raise ValueError(f"{len(names)} names, {len(waveform)} waveforms and {len(target)} targets")
  if target.shape[1] != labels:
    raise ValueError(f"target has {target.shape[1]} labels, but the vocabulary has {labels}")
  if waveform.dtype.kind not in "if" or target.dtype.kind not in "biuf":
    raise ValueError(f"waveform is {waveform.dtype} and target {target.dtype}, not numbers")
  if names.dtype.kind not in "SO":
    raise ValueError(f"audio_name is {names.dtype}, not texts")
  sample_rate(file)


def _rows(
  file: h5py.File,
  path: str,
  fold: str,
  vocabulary: Vocabulary,
  absent: list[tuple[str, str]],
  unreadable: list[tuple[str, str]],
) -> Iterator[Row]:
  for start in range(0, len(file["target"]), BLOCK):
    names = file["audio_name"][start : start + BLOCK]
    targets = np.asarray(file["target"][start : start + BLOCK]) > 0
    for row, (name, target) in enumerate(zip(names, targets), start):
      source = f"{path}:{row}"
      text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
      if has_controls(text):
        unreadable.append((source, "its name has control characters"))
      elif text:
        labels = [vocabulary.ids[k] for k in np.flatnonzero(target)]
        yield Row(text, fold, source, labels, source)
      else:
        absent.append((source, NOT_THERE))
