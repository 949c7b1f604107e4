"""AudioSet's class list, segment lists, ratings and ontology, from where they are published."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from email.message import Message
from typing import NamedTuple

from atgcn_jax.data.download import download
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.ratings import read_ratings

AUDIOSET = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1"
# The newest state of the ontology's repository, by which a checksum stays true.
ONTOLOGY = (
  "https://raw.githubusercontent.com/audioset/ontology/d417d32bf59c711abb5910fd2f76a0eb44697991"
)


class File(NamedTuple):
  """A file that is fetched, and by what it is known to be right.

  That is its `sha256`, or where none is known its number of `rows`, which a segment list's header
  states too; a list of ratings must be one.
  """

  name: str
  folder: str
  sha256: str = ""
  rows: int = 0


FILES = (
  File(
    "class_labels_indices.csv",
    f"{AUDIOSET}/csv",
    sha256="cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429",
  ),
  File(
    "balanced_train_segments.csv",
    f"{AUDIOSET}/csv",
    sha256="3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94",
  ),
  File(
    "eval_segments.csv",
    f"{AUDIOSET}/csv",
    sha256="f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db",
  ),
  File("unbalanced_train_segments.csv", f"{AUDIOSET}/csv", rows=2041789),
  File("qa_true_counts.csv", f"{AUDIOSET}/qa"),
  File(
    "ontology.json",
    ONTOLOGY,
    sha256="9c685f4403eecc3ca9be37fd7285cf212feaaea6ff7229d3e7ca89e0d1f2d15d",
  ),
)


class Fetched(NamedTuple):
  """What became of a file: its path, size and SHA-256, or why there is none."""

  path: pathlib.Path
  new: bool = False
  size: int = 0
  sha256: str = ""
  failure: str = ""


def fetch_metadata(out: str | os.PathLike, mirror: str | None = None) -> Iterator[Fetched]:
  """Fetches the files one after another; gives what became of each. One that fails stops no other.

  A file that is there and right is not fetched again. Until it is whole and right a file is called
  `NAME.part`, and goes on from there the next time.

  Args:
    out: The folder, made where absent.
    mirror: Address of a folder that has all files by their names, in place of their own.

  Raises:
    UserError: The folder cannot be written, or the mirror is no address.
  """
  if mirror is not None and not is_web_address(mirror):
    raise UserError(f"--mirror {mirror}: no web address; give one such as https://host/folder")
  out = pathlib.Path(out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {out}: no folder ({error.strerror}); name another") from error
  for file in FILES:
    path = out / file.name
    new = not (path.is_file() and not wrong(file, path))
    try:
      if new:
        url = f"{(mirror or file.folder).rstrip('/')}/{file.name}"
        download(url, path, functools.partial(wrong, file))
    except WorkFailed as error:
      yield Fetched(path, failure=str(error))
    else:
      yield Fetched(path, new, path.stat().st_size, digest_of(path, "sha256").hex())


def is_web_address(text: str) -> bool:
  """Whether a text is an address of the web, with nothing in it that must be quoted."""
  try:
    parts = urllib.parse.urlsplit(text)
  except ValueError:
    return False
  plain = re.fullmatch(r"[!-~]+", text) is not None
  return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def wrong(file: File, path: pathlib.Path, headers: Message | None = None) -> str:
  """What is wrong with the content of a file, empty if nothing.

  Args:
    headers: Of the server that sent it, which may state a checksum.
  """
  if file.sha256:
    found = digest_of(path, "sha256").hex()
    return "" if found == file.sha256 else f"has the SHA-256 {found}, not {file.sha256}"
  # Google's servers state the checksum of what they keep.
  if headers and headers.get("x-goog-stored-content-encoding") == "identity":
    stated = re.search("md5=([^, ]+)", ",".join(headers.get_all("x-goog-hash", [])))
    found = base64.b64encode(digest_of(path, "md5")).decode()
    if stated and found != stated[1]:
      return f"has the MD5 {found}, not {stated[1]} as the server states"
  return _wrong_rows(path, file.rows) if file.rows else _wrong_ratings(path)


def _wrong_rows(path: pathlib.Path, rows: int) -> str:
  stated, found = None, 0
  with open(path, "rb") as lines:
    for line in lines:
      if not line.startswith(b"#"):
        found += bool(line.strip())
      elif match := re.search(rb"num_segs=(\d+)", line):
        stated = int(match[1])
  if (stated, found) == (rows, rows):
    return ""
  return f"has {found} segments and states {stated}, not {rows}"


def _wrong_ratings(path: pathlib.Path) -> str:
  try:
    read_ratings(path)
  except UserError as error:
    return f"is no list of ratings ({error})"
  return ""


def digest_of(path: pathlib.Path, algorithm: str) -> bytes:
  """The checksum of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, algorithm).digest()
