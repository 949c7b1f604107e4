"""Checksum file of a folder, to verify that its files are unchanged.

The file has a line `SHA-256 SIZE NAME` for each other file of the folder. Its last line is the
SHA-256 of all previous lines.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Iterator

from atgcn_jax.runtime.buckets import open_binary
from atgcn_jax.runtime.whole_files import write_whole

NAME = "checksums.txt"
DIGEST = 64  # number of hexadecimal digits of a SHA-256


class Damaged(Exception):  # noqa: N818 (a state of a file)
  """A file of a checkpoint is missing or changed. The message names the file and the fault."""


class Unfinished(Damaged):
  """A checkpoint has no checksums because its save was interrupted."""


def write_checksums(folder: pathlib.Path) -> None:
  """Write the checksums of all files in a folder. The checksum file appears complete.

  Raises:
    OSError: If a file cannot be read or written.
  """
  names = [str(path.relative_to(folder)) for path in _files(folder)]
  lines = [f"{digest} {size} {name}\n" for name, (digest, size) in _digests(folder, names).items()]
  body = "".join(lines).encode()
  write_whole(folder / NAME, body + _last_line(body))


def verify_files(folder: pathlib.Path) -> None:
  """Verify the files of a folder by its checksums. Files without a checksum are ignored.

  Raises:
    Unfinished: If there are no checksums.
    Damaged: If a file is missing, cut short or changed; names the first one.
  """
  try:
    content = (folder / NAME).read_bytes()
  except FileNotFoundError as error:
    raise Unfinished(f"{NAME} is missing, its save was interrupted") from error
  except OSError as error:
    raise Damaged(f"{NAME}: {error.strerror}") from error
  body = content[: -DIGEST - 1]
  if content != body + _last_line(body):
    raise Damaged(f"{NAME}: its content has changed")
  known = [line.split(" ", 2) for line in body.decode().splitlines()]
  found = _digests(folder, [name for _, _, name in known])
  for digest, size, name in known:
    now = found[name]
    if isinstance(now, FileNotFoundError):
      raise Damaged(f"{name} is missing")
    if isinstance(now, OSError):
      raise Damaged(f"{name}: {now.strerror}")
    if now[1] != int(size):
      short = "cut short, " if now[1] < int(size) else ""
      raise Damaged(f"{name}: {short}{now[1]:,} of {int(size):,} bytes")
    if now[0] != digest:
      raise Damaged(f"{name}: its bytes have changed")


def _last_line(body: bytes) -> bytes:
  return hashlib.sha256(body).hexdigest().encode() + b"\n"


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _digests(folder: pathlib.Path, names: list[str]) -> dict:
  """Return a dict from each name to (SHA-256, size in bytes), or to the OSError of reading it."""

  def digest(name: str):
    try:
      with open_binary(folder / name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
      return error

  with concurrent.futures.ThreadPoolExecutor() as pool:  # Hashing and reading release the GIL.
    return dict(zip(names, pool.map(digest, names)))
