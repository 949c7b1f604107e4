"""Download of AudioSet's class list, segment lists, ratings, ontology and features."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import os
import pathlib
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from email.message import Message
from typing import NamedTuple

from atgcn_jax.data.download import download
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.ratings import read_ratings

AUDIOSET = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1"
# Latest commit of the ontology's repository. A fixed commit keeps the checksum valid.
ONTOLOGY = (
  "https://raw.githubusercontent.com/audioset/ontology/d417d32bf59c711abb5910fd2f76a0eb44697991"
)


class File(NamedTuple):
  """File to download, with the facts that verify it.

  A file is verified by its `sha256`. Without one, a segment list is verified by its number of
  `rows`, which its header states too, a `.gz` file by its own checksum, and a list of ratings by
  its format.

  Attributes:
    name: File name.
    folder: Address of the folder.
    sha256: SHA-256 of the content, if known.
    rows: Number of segments, if the file is a segment list without a known SHA-256.
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
# Google states a size of 2.4 GB and no checksum. One that the server sends is verified.
FEATURES = File("features.tar.gz", f"{AUDIOSET}/features")


class Fetched(NamedTuple):
  """Result for one file.

  Attributes:
    path: Path of the file.
    new: Whether the file was downloaded by this call.
    size: Size in bytes.
    sha256: SHA-256 of the content.
    failure: Reason why the file could not be downloaded; empty on success.
  """

  path: pathlib.Path
  new: bool = False
  size: int = 0
  sha256: str = ""
  failure: str = ""


def fetch_metadata(
  out: str | os.PathLike, mirror: str | None = None, *, features: bool = False
) -> Iterator[Fetched]:
  """Download the files of AudioSet one by one. A failure does not stop the following files.

  A file that exists and is valid is not downloaded again. An incomplete file is called `NAME.part`,
  and the next call resumes it.

  Args:
    out: Folder of the files. It is created if needed.
    mirror: Address of a folder with all files, used in place of the original addresses.
    features: Whether to download the archive of the VGGish features, too.

  Yields:
    The result for each file.

  Raises:
    UserError: If the folder cannot be written or the mirror is not an address.
  """
  if mirror is not None and not is_web_address(mirror):
    raise UserError(f"--mirror {mirror}: not a web address; give one such as https://host/folder")
  out = pathlib.Path(out)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out {out}: not a folder ({error.strerror}); choose another") from error
  for file in (*FILES, *[FEATURES] * features):
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
  """Return whether a text is an http or https address without characters that need quoting."""
  try:
    parts = urllib.parse.urlsplit(text)
  except ValueError:
    return False
  plain = re.fullmatch(r"[!-~]+", text) is not None
  return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def wrong(file: File, path: pathlib.Path, headers: Message | None = None) -> str:
  """Return what is wrong with the content of a downloaded file; empty if it is valid.

  Args:
    file: Facts that verify the file.
    path: Path of the downloaded content.
    headers: Headers of the server's response, which may contain a checksum.
  """
  if file.sha256:
    found = digest_of(path, "sha256").hex()
    return "" if found == file.sha256 else f"has the SHA-256 {found}, not {file.sha256}"
  # Google's servers send the checksum of the stored file.
  if headers and headers.get("x-goog-stored-content-encoding") == "identity":
    stated = re.search("md5=([^, ]+)", ",".join(headers.get_all("x-goog-hash", [])))
    found = base64.b64encode(digest_of(path, "md5")).decode()
    if stated and found != stated[1]:
      return f"has the MD5 {found}, not {stated[1]} as the server states"
  if file.name.endswith(".gz"):
    return _wrong_gzip(path)
  return _wrong_rows(path, file.rows) if file.rows else _wrong_ratings(path)


def _wrong_gzip(path: pathlib.Path) -> str:
  try:
    with gzip.open(path) as content:
      while content.read(2**20):
        pass
  except (OSError, EOFError, zlib.error) as error:
    return f"is not a complete gzip file ({error})"
  return ""


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
    return f"is not a list of ratings ({error})"
  return ""


def digest_of(path: pathlib.Path, algorithm: str) -> bytes:
  """Return the checksum of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, algorithm).digest()
