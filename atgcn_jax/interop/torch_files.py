"""Tensors of PyTorch files, read without PyTorch and without running the code in a pickle.

A file of `torch.save` is a zip archive of a pickle, in which tensors refer to other members of the
archive for their values. Before PyTorch 1.6, it was four pickles, the third of which contains the
tensors, and then the values.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from atgcn_jax.errors import PART, UserError, printable, reason
from atgcn_jax.interop.torch_pickle import SAVE, NotTensors, Storage, unpickled
from atgcn_jax.runtime.buckets import open_binary

DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error)  # errors of `zipfile`
MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file of PyTorch before 1.6
CUT_SHORT = "is cut short; fetch it again"


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Return the tensors by name of a state dict, or of the state dict `model` of a checkpoint.

  Values other than tensors are left out. Tensors that share a storage share memory. Arrays are
  read-only and have the type in the file; bfloat16 is that of JAX.

  Args:
    path: A .pt or .pth file.

  Raises:
    UserError: The file is missing, cut short, or contains something else.
  """
  try:
    with open_binary(path) as file:
      loaded = _loaded(file)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except NotTensors as error:
    raise UserError(f"{path}: {printable(error, 2 * PART)}") from None
  except EOFError:
    raise UserError(f"{path}: {CUT_SHORT}") from None
  except (OSError, RuntimeError, ValueError, *DAMAGED) as error:
    raise UserError(f"{path}: cannot be read ({reason(error)}); fetch or save it again") from None
  tensors = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
  if not isinstance(tensors, dict):
    raise UserError(f"{path}: holds no state dict; {SAVE}")
  return {str(name): value for name, value in tensors.items() if isinstance(value, np.ndarray)}


def _loaded(file: io.BufferedIOBase) -> Any:
  """Return the object in a file, with arrays for tensors."""
  first = file.read(2)
  file.seek(0)
  if first.startswith(b"\x80"):
    return _Pickles(file).load()
  if first != b"PK":
    raise NotTensors(f"is not a file of PyTorch; {SAVE}")
  if not zipfile.is_zipfile(file):
    raise NotTensors(CUT_SHORT)
  file.seek(0)
  with zipfile.ZipFile(file) as archive:
    return _Archive(archive).load()


class _Archive:
  """The pickle and the storages of a file."""

  def __init__(self, archive: zipfile.ZipFile):
    self.archive, self.read = archive, dict[str, bytes]()
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
    self.folder = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
    if not self.folder.endswith("/"):
      raise NotTensors(f"is a zip archive, but not of PyTorch; {SAVE}")
    order = self.folder + "byteorder"
    if order in archive.namelist() and self.member(order) != b"little":
      raise NotTensors(f"was saved on a big-endian machine; on another one, {SAVE}")

  def load(self) -> Any:
    """Return the object in the pickle, with arrays for tensors."""
    return unpickled(self.member(self.folder + "data.pkl"), self.values_of)

  def member(self, name: str) -> bytes:
    """Return the bytes of a member, which is as long as the file says."""
    try:
      info = self.archive.getinfo(name)
    except KeyError:
      raise NotTensors(f"has no member {name!r}; fetch it again") from None
    if info.compress_type != zipfile.ZIP_STORED:
      raise NotTensors(f"its member {name!r} is compressed; {SAVE}")
    return self.archive.read(info)

  def values_of(self, storage: Storage) -> np.ndarray:
    """Return the values of a storage."""
    key, dtype, count = storage
    if key not in self.read:
      self.read[key] = self.member(f"{self.folder}data/{key}")
    if len(self.read[key]) != count * dtype.itemsize:
      raise NotTensors(
        f"its storage {key!r} has {len(self.read[key])} bytes, not {count} numbers of "
        f"{dtype.itemsize}; fetch it again"
      )
    return np.frombuffer(self.read[key], dtype)


class _Capped(io.BufferedIOBase):
  """A view of a file that asks for no more bytes than it has.

  Python would allocate memory for any length that a pickle claims.
  """

  def __init__(self, file: io.BufferedIOBase):
    self.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    self.file = file

  def tell(self) -> int:
    """Return the position in the file."""
    return self.file.tell()

  def read(self, size: int | None = -1) -> bytes:
    """Return the next bytes, as many as there are."""
    rest = self.size - self.tell()
    return self.file.read(rest if size is None or size < 0 else min(size, rest))


class _Pickles:
  """A file of PyTorch before 1.6: pickles of the format, the object and the storages' keys.

  The values of each storage follow, in the order of the keys.
  """

  def __init__(self, file: io.BufferedIOBase):
    self.file, self.values = _Capped(file), dict[str, np.ndarray]()

  def load(self) -> Any:
    """Return the object in the file, with arrays for tensors."""
    magic, version, system = (self.pickle() for _ in range(3))
    if magic != MAGIC or version != 1001 or not isinstance(system, dict):
      raise NotTensors(f"is a pickle, but not of PyTorch; {SAVE}")
    if system.get("little_endian") is not True:
      raise NotTensors(f"was saved on a big-endian machine; on another one, {SAVE}")
    loaded, keys = self.pickle(), self.pickle()
    if not isinstance(keys, list) or set(keys) != self.values.keys():
      raise NotTensors(f"its storages are not those of its tensors; fetch it again, or {SAVE}")
    for key in keys:
      values = self.values[key]
      if self.bytes(8) != struct.pack("<q", len(values)):
        raise NotTensors(f"its storage {key!r} does not have {len(values)} numbers; fetch it again")
      values[:] = np.frombuffer(self.bytes(values.nbytes), values.dtype)
    return loaded

  def pickle(self) -> Any:
    """Return the object in the next pickle, with arrays that are not filled yet for tensors."""
    try:
      return unpickled(self.file, self.values_of)
    except NotTensors:
      if self.file.tell() == self.file.size:
        raise NotTensors(CUT_SHORT) from None
      raise

  def bytes(self, count: int) -> bytes:
    """Return the next bytes of the file."""
    data = self.file.read(count)
    if len(data) < count:
      raise NotTensors(CUT_SHORT)
    return data

  def values_of(self, storage: Storage) -> np.ndarray:
    """Return the array of a storage, which is not filled yet."""
    key, dtype, count = storage
    if count * dtype.itemsize > self.file.size:
      raise NotTensors(
        f"its storage {key!r} of {count} numbers is larger than the file; {CUT_SHORT}"
      )
    values = self.values.setdefault(key, np.empty(count, dtype))
    if (len(values), values.dtype) != (count, dtype):
      raise NotTensors(f"contains two storages of the key {key!r}; {SAVE}")
    return values
