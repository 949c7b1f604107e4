"""Text files and arrays of labels, read so that a bad file is named."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import unpacked
from atgcn_jax.runtime.buckets import open_binary


def text_lines(path: str | os.PathLike[str]) -> Iterator[str]:
  """The lines of a UTF-8 text file, one at a time, each with its end of line.

  Args:
    path: A text file, or a gzip file of one where the name ends in `.gz`.

  Raises:
    UserError: The file is missing, cannot be read or is not text.
  """
  try:
    with open_binary(path) as file:
      content: Any = gzip.GzipFile(fileobj=file) if os.fspath(path).endswith(".gz") else file
      # Only \n ends a line: words of a vectors file and quoted CSV fields may hold a \r.
      with io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n") as text:
        yield from text
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {encoding_fault(error)}, or a .gz of it") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); check the file") from None


def encoding_fault(error: UnicodeDecodeError) -> str:
  """What text that is not UTF-8 is, and what to do about it."""
  start = error.object[:4]
  if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start.count(0) == 2:
    return "UTF-16 text; save it as UTF-8"
  return "not UTF-8 text; save it as UTF-8"


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
  """All arrays and sparse matrices of an .npz file by key; nothing pickled is ever loaded.

  Args:
    path: A file written by `numpy.savez`, its sparse matrices as `labels.sparse.packed` makes them.

  Raises:
    UserError: The file is missing, is not an .npz file, or holds Python objects.
  """
  mend = "give a file of plain arrays written by numpy.savez"
  try:
    with open_binary(path) as file:
      # numpy takes whatever is neither .npz nor .npy for a pickle, and says so: misleading here.
      if not zipfile.is_zipfile(file):
        raise UserError(f"{path}: not an .npz file; {mend}")
      file.seek(0)
      with np.load(file, allow_pickle=False) as arrays:
        return unpacked({key: np.asarray(arrays[key]) for key in arrays.files})
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); {mend}") from None


def _reason(error: Exception) -> str:
  """What went wrong, on one line."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return " ".join(text.split())
