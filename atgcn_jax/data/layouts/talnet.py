"""TALNet data: a tree of .mat files of precomputed log-mels, and a normaliser."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import scipy.io
from tqdm import tqdm

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts import array_pickle
from atgcn_jax.data.layouts.listing import (
  Clip,
  Listing,
  Row,
  first_of_each,
  fold_of,
  make_listing,
  repeat_remarks,
)
from atgcn_jax.data.layouts.mat_elements import check_elements
from atgcn_jax.data.layouts.panns import packed_files
from atgcn_jax.data.store import hdf5
from atgcn_jax.data.store.hdf5_text import LONGEST
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.label_files import has_controls
from atgcn_jax.labels.npz import npz_arrays
from atgcn_jax.labels.vocabulary import Vocabulary

NORMALISER = "normalizer.pkl"
# What SciPy and h5py raise for damaged files.
BAD_FILE = (*hdf5.FAULTS, EOFError, struct.error, zlib.error, scipy.io.matlab.MatReadError)


def list_talnet(
  audio: Sequence[str],
  settings: Frontend,
  vocabulary: Vocabulary,
  fold: str | None,
  normaliser: str | os.PathLike | None,
) -> Listing:
  """List the clips of TALNet's .mat files (`feat`, `labels`, `hashes`). Clip ids are the hashes.

  A file with other keys or shapes is `unreadable`. A repeated hash is left out and counted.

  Args:
    audio: Files, or folders that are searched recursively.
    settings: Front end that defines the shape of the log-mels.
    vocabulary: Labels of the columns of `labels`, in order.
    fold: Fold of all clips. Defaults to `train`, `validation` or `eval`, taken from the names of
      the files.
    normaliser: File of mean and deviation. Defaults to `normalizer.pkl` in the first folder, if
      it exists.

  Raises:
    UserError: If no file has this layout, or the normaliser cannot be used.

  Source:
    Y. Wang, Polyphonic Sound Event Detection with Weak Labeling, and its code.
  """
  paths = packed_files(audio, (".mat",))
  unreadable: list[tuple[str, str]] = []
  repeated: collections.Counter[str] = collections.Counter()

  def rows() -> Iterator[Row]:
    for path in tqdm(paths, unit="file", desc="listing", disable=None):
      try:
        labels, hashes = _labels(path, settings, len(vocabulary))
      except BAD_FILE as error:
        unreadable.append((path, reason(error)))
        continue
      where = fold_of(path, fold)
      for row, (name, target) in enumerate(zip(hashes, labels)):
        source = f"{path}:{row}"
        yield Row(name, where, source, [vocabulary.ids[k] for k in np.flatnonzero(target)], source)

  named = first_of_each(rows(), repeated)
  listing = make_listing(named, vocabulary, functools.partial(load_features, settings), "")
  if not listing.clip_ids:
    why = unreadable[0] if unreadable else (paths[0], "contains no clip")
    raise UserError(f"{why[0]}: {why[1]}; give TALNet's tree of .mat files to --audio")
  listing.unreadable.extend(unreadable)
  listing.remarks.extend(repeat_remarks("--audio", repeated))
  beside = pathlib.Path(audio[0]) / NORMALISER
  if normaliser is None and not beside.is_file():
    return listing
  found = read_normaliser(normaliser or beside, settings.n_mels)
  return dataclasses.replace(listing, normaliser=found)


def load_features(settings: Frontend, source: str) -> Clip:
  """Load a row of a .mat file, given as `PATH:ROW`: a log-mel float32[T, F].

  Raises:
    ValueError: If the values are not finite.
    OSError: If the file cannot be read.
  """
  path, _, row = source.rpartition(":")
  with np.errstate(over="ignore"):  # Values outside float32 become infinite, which is an error.
    log_mel = np.asarray(_features(path, settings)[int(row)], np.float32)
  if not np.isfinite(log_mel).all():
    raise ValueError("values are NaN or infinite")
  return Clip(log_mel)


def read_normaliser(path: str | os.PathLike, bands: int) -> np.ndarray:
  """Read the mean and standard deviation of each band, float32[2, F].

  Args:
    path: A pickle of the pair, from which only arrays of numbers are read, or .npz or .mat with
      `mu` and `sigma`.
    bands: Number of bands F.

  Raises:
    UserError: If the file cannot be read or has other content.
  """
  path = pathlib.Path(path)
  try:
    if path.suffix == ".npz":
      with path.open("rb") as file:
        arrays = npz_arrays(file)
      pair = [arrays["mu"], arrays["sigma"]]
    elif path.suffix == ".mat":
      pair = list(_read_mat(path, ("mu", "sigma")).values())
    else:
      pair = array_pickle.unpickle_arrays(path)
    with np.errstate(over="ignore"):  # Values outside float32 become infinite, which is an error.
      mean, deviation = (np.asarray(values, np.float32).reshape(-1) for values in pair)
    found = np.stack([mean, deviation])
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; give TALNet's normaliser to --normaliser") from None
  except BAD_FILE as error:
    text = reason(error)
    raise UserError(f"{path}: no pair of mean and deviation ({text}); use TALNet's") from None
  if found.shape[1] != bands or not np.isfinite(found).all() or (found[1] <= 0).any():
    raise UserError(
      f"{path}: not a finite mean and a positive deviation of {bands} bands; use TALNet's"
    )
  return found


def _labels(path: str, settings: Frontend, count: int) -> tuple[np.ndarray, list[str]]:
  """Return the labels bool[n, K] and hashes of a file; raise ValueError for other shapes."""
  shapes = _shapes(path)
  if missing := [key for key in ("feat", "labels", "hashes") if key not in shapes]:
    raise ValueError(f"has no {', '.join(missing)}; it has {', '.join(shapes) or 'no arrays'}")
  arrays = _read_mat(path, ("labels", "hashes"))
  labels, hashes = np.atleast_2d(np.asarray(arrays["labels"])), _texts(arrays["hashes"])
  wanted = (len(hashes), settings.frames, settings.n_mels)
  if wanted not in (shapes["feat"], shapes["feat"][::-1]):
    raise ValueError(f"feat is {_times(shapes['feat'])}, not {_times(wanted)}")
  if labels.shape != (len(hashes), count):
    raise ValueError(f"labels are {_times(labels.shape)}, not {_times((len(hashes), count))}")
  if labels.dtype.kind not in "biuf":
    raise ValueError(f"labels are {labels.dtype}, not numbers")
  if not all(hashes) or has_controls(" ".join(hashes)):
    raise ValueError("a hash is empty or has control characters")
  return labels > 0, hashes


def _times(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


@functools.lru_cache(maxsize=2)
def _features(path: str, settings: Frontend) -> np.ndarray:
  features = np.asarray(_read_mat(path, ("feat",))["feat"])
  return features.reshape(-1, settings.frames, settings.n_mels)


def _shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
  """Return the shape of each array in a .mat file."""
  if h5py.is_hdf5(path):
    with h5py.File(path, "r") as file:
      found = {key: file[key] for key in file}
      return {key: x.shape or () for key, x in found.items() if isinstance(x, h5py.Dataset)}
  shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
  most = hdf5.RATIO * os.path.getsize(path)
  for name, shape in shapes.items():
    if math.prod(map(int, shape)) > most:
      raise ValueError(f"{name} declares {_times(shape)} values, more than the file can have")
  return shapes


def _read_mat(path: str | os.PathLike, keys: Sequence[str]) -> dict[str, Any]:
  """Read arrays of a .mat file, of version 7.3 (HDF5, axes reversed) or earlier."""
  if not h5py.is_hdf5(path):
    if scipy.io.matlab.matfile_version(path)[0] == 1:
      check_elements(path, keys)
    _shapes(path)  # checks the sizes before anything is allocated
    arrays = scipy.io.loadmat(path, variable_names=list(keys))
    return {key: arrays[key] for key in keys}
  with h5py.File(path, "r") as file:
    return {key: _hdf5_array(file, hdf5.plain_dataset(file, key, references=True)) for key in keys}


def _hdf5_array(file: h5py.File, dataset: h5py.Dataset) -> np.ndarray:
  values = np.asarray(dataset[()])
  if dataset.dtype == h5py.ref_dtype:  # a cell array: each cell is a separate dataset
    cells = (hdf5.plain_dataset(file, file[cell].name)[()] for cell in values.ravel())
    return np.array([_text(cell) for cell in cells])
  return values.T


def _text(codes: np.ndarray) -> str:
  """Return the text of character codes.

  Raises:
    ValueError: If they are not codes, or the text is too long for a name.
  """
  codes = np.asarray(codes)
  if codes.dtype.kind not in "ui" or codes.size > LONGEST:
    raise ValueError(f"a text is {codes.dtype}{list(codes.shape)}, not a few character codes")
  return "".join(map(chr, codes.ravel()))


def _texts(values: np.ndarray) -> list[str]:
  """Convert a list of strings, of cells with one string each, or of rows of character codes."""
  values = np.asarray(values)
  if values.dtype.kind in "ui" and values.ndim == 2 and min(values.shape) > 1:
    return [_text(row).strip() for row in values]
  flat = [np.asarray(value).ravel() for value in values.ravel()]
  texts = [value[0] if value.size else "" for value in flat]
  return [str(t.decode() if isinstance(t, bytes) else t).strip() for t in texts]
