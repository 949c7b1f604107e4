"""The pickle of a PyTorch file, run on a small stack machine instead of Python's.

A pickle is a program for a stack machine. The one here knows dicts, lists, tuples, numbers,
strings, ordered dicts and dense tensors, and refuses everything else.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

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
FUNCTIONS = (ORDERED, TENSOR, PARAMETER)
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Opcodes whose argument is the value.
LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "FLOAT", "LONG")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class NotTensors(ValueError):  # noqa: N818 (the message is what the file contains)
  """Content that is not a state dict of dense tensors."""


class Global(NamedTuple):
  """A name in a pickle that may stand for a class or function."""

  name: str


class Storage(NamedTuple):
  """The reference of a tensor to its values."""

  key: str
  dtype: np.dtype
  size: int


def storage_of(reference: Any) -> Storage:
  """Return what a pickle's reference to a storage says.

  Raises:
    NotTensors: The storage is of another type than STORAGES, or a view of another storage.
  """
  kind, of_type, key, _, count, *view = reference
  module, _, name = of_type.name.rpartition(".")
  if kind != "storage" or module != "torch" or name not in STORAGES or view not in ([], [None]):
    raise NotTensors(f"contains a storage of {of_type.name}; {SAVE} of dense tensors of numbers")
  if type(count) is not int or count < 0:
    raise ValueError
  return Storage(str(key), STORAGES[name], count)


def unpickled(data: bytes | io.BufferedIOBase, values_of: Callable[[Storage], np.ndarray]) -> Any:
  """Run a pickle on the stack machine and return its result, with arrays for tensors.

  Args:
    data: The pickle, or a file that is read up to the end of the pickle.
    values_of: Returns the array of a storage.

  Raises:
    NotTensors: The pickle contains something other than dicts and tensors.
    OSError: The file cannot be read.
  """
  try:
    return _run(data, values_of)
  except NotTensors:
    raise
  except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
    # The stack machine checks no types: a malformed program fails where a value is used.
    raise NotTensors(f"its pickle is malformed; fetch it again, or {SAVE}") from None


def _run(data: bytes | io.BufferedIOBase, values_of: Callable[[Storage], np.ndarray]) -> Any:
  """Run a pickle. See `unpickled`."""
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
  for opcode, argument, _ in pickletools.genops(data):  # type: ignore[arg-type]
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
      stack.append(values_of(storage_of(*pop(1))))
    elif name == "REDUCE":
      function, arguments = pop(2)
      stack.append(_called(function, arguments))
    elif name == "BUILD":  # the attributes of an ordered dict, such as `_metadata`
      pop(1)
    else:
      raise NotTensors(f"contains the operation {name}, which tensors do not need; {SAVE}")
  raise NotTensors("its pickle has no end; fetch it again")


def _known(name: str) -> Global:
  """Return a name that may occur in the pickle of a state dict."""
  if name not in FUNCTIONS and not (name.startswith("torch.") and name.endswith("Storage")):
    raise NotTensors(f"contains {name:.100}, which is not a tensor; {SAVE}")
  return Global(name)


def _called(function: Global, arguments: tuple[Any, ...]) -> Any:
  """Return an ordered dict, a tensor, or the tensor of a parameter."""
  if function.name == ORDERED and not arguments:
    return {}
  if function.name == TENSOR:
    return _tensor(*arguments[:4])
  if function.name == PARAMETER:
    return arguments[0]
  raise NotTensors(f"contains a call of {function.name}, which is not a tensor; {SAVE}")


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
    raise NotTensors(
      f"contains a tensor {list(shape)} of a storage of {len(values)}; fetch it again"
    )
  if not size:
    return np.empty(shape, values.dtype)
  steps = [step * values.itemsize for step in strides]
  return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)
