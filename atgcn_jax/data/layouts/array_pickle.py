"""Safe reader of pickled arrays of numbers. It takes only sizes and bytes from the pickle.

NumPy's unpickling trusts the dtype description in the pickle. A description that hides that the
items are objects turns raw bytes into pointers, and the process crashes. This reader never calls a
NumPy function on behalf of the pickle. It maps each function to a name and builds the arrays from
the arguments.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

MAX_BYTES = 1 << 20  # maximum file size; a mean and a deviation of 64 bands need about 1,000 bytes
# Function names as written by Python 2 and 3 and by NumPy 1 and 2.
_NAMES = {
  ("numpy", "ndarray"): "ndarray",
  ("numpy", "dtype"): "dtype",
  ("_codecs", "encode"): "encode",  # Python 3 writes bytes this way for Python 2.
  ("numpy.core.multiarray", "_reconstruct"): "array",
  ("numpy._core.multiarray", "_reconstruct"): "array",
}
# All opcodes of a pickle of arrays: marks, tuples, lists, constants, numbers, strings, memo, calls.
_OPCODES = (
  *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP),
  *(pickle.TUPLE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
  *(pickle.LIST, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
  *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
  *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
  *(pickle.LONG, pickle.LONG1, pickle.FLOAT, pickle.BINFLOAT),
  *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
  *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
  *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
  *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
  *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
  *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
)


def unpickle_arrays(path: str | os.PathLike) -> list[np.ndarray]:
  """Return the arrays in a pickle of one array of numbers, or of a tuple or list of them.

  Args:
    path: Pickle file of protocol 0 to 4, written by Python 2 or 3.

  Raises:
    ValueError: If the file is longer than MAX_BYTES, or contains anything except arrays of
      booleans, integers and floating-point numbers.
    OSError: If the file cannot be read.
  """
  with pathlib.Path(path).open("rb") as file:
    data = file.read(MAX_BYTES + 1)
  if len(data) > MAX_BYTES:
    raise ValueError(f"longer than {MAX_BYTES} bytes")
  try:
    found = _Reader(io.BytesIO(data), encoding="latin1").load()
  except ValueError:
    raise
  except KeyError:
    raise ValueError("contains an instruction that a pickle of arrays does not have") from None
  except Exception as error:  # Arbitrary bytes can raise any exception.
    raise ValueError(" ".join(f"{type(error).__name__} {error}".split())) from None
  items = found if isinstance(found, tuple | list) else [found]
  arrays = [item.values for item in items if isinstance(item, _Array) and item.values is not None]
  if len(arrays) != len(items):
    raise ValueError("contains something other than arrays of numbers")
  return arrays


@dataclass
class _Dtype:
  """Dtype of the pickle. `dtype` is None until its state is set."""

  text: str
  dtype: np.dtype | None = None


@dataclass
class _Array:
  """Array of the pickle. `values` is None until its state is set."""

  values: np.ndarray | None = None


class _Reader(pickle._Unpickler):
  """Python's pure-Python unpickler, restricted to the opcodes in `_OPCODES`."""

  dispatch: ClassVar[dict[int, Callable]] = {
    code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES
  }
  stack: list[Any]

  def find_class(self, module: str, name: str) -> Any:
    """Return the text that a known name maps to. Nothing callable is returned."""
    if (module, name) not in _NAMES:
      raise ValueError(f"{module}.{name} is not an array")
    return _NAMES[module, name]

  def load_reduce(self) -> None:
    """Replace a function name and its arguments on the stack by the result of `_called`."""
    arguments, name = self.stack.pop(), self.stack.pop()
    self.stack.append(_called(name, arguments))

  def load_build(self) -> None:
    """Set the state of an array or a dtype."""
    state, built = self.stack.pop(), self.stack[-1]
    if isinstance(built, _Dtype):
      built.dtype = _dtype(built.text, state)
    elif isinstance(built, _Array):
      built.values = _array(state)
    else:
      raise ValueError(f"sets the state of {type(built).__name__}")

  dispatch[pickle.REDUCE[0]] = load_reduce
  dispatch[pickle.BUILD[0]] = load_build


def _called(name: Any, arguments: Any) -> Any:
  match name, arguments:
    case "array", ("ndarray", *_):
      return _Array()
    case "dtype", (str(text), *_):
      return _Dtype(text)
    case "encode", (str(text), "latin1" | "latin-1"):
      return text.encode("latin1")
  raise ValueError("calls a function that NumPy does not use for an array of numbers")


def _dtype(text: str, state: Any) -> np.dtype:
  """Return the dtype of a plain number. The state may set only the byte order."""
  if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
    raise ValueError(f"items have the type {text[:20]!r}, which is not a plain number")
  match state:
    # Version, byte order, subarray, names, fields, item size, alignment, flags.
    case int(), "<" | ">" | "=" | "|" as order, None, None, None, -1, -1, 0:
      return np.dtype(f"{order}{text}")
  raise ValueError(f"the type {text!r} has a state that plain numbers do not have")


def _array(state: Any) -> np.ndarray:
  match state:
    case (int(), tuple(shape), _Dtype() as dtype, fortran, bytes() | str() as raw):
      numbers = _numbers(dtype, raw)
      sizes = all(isinstance(n, int) and 0 <= n <= max(1, numbers.size) for n in shape)
      if not sizes or len(shape) > 2 or math.prod(shape) != numbers.size:
        raise ValueError(f"{numbers.size} numbers do not fit the shape {str(shape)[:40]}")
      return numbers.reshape(shape, order="F" if fortran else "C")
  raise ValueError("an array has a state that arrays of plain numbers do not have")


def _numbers(dtype: _Dtype, raw: bytes | str) -> np.ndarray:
  """Return the numbers in raw bytes. Python 2 wrote the bytes as a string."""
  if dtype.dtype is None:
    raise ValueError("a type has no state")
  data = raw.encode("latin1") if isinstance(raw, str) else raw
  if len(data) % dtype.dtype.itemsize:
    raise ValueError(f"{len(data)} bytes are not a whole number of {dtype.dtype}")
  return np.frombuffer(data, dtype.dtype)
