"""The elements of a MATLAB file of version 5, checked before SciPy reads them.

SciPy's reader does not check the types of elements, and unknown ones crash the process.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

HEADER = 128  # bytes before the first element
HEAD = 512  # bytes in which an array has its name
MOST = 2**32
SMALL = 4  # largest size of the content of an element that is stored within its tag

INT8, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 5, 6, 14, 15, 16
NUMBERS = (*range(1, 8), 9, 12, 13, 16, 17, 18)  # integers, floats, and the three forms of Unicode

CELL = 1
CHARACTERS_AND_NUMBERS = (4, *range(6, 16))
COMPLEX = 0x800  # flag in the first element of a matrix


class Element(NamedTuple):
  """An element: its type and content."""

  kind: int
  content: Any


class Head(NamedTuple):
  """The head of an array: flags and class, dimensions, name."""

  word: int
  sizes: tuple[int, ...]
  name: str


def check_elements(path: str | os.PathLike, names: Collection[str]) -> None:
  """Refuse a file in which an element of one of these arrays is damaged.

  Args:
    path: Path of a file of version 5.
    names: Names of the arrays that will be read.

  Raises:
    ValueError: If the types or lengths of elements do not agree, or an array has no numbers or
      texts.
    zlib.error: If compressed data are damaged.
  """
  data = np.memmap(path, np.uint8, "r").data
  order = {b"IM": "<", b"MI": ">"}.get(bytes(data[HEADER - 2 : HEADER]))
  if order is None:
    raise ValueError("has no mark of the order of bytes")
  for kind, content in _elements(data[HEADER:], order, aligned=False):
    if kind == MATRIX:
      _check_matrix(content, order, names)
    elif kind == COMPRESSED and _is_wanted(content, order, names):
      _check_matrix(_expanded(content, order), order, names)


def _elements(data: Any, order: str, aligned: bool = True) -> Iterator[Element]:
  """Yield the elements of a part of a file.

  Args:
    data: The bytes of the part.
    order: The order of bytes, `<` or `>`.
    aligned: Whether elements start at multiples of 8 bytes and may be small. Those outside of
      arrays are not.

  Raises:
    ValueError: If an element is longer than the part.
  """
  position = 0
  while position < len(data):
    if position + 8 > len(data):
      raise ValueError("an element is cut short")
    kind, size = struct.unpack_from(f"{order}II", data, position)
    start = position + 8
    if aligned and kind >> 16:
      kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
      if size > SMALL:
        raise ValueError(f"a small element has {size} bytes")
    if start + size > len(data):
      raise ValueError(f"an element of {size} bytes is longer than its {len(data) - start} bytes")
    yield Element(kind, data[start : start + size])
    position = start + size
    if aligned:
      position += -position % 8


def _expanded(data: Any, order: str, most: int = MOST) -> bytes:
  """Return the first bytes of the array in a compressed element."""
  stream = zlib.decompressobj()
  tag = stream.decompress(data, 8)
  if len(tag) < 8:
    raise ValueError("a compressed element is cut short")
  kind, size = struct.unpack(f"{order}II", tag)
  # Deflate expands by 1032 at most.
  if kind != MATRIX or not 0 < size <= 1032 * len(data):
    raise ValueError(f"a compressed element has type {kind} and {size} bytes")
  content = stream.decompress(stream.unconsumed_tail, min(size, most))
  if len(content) < min(size, most):
    raise ValueError("a compressed element is cut short")
  return content


def _is_wanted(data: Any, order: str, names: Collection[str]) -> bool:
  """Return whether a compressed element has an array with one of these names."""
  start = _expanded(data, order, HEAD)
  return _head(_elements(start, order), order).name in names


def _head(parts: Iterator[Element], order: str) -> Head:
  """Read the first three elements of an array."""
  flags, dimensions, name = (next(parts, Element(0, b"")) for _ in range(3))
  known = flags.kind == UINT32 and dimensions.kind in (INT32, UINT32) and name.kind in (INT8, UTF8)
  if not known or len(flags.content) != 8 or len(dimensions.content) % 4:
    raise ValueError("the head of an array is damaged")
  word, _ = struct.unpack(f"{order}II", flags.content)
  sizes = struct.unpack(f"{order}{len(dimensions.content) // 4}i", dimensions.content)
  return Head(word, sizes, bytes(name.content).decode("latin-1"))


def _check_matrix(data: Any, order: str, names: Collection[str] | None) -> None:
  """Check the elements of an array with one of these names; None stands for any."""
  parts = _elements(data, order)
  word, sizes, name = _head(parts, order)
  if names is not None and name not in names:
    return
  rest = list(parts)
  if word & 0xFF == CELL:
    if min(sizes, default=0) < 0 or len(rest) != math.prod(sizes):
      raise ValueError(f"a cell array of {sizes} has {len(rest)} elements")
    for kind, content in rest:
      if kind != MATRIX or len(content) % 8:
        raise ValueError("a cell is no array")
      if content:
        _check_matrix(content, order, None)
  elif word & 0xFF not in CHARACTERS_AND_NUMBERS:
    raise ValueError(f"an array has class {word & 0xFF}, not numbers or texts")
  elif len(rest) != (2 if word & COMPLEX else 1) or any(kind not in NUMBERS for kind, _ in rest):
    raise ValueError("the values of an array are damaged")
