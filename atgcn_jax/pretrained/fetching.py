"""Fetching of the files of pretrained weights, from where they were published or from a mirror."""

from __future__ import annotations

import functools
import pathlib
import sys
import urllib.parse
import urllib.request
from email.message import Message

from tqdm import tqdm

from atgcn_jax.data.audioset_files import digest_of, is_web_address
from atgcn_jax.data.download import download
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.pretrained.catalogue import Pretrained

SPACE = "free space or set XDG_CACHE_HOME to another folder"


def fetched(
  model: Pretrained, folder: pathlib.Path, *, offline: bool, mirror: str | None
) -> pathlib.Path:
  """Return the file of a network's weights, which is downloaded if the folder does not have it.

  Args:
    model: The network.
    folder: Folder of the file.
    offline: As for `pretrained_run`.
    mirror: As for `pretrained_run`.

  Raises:
    UserError: If the file cannot be fetched or written.
  """
  path = folder / model.file
  if path.is_file() and not fault_of_weights(model, path):
    return path
  if offline:
    raise UserError(
      f"{model.name}: is not in the cache ({folder}); run the same command without --offline once"
    )
  url = model.url() if mirror is None else model.url(_address_of(mirror, model))
  try:
    note_of(path).unlink(missing_ok=True)
    download(url, path, functools.partial(fault_of_weights, model), advice=SPACE)
    note_of(path).write_text(url, encoding="utf-8")
  except WorkFailed as error:  # as for any file that a command needs and cannot read
    raise UserError(
      f"{error}; --mirror also takes a folder with {model.file}, and `atgcn import-torch` any file"
    ) from error
  except OSError as error:
    raise UserError(f"{note_of(path)}: cannot be written ({error.strerror}); {SPACE}") from error
  found = "as published" if model.checksum else "no checksum is published to compare it with"
  sha256 = digest_of(path, "sha256").hex()
  tqdm.write(
    f"{model.file}: fetched, {path.stat().st_size} bytes, SHA-256 {sha256} ({found})",
    file=sys.stderr,
  )
  return path


def note_of(path: pathlib.Path) -> pathlib.Path:
  """Return the path of the address that a file in the cache was fetched from."""
  return path.with_name(f"{path.name}.url")


def origin_of(model: Pretrained, path: pathlib.Path) -> str:
  """Return the address that a file of weights was fetched from.

  Earlier versions have not kept it. A file with a known checksum is the published one in any case;
  of another one, only its place is known.
  """
  try:
    return note_of(path).read_text(encoding="utf-8")
  except (OSError, ValueError):
    return model.url() if model.checksum else path.as_uri()


def _address_of(mirror: str, model: Pretrained) -> str:
  """Return the address of a mirror: a web address, or the file address of a folder on disk.

  Raises:
    UserError: If it is neither, or the folder does not have the file of the network.
  """
  if is_web_address(mirror):
    return mirror
  is_address = mirror.startswith("file://")
  place = pathlib.Path(
    urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path) if is_address else mirror
  )
  if not place.is_dir():
    raise UserError(
      f"--mirror {mirror}: not a web address and no folder; give one such as https://host/folder, "
      f"or a folder that has {model.file}"
    )
  if not (place / model.file).is_file():
    raise UserError(f"--mirror {mirror}: has no file {model.file}; put it there under this name")
  return place.absolute().as_uri()


def fault_of_weights(model: Pretrained, path: pathlib.Path, headers: Message | None = None) -> str:
  """Return what is wrong with the downloaded file of a network; empty if nothing is known to be.

  Without a known checksum, it must be a complete file of tensors.

  Args:
    model: The network.
    path: Path of the downloaded content.
    headers: Ignored.
  """
  if model.checksum:
    algorithm, _, expected = model.checksum.partition(":")
    found = digest_of(path, algorithm).hex()
    kind = "SHA-256" if algorithm == "sha256" else algorithm.upper()
    return "" if found == expected else f"has the {kind} {found}, not {expected}"
  from atgcn_jax.interop.torch_files import read_tensors

  try:
    read_tensors(path)
  except UserError as error:
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]
  return ""
