"""Texts of variable length in HDF5 files, which are stored in global heap collections.

The HDF5 library loops for ever on a collection in which a free object has the length 0, such as one
whose end was overwritten with zeros. So all collections are checked before any text is read.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import h5py
import numpy as np

LONGEST = 4096  # maximum length of a text, in characters; also of a path on Linux
# Texts of equal length take as much space as the longest. More than this, and than 16 times the
# length of the file, is refused.
MOST_BYTES = 2**28
_SIGNATURE = b"GCOL\x01\0\0\0"  # of version 1, the only one
_LENGTH = struct.Struct("<8xQ")  # of a collection, in its first 16 bytes
_OBJECT = struct.Struct("<H6xQ")  # index and length, before each object; the index 0 is free space
# Of a text, in the data of a dataset: its length and the address of its collection.
_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


def collections_in(path: str | os.PathLike, without: tuple[int, int]) -> list[int]:
  """Return the addresses of all collections of texts in a file, after a check of each.

  Args:
    path: Path of the HDF5 file.
    without: First byte of a part that has no collections, such as a large array, and the byte
      after it.

  Raises:
    ValueError: If a collection is damaged or cut short.
  """
  with open(path, "rb") as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  starts = [*_found(data, 0, without[0]), *_found(data, without[1], len(data))]
  for start in starts:
    length = _LENGTH.unpack_from(data, start)[0] if start + _LENGTH.size <= len(data) else 0
    if not _LENGTH.size <= length <= len(data) - start:
      raise ValueError("a collection of texts is cut short")
    # Objects start at multiples of 8 bytes. Without a length of 0, there is no endless loop.
    if not np.frombuffer(data, "<u8", length // 8, start).all():
      _walk(data, start + _LENGTH.size, start + length)
  return starts


def _found(data: mmap.mmap, begin: int, end: int) -> Iterator[int]:
  """Yield the positions of all signatures in a part of the file."""
  while (begin := data.find(_SIGNATURE, begin, end)) >= 0:
    yield begin
    begin += len(_SIGNATURE)


def _walk(data: mmap.mmap, position: int, end: int) -> None:
  """Walk over the objects of a collection, as the HDF5 library does."""
  while position + _OBJECT.size <= end:
    index, length = _OBJECT.unpack_from(data, position)
    # The length of free space includes its header.
    position += _OBJECT.size + (length + 7) // 8 * 8 if index else length
    if position > end or (not index and length < _OBJECT.size):
      raise ValueError("a collection of texts is damaged")


def read_texts(dataset: h5py.Dataset, collections: list[int]) -> np.ndarray:
  """Return a list of texts, str[N].

  Args:
    dataset: A dataset whose size `hdf5.plain_dataset` has checked.
    collections: The addresses of all collections of texts in the file.

  Raises:
    ValueError: If the dataset is not a list of texts in UTF-8, or a text is too long.
  """
  name = str(dataset.name).strip("/")
  if dataset.ndim != 1 or h5py.check_string_dtype(dataset.dtype) is None:
    raise ValueError(f"{name} is not a list of texts")
  if dataset.id.get_type().is_variable_str():
    _check_references(dataset, name, collections)
  texts = dataset.asstr()[()]
  longest = max(map(len, texts), default=0)
  most = max(MOST_BYTES, 16 * dataset.file.id.get_filesize())
  if longest > LONGEST or 4 * longest * len(texts) > most:
    raise ValueError(f"{name} has a text of {longest} characters, which is too long")
  return texts.astype(str)


def _check_references(dataset: h5py.Dataset, name: str, collections: list[int]) -> None:
  """Refuse references to texts that are too long or in none of the collections."""
  offset = dataset.id.get_offset()
  if not dataset.size:
    return
  if offset is None or dataset.id.get_storage_size() != dataset.size * _REFERENCE.itemsize:
    raise ValueError(f"{name} is not stored in one piece")
  found = np.fromfile(dataset.file.filename, _REFERENCE, dataset.size, offset=offset)
  found = found[found["length"] > 0]
  if (found["length"] > 4 * LONGEST).any() or not np.isin(found["address"], collections).all():
    raise ValueError(f"{name} refers to texts that are not in the file")
