"""Text files and arrays of labels, read so that a bad file is named."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from atgcn_jax.errors import UserError

if TYPE_CHECKING:
  from atgcn_jax.labels.vocabulary import Vocabulary


def text_lines(path: str | os.PathLike[str]) -> Iterator[str]:
  """The lines of a UTF-8 text file, one at a time, each with its end of line.

  Args:
    path: A text file, or a gzip file of one where the name ends in `.gz`.

  Raises:
    UserError: The file is missing, cannot be read or is not text.
  """
  opened = gzip.open if os.fspath(path).endswith(".gz") else open
  try:
    # Only \n ends a line: words of a vectors file and quoted CSV fields may hold a \r.
    with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
      yield from file
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except UnicodeDecodeError:
    raise UserError(f"{path}: not UTF-8 text; give a text file, or a .gz of one") from None
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); check the file") from None


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All arrays of an .npz file by key; nothing pickled is ever loaded.

  Args:
    path: A file written by `numpy.savez`.

  Raises:
    UserError: The file is missing, is not an .npz file, or holds Python objects.
  """
  mend = "give a file of plain arrays written by numpy.savez"
  try:
    with open(path, "rb") as file:
      # numpy takes whatever is neither .npz nor .npy for a pickle, and says so: misleading here.
      if not zipfile.is_zipfile(file):
        raise UserError(f"{path}: not an .npz file; {mend}")
      file.seek(0)
      with np.load(file, allow_pickle=False) as arrays:
        return {key: np.asarray(arrays[key]) for key in arrays.files}
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; check the path") from None
  except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f"{path}: cannot be read ({_reason(error)}); {mend}") from None


def rows_by_id(
  path: str | os.PathLike[str], mids: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
  """Where the labels of a vocabulary stand in a file, int64[K].

  Args:
    path: The file, for the message.
    mids: The file's label ids, str[M].
    vocabulary: The K labels that are wanted.

  Raises:
    UserError: A label of the vocabulary is not in the file, or an id is there twice.
  """
  if mids.ndim != 1 or mids.dtype.kind != "U":
    raise UserError(f"{path}: `mids` is no list of label ids; store one string a row")
  rows = {str(mid): row for row, mid in enumerate(mids)}
  if len(rows) < len(mids):
    raise UserError(f"{path}: `mids` repeats a label id; store one row a label")
  for label_id, name in zip(vocabulary.ids, vocabulary.names):
    if label_id not in rows:
      raise UserError(
        f"{path}: has no label {label_id} ({name}); use a file made for this vocabulary"
      )
  return np.array([rows[label_id] for label_id in vocabulary.ids], np.int64)


def _reason(error: Exception) -> str:
  """What went wrong, on one line."""
  text = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return " ".join(text.split())
