"""Readers of text files and arrays with messages that name a bad file."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any

from atgcn_jax.errors import UserError, printable, reason
from atgcn_jax.labels.npz import npz_arrays
from atgcn_jax.labels.sparse import unpacked
from atgcn_jax.runtime.buckets import open_binary

SHOWN = 40  # maximum length of a field of a file in a message
# Control characters, ends of lines, changes of the direction of writing, and the byte order mark.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")


def text_lines(path: str | os.PathLike[str]) -> Iterator[str]:
  """Yield the lines of a UTF-8 text file, with their line ends.

  Args:
    path: A text file, or a gzip file if the name ends in `.gz`.

  Raises:
    UserError: The file is missing, cannot be read or is not UTF-8 text.
  """
  try:
    with open_binary(path) as file:
      content: Any = gzip.GzipFile(fileobj=file) if os.fspath(path).endswith(".gz") else file
      # Only \n ends a line: words in a file of vectors and quoted CSV fields may contain \r.
      with io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n") as text:
        for line in text:
          if "\0" in line:
            raise UserError(f"{path}: contains NUL characters; save it as UTF-8 text")
          yield line
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {encoding_fault(error)}, or a .gz of it") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({reason(error)}); check the file") from None


def encoding_fault(error: UnicodeDecodeError) -> str:
  """Return the message on text that is not UTF-8: what it is, and what to do."""
  start = error.object[:4]
  if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start.count(0) == 2:
    return "UTF-16 text; save it as UTF-8"
  return "not UTF-8 text; save it as UTF-8"


def has_controls(text: str) -> bool:
  """Return whether a text has characters that control its display, which no name has."""
  return _CONTROLS.search(text) is not None


def folded(text: str) -> str:
  """Return a text in the form in which case and Unicode form make no difference."""
  return unicodedata.normalize("NFC", text).casefold()


def check_name(text: str, where: str) -> None:
  """Refuse an id or a file name with control characters.

  Args:
    text: The id or name.
    where: The file, and the position in it, for the message.

  Raises:
    UserError: If it has some.
  """
  if has_controls(text):
    raise UserError(f"{where}: {printable(text, SHOWN)} has control characters; remove them")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Return all arrays and sparse matrices of an .npz file by key. Pickled objects are not loaded.

  Args:
    path: A file written by `numpy.savez`. Sparse matrices are stored as by
      `labels.sparse.pack_matrices`.

  Raises:
    UserError: The file is missing, is not an .npz file, contains Python objects, or is damaged.
  """
  try:
    with open_binary(path) as file:
      return unpacked(npz_arrays(file))
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path}: cannot be read ({reason(error)}); use a file of plain arrays written by numpy.savez"
    ) from None
