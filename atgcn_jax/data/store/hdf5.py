"""Safe access to HDF5 datasets and attributes of numbers and text.

For opaque items, h5py creates whatever NumPy type the file names, including object. Raw bytes of
the file would then be used as pointers. The functions here check the type in the file before they
read any data, and the declared size before anything is allocated.
"""

from __future__ import annotations

from typing import Any

import h5py

# What h5py raises for damaged files.
FAULTS = (
  *(OSError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError),
  *(MemoryError, NotImplementedError, AttributeError),
)
RATIO = 1032  # most bytes that one byte of a compressed dataset becomes, which is deflate's limit
_NUMBERS = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeEnumID)


def plain_dataset(file: h5py.Group, name: str, *, references: bool = False) -> h5py.Dataset:
  """Return a dataset of numbers or text without reading its data.

  Args:
    file: Open file or group.
    name: Name of the dataset.
    references: Whether the items may also be references to other datasets.

  Raises:
    KeyError: If there is no item with this name.
    ValueError: If the item is not a dataset of an allowed type, or the file is too short for it.
  """
  dataset = file[name]
  if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
    raise ValueError(f"{name} is not an array")
  _check(dataset.id.get_type(), name, references)
  _check_size(dataset, name)
  return dataset


def attribute(file: h5py.Group, name: str) -> Any:
  """Return an attribute of numbers or text; None if there is no attribute with this name.

  Raises:
    ValueError: If the attribute has another type.
  """
  if name not in file.attrs:
    return None
  _check(file.attrs.get_id(name).get_type(), name, references=False)
  return file.attrs[name]


def text_attribute(file: h5py.Group, name: str) -> str:
  """Return an attribute of text.

  Raises:
    ValueError: If there is none, or it is not a text.
  """
  value = attribute(file, name)
  if not isinstance(value, str):
    raise ValueError(f"the attribute {name} is missing or is not a text")
  return value


def _check(kind: h5py.h5t.TypeID, name: str, references: bool) -> None:
  allowed = (*_NUMBERS, h5py.h5t.TypeStringID, *((h5py.h5t.TypeReferenceID,) * references))
  if not isinstance(kind, allowed):
    raise ValueError(f"{name} holds neither plain numbers nor text")


def _check_size(dataset: h5py.Dataset, name: str) -> None:
  """Refuse a dataset that declares more data than the file can have."""
  stored = min(dataset.id.get_storage_size(), dataset.file.id.get_filesize())
  is_compressed = dataset.id.get_create_plist().get_nfilters() > 0
  # Integers of Python do not overflow, unlike `dataset.nbytes`.
  declared = dataset.dtype.itemsize
  for length in dataset.shape:
    declared *= length
  if declared > stored * (RATIO if is_compressed else 1):
    raise ValueError(f"{name} declares {declared:,} bytes, but has {stored:,} in the file")
