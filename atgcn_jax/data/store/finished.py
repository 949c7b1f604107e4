"""What is already at the path of a new clip store: this store, another store, or another file."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

import h5py

from atgcn_jax.data.store import hdf5
from atgcn_jax.data.store.clip_store import FORMAT
from atgcn_jax.errors import UserError

IDENTITY = "identity"  # attribute of a store: hash of what it was built from


class Finished(NamedTuple):
  """A finished store: a hash of what it was built from, and its number of clips.

  The hash is empty for stores of earlier versions.
  """

  identity: str
  clips: int


def read_finished(out: str | os.PathLike) -> Finished | None:
  """Return the store at a path; None if no file is there.

  Raises:
    UserError: If the file there is not a clip store.
  """
  if not pathlib.Path(out).is_file():
    return None
  try:
    with h5py.File(out, "r") as file:
      if hdf5.text_attribute(file, "format") == FORMAT:
        identity = hdf5.attribute(file, IDENTITY) or ""
        return Finished(str(identity), hdf5.plain_dataset(file, "peak_db").shape[0])
  except hdf5.FAULTS:
    pass
  raise UserError(f"{out}: already exists and is not an intact clip store; choose another --out")


def clips_if_finished(out: str | os.PathLike, identity: str) -> int | None:
  """Return the number of clips of a finished store; None if there is none.

  Args:
    out: Path of the store.
    identity: Hash of what the store must have been built from.

  Raises:
    UserError: If the file there is not a clip store, or was built from something else.
  """
  found = read_finished(out)
  if found is None:
    return None
  if found.identity != identity:
    whose = "of other files, labels or settings" if found.identity else "of an earlier version"
    raise UserError(
      f"{out}: already exists and is a store {whose}; choose another --out, or remove it"
    )
  return found.clips
