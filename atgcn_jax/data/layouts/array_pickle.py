"""A reader of pickled arrays of numbers, which takes nothing from a pickle but sizes and bytes.

NumPy's own way back from a pickle trusts the pickle's description of a dtype: one that hides that
its items are objects makes pointers of raw bytes, and the process crashes. Here NumPy's functions
are never called by a pickle: each is a name, and the arrays are built from what was passed to it.
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

MAX_BYTES = 1 << 20  # of a file; a mean and a deviation of 64 bands take about a thousand
# By what Python 2, 3 and NumPy 1, 2 call them.
_NAMES = {
  ("numpy", "ndarray"): "ndarray",
  ("numpy", "dtype"): "dtype",
  ("_codecs", "encode"): "encode",  # how Python 3 writes bytes for Python 2
  ("numpy.core.multiarray", "_reconstruct"): "array",
  ("numpy._core.multiarray", "_reconstruct"): "array",
}
# Nothing else is in a pickle of arrays: marks, tuples, lists, constants, numbers, strings, memo.
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
  """Return the arrays of numbers in a pickle of one, or of a tuple or list of them.

  Args:
    path: a file of protocol 0 to 4, of Python 2 or 3.
  Raises:
    ValueError: if it is longer than MAX_BYTES, or holds anything but booleans, integers and
      floating-point numbers; saying what.
    OSError: if it cannot be read.
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
    raise ValueError("does something else than a pickle of arrays does") from None
  except Exception as error:  # bytes in any order: each is a failure of its own
    raise ValueError(" ".join(f"{type(error).__name__} {error}".split())) from None
  items = found if isinstance(found, tuple | list) else [found]
  arrays = [item.values for item in items if isinstance(item, _Array) and item.values is not None]
  if len(arrays) != len(items):
    raise ValueError("holds something else than arrays of numbers")
  return arrays


@dataclass
class _Dtype:
  """A dtype as the pickle describes it, before and after its state."""

  text: str
  dtype: np.dtype | None = None


@dataclass
class _Array:
  """An array before and after its state."""

  values: np.ndarray | None = None


class _Reader(pickle._Unpickler):
  """Python's unpickler, in Python, with a few of its instructions: its memo is a dict."""

  dispatch: ClassVar[dict[int, Callable]] = {
    code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES
  }
  stack: list[Any]

  def find_class(self, module: str, name: str) -> Any:
    """Return what a known name means, as text: nothing that can be called."""
    if (module, name) not in _NAMES:
      raise ValueError(f"{module}.{name} is no array")
    return _NAMES[module, name]

  def load_reduce(self) -> None:
    """What stands for a call: the function's name and its arguments."""
    arguments, name = self.stack.pop(), self.stack.pop()
    self.stack.append(_called(name, arguments))

  def load_build(self) -> None:
    """What gives an array or a dtype its state."""
    state, built = self.stack.pop(), self.stack[-1]
    if isinstance(built, _Dtype):
      built.dtype = _dtype(built.text, state)
    elif isinstance(built, _Array):
      built.values = _array(state)
    else:
      raise ValueError(f"a state of {type(built).__name__}")

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
  raise ValueError("calls something else than NumPy does for an array of numbers")


def _dtype(text: str, state: Any) -> np.dtype:
  """The dtype of a plain number: of a kind and size, and a state that adds a byte order alone."""
  if not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
    raise ValueError(f"items of the type {text[:20]!r}, not plain numbers")
  match state:
    # Version, order, subarray, names, fields, item size, alignment, flags.
    case int(), "<" | ">" | "=" | "|" as order, None, None, None, -1, -1, 0:
      return np.dtype(f"{order}{text}")
  raise ValueError(f"the type {text!r} has a state that is not of plain numbers")


def _array(state: Any) -> np.ndarray:
  match state:
    case (int(), tuple(shape), _Dtype() as dtype, fortran, bytes() | str() as raw):
      numbers = _numbers(dtype, raw)
      sizes = all(isinstance(n, int) and 0 <= n <= max(1, numbers.size) for n in shape)
      if not sizes or len(shape) > 2 or math.prod(shape) != numbers.size:
        raise ValueError(f"{numbers.size} numbers are not of the shape {str(shape)[:40]}")
      return numbers.reshape(shape, order="F" if fortran else "C")
  raise ValueError("an array whose state is not of plain numbers")


def _numbers(dtype: _Dtype, raw: bytes | str) -> np.ndarray:
  """The numbers in some bytes, which Python 2 wrote as a string."""
  if dtype.dtype is None:
    raise ValueError("a type without its state")
  data = raw.encode("latin1") if isinstance(raw, str) else raw
  if len(data) % dtype.dtype.itemsize:
    raise ValueError(f"{len(data)} bytes are no whole number of {dtype.dtype}")
  return np.frombuffer(data, dtype.dtype)
