"""Unpacking of the archive of AudioSet's features to a temporary folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pathlib
import shutil
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from tqdm import tqdm

from atgcn_jax.data.layouts.audioset_features import PARTS, SUFFIX
from atgcn_jax.data.store.store_builder import RESUMES
from atgcn_jax.data.store.store_writing import report_store_write_failures
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import journal

GZIP = b"\x1f\x8b"
GROWTH = 1.25  # bytes of the files per byte of a .tar.gz archive, at most; measured: 1.22
COPIED = 2**20  # bytes copied at a time
BAD_ARCHIVE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


@contextlib.contextmanager
def unpacked_archive(archive: str | os.PathLike, out: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Unpack the feature files of an archive to the folder `.OUT.features` next to a store.

  The folder contains folders named as in PARTS. It is removed at the end of the context. After an
  interruption it stays, and the next call continues with the missing files.

  Args:
    archive: Path of a .tar or .tar.gz file.
    out: Path of the store.

  Yields:
    The folder.

  Raises:
    UserError: If the archive cannot be read, the folder cannot be written, or another process uses
      it.
  """
  archive, out = pathlib.Path(archive), pathlib.Path(out)
  try:
    open(archive, "rb").close()
  except OSError as error:
    raise UserError(
      f"{archive}: cannot be read ({error.strerror}); check its permissions"
    ) from None
  folder = out.with_name(f".{out.name}.features")
  with contextlib.ExitStack() as stack:
    with report_store_write_failures(out, RESUMES):
      try:
        stack.enter_context(journal.locked(folder / "lock", wait=False, make_folder=True))
      except journal.Busy:
        raise UserError(
          f"{out}: another process is writing it; wait for it to finish or choose another --out"
        ) from None
      _unpack(archive, folder)
    yield folder
    shutil.rmtree(folder)


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Unpack the missing files of an archive. The file `state.json` states what is there."""
  status = archive.stat()
  state = {"bytes": status.st_size, "changed_ns": status.st_mtime_ns, "complete": False}
  found = _state(folder)
  if found == state | {"complete": True}:
    return
  if found != state:
    for part in PARTS:
      shutil.rmtree(folder / part, ignore_errors=True)
    _write_state(folder, state)
  try:
    _copy_members(archive, folder)
    if not any((folder / part).is_dir() for part in PARTS):
      raise tarfile.ReadError(f"no {SUFFIX} file in a folder {', '.join(PARTS)}")
  except BAD_ARCHIVE as error:
    shutil.rmtree(folder)
    reason = " ".join(str(error).split())
    raise UserError(
      f"{archive}: not a complete archive of AudioSet's features ({reason}); download it again"
    ) from None
  _write_state(folder, state | {"complete": True})


def _copy_members(archive: pathlib.Path, folder: pathlib.Path) -> None:
  """Copy the feature files of an archive that are missing in the folder.

  Raises:
    TarError: If the archive is damaged or cut short. Also BAD_ARCHIVE.
  """
  size = archive.stat().st_size
  with open(archive, "rb") as file, contextlib.ExitStack() as stack:
    zipped = file.read(len(GZIP)) == GZIP
    file.seek(0)
    content: BinaryIO = file
    if zipped:
      content = stack.enter_context(gzip.GzipFile(fileobj=file))  # type: ignore[assignment]
    _warn_of_space(folder, round(size * (GROWTH if zipped else 1)))
    bar = tqdm(total=size, unit="B", unit_scale=True, desc="unpacking", disable=None)
    with bar, tarfile.open(fileobj=content, mode="r:") as tar:
      for member in tar:
        path = pathlib.PurePosixPath(member.name)
        if member.isreg() and path.suffix == SUFFIX and path.parent.name in PARTS:
          _copy(tar, member, folder / path.parent.name / path.name)
        bar.update(file.tell() - bar.n)
      # The reader of Python takes a damaged header for the end. After the true end there are only
      # zeros. To read them verifies the checksum of gzip, too.
      rest = content.read(COPIED)
      if not rest:
        raise tarfile.ReadError("it ends too early")
      while rest:
        if rest.strip(b"\0"):
          raise tarfile.ReadError("a header is damaged")
        rest = content.read(COPIED)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: pathlib.Path) -> None:
  if path.is_file() and path.stat().st_size == member.size:
    return
  path.parent.mkdir(exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  source = tar.extractfile(member)
  assert source is not None
  with source, open(temporary, "wb") as target:
    shutil.copyfileobj(source, target, COPIED)
  os.replace(temporary, path)


def _state(folder: pathlib.Path) -> dict[str, int]:
  try:
    return json.loads((folder / "state.json").read_bytes())
  except (OSError, ValueError):
    return {}


def _write_state(folder: pathlib.Path, state: dict[str, int]) -> None:
  temporary = folder / "state.json.tmp"
  temporary.write_text(json.dumps(state))
  os.replace(temporary, folder / "state.json")


def _warn_of_space(folder: pathlib.Path, needed: int) -> None:
  """Warn before unpacking if the disk has too little free space."""
  free = shutil.disk_usage(folder).free
  if needed > free:
    warnings.warn(
      f"{folder}: unpacking needs about {needed / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are "
      "free",
      stacklevel=2,
    )
