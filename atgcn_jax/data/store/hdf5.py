"""HDF5 files of numbers and text.

h5py makes the NumPy type that a file names for opaque items, object included: raw bytes would be
taken as pointers. So the type in the file is looked at before anything is read.
"""

from __future__ import annotations

from typing import Any

import h5py

_NUMBERS = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)


def plain_dataset(file: h5py.Group, name: str, *, references: bool = False) -> h5py.Dataset:
  """Return a dataset of numbers or text, unread.

  Args:
    references: whether references to other datasets may be its items instead.
  Raises:
    KeyError: if there is none of this name.
    ValueError: if it is something else.
  """
  dataset = file[name]
  if not isinstance(dataset, h5py.Dataset):
    raise ValueError(f"{name} is no array")
  _check(dataset.id.get_type(), name, references)
  return dataset


def attribute(file: h5py.Group, name: str) -> Any:
  """Return an attribute of numbers or text; None where there is none of this name.

  Raises:
    ValueError: if it is something else.
  """
  if name not in file.attrs:
    return None
  _check(file.attrs.get_id(name).get_type(), name, references=False)
  return file.attrs[name]


def _check(kind: h5py.h5t.TypeID, name: str, references: bool) -> None:
  allowed = (*_NUMBERS, h5py.h5t.TypeStringID, *((h5py.h5t.TypeReferenceID,) * references))
  if not isinstance(kind, allowed):
    raise ValueError(f"{name} holds neither plain numbers nor text")
