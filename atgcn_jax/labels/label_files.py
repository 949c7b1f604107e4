"""Readers of text files and arrays with messages that name a bad file."""

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
        yield from text
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: {encoding_fault(error)}, or a .gz of it") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); check the file") from None


def encoding_fault(error: UnicodeDecodeError) -> str:
  """Return the message on text that is not UTF-8: what it is, and what to do."""
  start = error.object[:4]
  if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start.count(0) == 2:
    return "UTF-16 text; save it as UTF-8"
  return "not UTF-8 text; save it as UTF-8"


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Return all arrays and sparse matrices of an .npz file by key. Pickled objects are not loaded.

  Args:
    path: A file written by `numpy.savez`. Sparse matrices are stored as by
      `labels.sparse.pack_matrices`.

  Raises:
    UserError: The file is missing, is not an .npz file, or contains Python objects.
  """
  advice = "use a file of plain arrays written by numpy.savez"
  try:
    with open_binary(path) as file:
      # NumPy reports any file that is neither .npz nor .npy as a pickle, which would mislead.
      if not zipfile.is_zipfile(file):
        raise UserError(f"{path}: not an .npz file; {advice}")
      file.seek(0)
      with np.load(file, allow_pickle=False) as arrays:
        return unpacked({key: np.asarray(arrays[key]) for key in arrays.files})
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); {advice}") from None


def _reason(error: Exception) -> str:
  """Return the reason of an error on one line."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return " ".join(text.split())
