"""Reader of .npz files that checks each array before it allocates memory for it."""

from __future__ import annotations

import os
import zipfile
from typing import Any

import numpy as np

# All arrays of a file together may have this number of bytes, or this multiple of its length.
# Deflate packs zeros a thousandfold, so small files could fill the memory otherwise.
MOST_BYTES = 2**28
RATIO = 100
HEADER = 10_000  # maximum length of the header of an array, as for numpy.load
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def npz_arrays(file: Any) -> dict[str, np.ndarray]:
  """Return all arrays of an .npz file by name: numbers, booleans and text.

  Args:
    file: The open binary file, which can seek.

  Raises:
    ValueError: The file is something else, is damaged, or declares more data than its length
      allows. NumPy's and zipfile's own exceptions, of many types, are its cause.
    OSError: The file cannot be read.
  """
  # NumPy reports any file that is neither .npz nor .npy as a pickle, which would mislead.
  if not zipfile.is_zipfile(file):
    raise ValueError("not an .npz file")
  length = file.seek(0, os.SEEK_END)
  try:
    with zipfile.ZipFile(file) as archive:
      members = archive.infolist()
      declared, most = sum(one.file_size for one in members), max(MOST_BYTES, RATIO * length)
      if declared > most:
        raise ValueError(
          f"{length:,} bytes expand to {declared:,}, but at most to {most:,} are read; save it "
          "without compression"
        )
      return {one.filename.removesuffix(".npy"): _array(archive, one) for one in members}
  except (OSError, ValueError):
    raise
  except Exception as error:  # parsing a damaged header or stream raises many types of errors
    raise ValueError(str(error) or type(error).__name__) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
  """Return the array of a member, which has the size that its header says."""
  name = member.filename
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
      raise ValueError(f"{name} has the unknown version {version}")
    shape, _, dtype = _HEADERS[version](file, max_header_size=HEADER)
    header = file.tell()
  if dtype.kind not in "biufcSU":
    raise ValueError(f"{name} contains Python objects or other items that are not plain")
  count = 1
  for axis in shape:
    count *= axis
  if min(shape, default=0) < 0 or header + count * dtype.itemsize != member.file_size:
    raise ValueError(f"{name} does not have the size that its header says")
  with archive.open(member) as file:
    return np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEADER)
