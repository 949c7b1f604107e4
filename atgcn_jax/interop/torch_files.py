"""Tensors of PyTorch files, read without PyTorch and without running the code in a pickle.

A file of `torch.save` is a zip archive of a pickle, in which tensors refer to other members of the
archive for their values. A pickle is a program for a small stack machine. The one here knows dicts,
lists, tuples, numbers, strings, ordered dicts and dense tensors, and refuses everything else.
"""

from __future__ import annotations

import math
import os
import pickletools
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.buckets import open_binary

SAVE = "save it again with torch.save(model.state_dict(), FILE)"
STORAGES = {
  "DoubleStorage": np.dtype("<f8"),
  "FloatStorage": np.dtype("<f4"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("i1"),
  "ByteStorage": np.dtype("u1"),
  "BoolStorage": np.dtype("?"),
}
ORDERED, TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error)  # errors of `zipfile`
FUNCTIONS = (ORDERED, TENSOR, PARAMETER)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Opcodes whose argument is the value.
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "FLOAT", "LONG")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(ValueError):  # noqa: N818 (the message is what the file contains)
  """Content that is not a state dict of dense tensors."""


class Global(NamedTuple):
  """A name in a pickle that may stand for a class or function."""

  name: str


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Return the tensors by name of a state dict, or of the state dict `model` of a checkpoint.

  Values other than tensors are left out. Tensors that share a storage share memory. Arrays are
  read-only and have the type in the file; bfloat16 is that of JAX.

  Args:
    path: A .pt or .pth file.

  Raises:
    UserError: The file is missing, cut short, of PyTorch before 1.6, or contains something else.
  """
  try:
    with open_binary(path) as file:
      first = file.read(4)
      file.seek(0)
      if not zipfile.is_zipfile(file):
        raise Refused(_not_an_archive(first))
      file.seek(0)
      with zipfile.ZipFile(file) as archive:
        loaded = _Archive(archive).load()
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except Refused as error:
    raise UserError(f"{path}: {error}") from None
  except (OSError, EOFError, RuntimeError, ValueError, *DAMAGED) as error:
    reason = " ".join(str(error).split()) or "cut short"
    raise UserError(f"{path}: cannot be read ({reason}); fetch or save it again") from None
  tensors = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
  if not isinstance(tensors, dict):
    raise UserError(f"{path}: holds no state dict; {SAVE}")
  return {str(name): value for name, value in tensors.items() if isinstance(value, np.ndarray)}


def _not_an_archive(first: bytes) -> str:
  """Return what a file is that is not a complete zip archive, from its first bytes."""
  if first.startswith(b"PK"):
    return "is cut short; fetch it again"
  if first.startswith(b"\x80"):
    return f"is a pickle, as of PyTorch before 1.6; with a newer PyTorch, {SAVE}"
  return f"is not a file of PyTorch; {SAVE}"


class _Archive:
  """The pickle and the storages of a file."""

  def __init__(self, archive: zipfile.ZipFile):
    self.archive, self.read = archive, dict[str, bytes]()
    pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
    self.folder = pickles[0].removesuffix("data.pkl") if len(pickles) == 1 else ""
    if not self.folder.endswith("/"):
      raise Refused(f"is a zip archive, but not of PyTorch; {SAVE}")
    order = self.folder + "byteorder"
    if order in archive.namelist() and self.member(order) != b"little":
      raise Refused(f"was saved on a big-endian machine; on another one, {SAVE}")

  def load(self) -> Any:
    """Return the object in the pickle, with arrays for tensors."""
    data = self.member(self.folder + "data.pkl")
    try:
      return _unpickled(data, self.storage)
    except Refused:
      raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
      # The stack machine checks no types: a malformed program fails where a value is used.
      raise Refused(f"its pickle is malformed; fetch it again, or {SAVE}") from None

  def member(self, name: str) -> bytes:
    """Return the bytes of a member, which is as long as the file says."""
    try:
      info = self.archive.getinfo(name)
    except KeyError:
      raise Refused(f"has no member {name!r}; fetch it again") from None
    if info.compress_type != zipfile.ZIP_STORED:
      raise Refused(f"its member {name!r} is compressed; {SAVE}")
    return self.archive.read(info)

  def storage(self, reference: Any) -> np.ndarray:
    """Return the values of a storage, from its reference in the pickle."""
    kind, of_type, key, _, count = reference
    module, _, name = of_type.name.rpartition(".")
    if kind != "storage" or module != "torch" or name not in STORAGES:
      raise Refused(f"contains a storage of {of_type.name}; {SAVE} of dense tensors of numbers")
    if key not in self.read:
      self.read[key] = self.member(f"{self.folder}data/{key}")
    data, dtype = self.read[key], STORAGES[name]
    if type(count) is not int or len(data) != count * dtype.itemsize:
      raise Refused(
        f"its storage {key!r} has {len(data)} bytes, not {count} numbers of {dtype.itemsize}; "
        "fetch it again"
      )
    return np.frombuffer(data, dtype)


def _unpickled(data: bytes, storage: Any) -> Any:
  """Run a pickle on the stack machine and return its result.

  Args:
    data: The pickle.
    storage: Returns the values of a storage, from its reference.

  Raises:
    Refused: The pickle contains something other than dicts and tensors.
  """
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}

  def pop(count: int) -> list[Any]:
    if not 0 <= count <= len(stack):
      raise IndexError
    start = len(stack) - count
    taken = stack[start:]
    del stack[start:]
    return taken

  argument: Any
  for opcode, argument, _ in pickletools.genops(data):
    name = opcode.name
    if name in ("PROTO", "FRAME"):
      continue
    if name == "STOP":
      (result,) = stack
      return result
    if name in CONSTANTS:
      stack.append(CONSTANTS[name])
    elif name in LITERALS or name in TEXTS:
      stack.append(argument)
    elif name == "MARK":
      marks.append(len(stack))
    elif name in TUPLES:
      stack.append(tuple(pop(TUPLES[name])))
    elif name == "TUPLE":
      stack.append(tuple(pop(len(stack) - marks.pop())))
    elif name == "EMPTY_DICT":
      stack.append({})
    elif name == "EMPTY_LIST":
      stack.append([])
    elif name in ("APPEND", "APPENDS"):
      values = pop(1 if name == "APPEND" else len(stack) - marks.pop())
      list.extend(stack[-1], values)
    elif name in ("SETITEM", "SETITEMS"):
      values = pop(2 if name == "SETITEM" else len(stack) - marks.pop())
      dict.update(stack[-1], zip(values[::2], values[1::2], strict=True))
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
      memo[argument] = stack[-1]
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(memo[argument])
    elif name == "GLOBAL":
      stack.append(_known(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
      stack.append(_known(".".join(pop(2))))
    elif name == "BINPERSID":
      stack.append(storage(*pop(1)))
    elif name == "REDUCE":
      function, arguments = pop(2)
      stack.append(_called(function, arguments))
    elif name == "BUILD":  # the attributes of an ordered dict, such as `_metadata`
      pop(1)
    else:
      raise Refused(f"contains the operation {name}, which tensors do not need; {SAVE}")
  raise Refused("its pickle has no end; fetch it again")


def _known(name: str) -> Global:
  """Return a name that may occur in the pickle of a state dict."""
  if name not in FUNCTIONS and not (name.startswith("torch.") and name.endswith("Storage")):
    raise Refused(f"contains {name:.100}, which is not a tensor; {SAVE}")
  return Global(name)


def _called(function: Global, arguments: tuple[Any, ...]) -> Any:
  """Return an ordered dict, a tensor, or the tensor of a parameter."""
  if function.name == ORDERED and not arguments:
    return {}
  if function.name == TENSOR:
    return _tensor(*arguments[:4])
  if function.name == PARAMETER:
    return arguments[0]
  raise Refused(f"contains a call of {function.name}, which is not a tensor; {SAVE}")


def _tensor(values: np.ndarray, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
  """Return a tensor as a read-only view of its storage.

  Args:
    values: The values of the storage, [N].
    offset: The position of the first element.
    shape: The size of each axis.
    strides: The distance of neighbours along each axis, in elements.
  """
  numbers = (offset, *shape, *strides)
  if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
    raise ValueError
  size = math.prod(shape)
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
  if size and (last >= len(values) or size > len(values)):
    raise Refused(f"contains a tensor {list(shape)} of a storage of {len(values)}; fetch it again")
  if not size:
    return np.empty(shape, values.dtype)
  steps = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
