"""Writer of clip stores: the rows first, then the small arrays and the fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import h5py
import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.store.clip_store import FORMAT
from atgcn_jax.data.store.finished import IDENTITY
from atgcn_jax.data.store.schema import OF_FILES
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runtime.whole_files import write_at


def write_store(
  path: str | os.PathLike,
  log_mels: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  dtype: str,
  clip_ids: list[str],
  folds: list[str],
  labels: list[list[int]],
  vocabulary: Vocabulary,
  frontend: Frontend,
) -> None:
  """Write a store under a temporary name and rename it when it is complete.

  Args:
    path: Path of the store.
    log_mels: Encoded chunks ([n, T, F], peaks float32[n]) in the order of the clips.
    dtype: Type of the chunks, `uint8` or `float16`.
    clip_ids: Id of each clip.
    folds: Fold of each clip.
    labels: Label indices of each clip.
    vocabulary: Labels of the store.
    frontend: Settings of the log-mels.

  Raises:
    UserError: If the file cannot be written.
    ValueError: If the numbers of log-mels and of clips differ.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise UserError(f"{path}: is a folder; give the path of a file, such as store.h5")
  # A hidden name, unique among all writers on all machines that share the folder.
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
  peaks, digests, rows = [np.zeros(0, np.float32)], [], 0
  with report_store_write_failures(path):
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      start = create_rows(temporary, (len(clip_ids), frontend.frames, frontend.n_mels), dtype)
      with open(temporary, "rb+", buffering=0) as file:
        for chunk, chunk_peaks in log_mels:
          write_at(file.fileno(), chunk.tobytes(), start)
          start, rows = start + chunk.nbytes, rows + len(chunk)
          peaks.append(chunk_peaks)
          digests += [row_digest(row.tobytes()) for row in chunk]
      if rows != len(clip_ids):
        raise ValueError(f"{rows} log-mels for {len(clip_ids)} clips")
      arrays: dict[str, np.ndarray] = {
        "peak_db": np.concatenate(peaks),
        "label_offsets": np.cumsum([0, *map(len, labels)], dtype=np.int64),
        "label_indices": np.array([i for row in labels for i in row], np.int32),
        "clip_ids": np.array(clip_ids, object),
        "folds": np.array(folds, object),
      }
      complete(temporary, arrays, vocabulary, frontend, b"".join(digests))
      os.replace(temporary, path)
    finally:
      with contextlib.suppress(OSError):
        temporary.unlink()


@contextlib.contextmanager
def report_store_write_failures(
  path: str | os.PathLike, fix: str = "free space or choose another --out"
) -> Iterator[None]:
  """Turn an OSError in the context into a UserError about the store at `path`.

  Args:
    path: Path of the store, for the message.
    fix: What the user can do, for the message.

  Raises:
    UserError: If the body raises an OSError.
  """
  try:
    yield
  except OSError as error:  # HDF5 messages have many lines, but the error number is set.
    text = os.strerror(error.errno) if error.errno else reason(error)
    raise UserError(f"{path}: cannot be written ({text}); {fix}") from error


def create_rows(path: str | os.PathLike, shape: tuple[int, int, int], dtype: str) -> int:
  """Create a store file with a contiguous log-mel dataset whose rows are not written yet.

  Args:
    path: Path of the file.
    shape: Shape [N, T, F] of the dataset.
    dtype: `uint8` or `float16`.

  Returns:
    Byte offset of the first row in the file.
  """
  layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
  layout.set_layout(h5py.h5d.CONTIGUOUS)  # required by the memory map
  layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
  layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
  layout.set_obj_track_times(False)  # so that equal content gives equal bytes
  with h5py.File(path, "w") as file:
    values, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, b"log_mel", values, space, layout).get_offset()


def row_digest(row: bytes) -> bytes:
  """Return the 16-byte digest of a stored log-mel that goes into the fingerprint."""
  return hashlib.blake2b(row, digest_size=16).digest()


def complete(
  path: str | os.PathLike,
  arrays: dict[str, np.ndarray],
  vocabulary: Vocabulary,
  frontend: Frontend,
  digests: bytes,
  identity: str = "",
) -> None:
  """Complete a store whose rows are written: add the small arrays and the fingerprint.

  Args:
    path: Path of the file that `create_rows` created.
    arrays: All of ARRAYS, and any of OPTIONAL.
    vocabulary: Labels of the store.
    frontend: Settings of the log-mels.
    digests: Concatenated `row_digest` of all clips.
    identity: Hash of what the store was built from. Empty to store none.
  """
  settings = as_settings(vocabulary, frontend)
  with h5py.File(path, "r+") as file:
    for name, array in arrays.items():
      texts = h5py.string_dtype() if array.dtype == object else None
      file.create_dataset(name, data=array, dtype=texts)
    file.attrs["format"] = FORMAT
    file.attrs["settings"] = json.dumps(settings)
    dtype = str(file["log_mel"].dtype)
    file.attrs["fingerprint"] = fingerprint_of(settings, dtype, arrays, digests)
    if identity:
      file.attrs[IDENTITY] = identity


def as_settings(vocabulary: Vocabulary, frontend: Frontend) -> dict[str, Any]:
  """Return the vocabulary and the front end of a store as JSON-serialisable values."""
  return {
    "label_ids": list(vocabulary.ids),
    "label_names": list(vocabulary.names),
    "frontend": frontend.as_json(),
  }


def fingerprint_of(
  settings: dict[str, Any], dtype: str, arrays: dict[str, np.ndarray], digests: bytes
) -> str:
  """Return the hash of a store's content, without the facts about the source files (OF_FILES).

  Args:
    settings: Result of `as_settings`.
    dtype: Type of the log-mels.
    arrays: As for `complete`.
    digests: As for `complete`.
  """
  digest = hashlib.sha256(json.dumps([settings, dtype]).encode() + digests)
  for name in sorted(arrays.keys() - set(OF_FILES)):
    array = arrays[name]
    digest.update(name.encode())
    texts = array.dtype.kind in "OU"
    digest.update(json.dumps(array.tolist()).encode() if texts else array.tobytes())
  return digest.hexdigest()
