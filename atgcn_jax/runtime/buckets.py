"""Paths that may lead into a bucket (gs://…), and what is missing where they cannot be followed.

Whole files in a bucket are read and written through `etils.epath`, as TFDS and Orbax do it, and so
by TensorFlow's file system; the arrays of a checkpoint by TensorStore. Both wait for minutes for a
service that does not answer and read a missing credential as a refusal, so a bucket is asked for by
itself before they are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import IO, Any

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.tensorflow import import_tensorflow

SERVICE = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
SECONDS = 10  # for each answer of the service
_readable: set[str] = set()  # buckets that this process has found within reach
CREDENTIALS = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"


def in_bucket(place: str | os.PathLike) -> bool:
  """Whether this is the address of something in a bucket, not a path on a disk."""
  return "://" in os.fspath(place)


def path_of(place: str | os.PathLike) -> pathlib.Path:
  """A path on a disk, or one in a bucket that has (most of) a path's methods.

  In a bucket there is no appending, a file appears when it is whole, and a folder is renamed file
  by file.

  Raises:
    UserError: for a bucket that cannot be read, within a minute.
  """
  if not in_bucket(place):
    return pathlib.Path(place)
  _check_once(place)
  import_tensorflow()
  from etils import epath

  return epath.Path(place)


def open_binary(place: str | os.PathLike) -> io.BufferedIOBase:
  """A file, open for reading; that of a bucket is read at once.

  Raises:
    UserError: for a bucket that cannot be read.
    OSError: as `open`.
  """
  return io.BytesIO(path_of(place).read_bytes()) if in_bucket(place) else open(place, "rb")


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """A file to write that appears under its name once the block has ended well, and else not.

  On a disk it has another name first; what goes into a bucket is held in memory.
  """
  if in_bucket(path):
    content = io.BytesIO()
    yield content
    path.write_bytes(content.getvalue())
    return
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "wb") as file:
      yield file
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_whole(path: pathlib.Path, content: bytes) -> None:
  """Write a file, on a disk under another name first, so that no half of it is ever seen."""
  with whole_file(path) as file:
    file.write(content)


def check_writable(place: str | os.PathLike) -> None:
  """Refuse an address in a bucket at which nothing can be written; writes nothing.

  Raises:
    UserError: if so, or if the bucket cannot be read.
  """
  bucket, name = bucket_and_name(place)
  _check_once(place)
  # Orbax makes a client of the service, which wants to know a project.
  if not _session()[1]:
    raise UserError(f"{place}: no project is set; set GOOGLE_CLOUD_PROJECT")
  # An upload that is begun and given up leaves nothing behind.
  url = f"{SERVICE}/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
  asked = {"uploadType": "resumable", "name": f"{name}/metrics.jsonl".lstrip("/")}
  answer = _answer(place, "POST", url, params=asked, json={})
  _answer(place, "DELETE", answer.headers["Location"], expected=(499, 204, 200))


def read_object(place: str | os.PathLike) -> tuple[bytes, int] | None:
  """The content of an object in a bucket and its generation; None where there is none.

  Raises:
    UserError: if the bucket cannot be read.
  """
  answer = _answer(place, "GET", _object_url(place), (200, 404), params={"alt": "media"})
  if answer.status_code == 404:
    return None
  return answer.content, int(answer.headers["x-goog-generation"])


def write_object(place: str | os.PathLike, content: bytes, generation: int) -> int | None:
  """Write an object that has this generation, 0 where there is none; returns its new generation.

  Where another process has changed it meanwhile, nothing is written, and None is returned.

  Raises:
    UserError: if it cannot be written.
  """
  bucket, name = bucket_and_name(place)
  url = f"{SERVICE}/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
  asked = {"uploadType": "media", "name": name, "ifGenerationMatch": str(generation)}
  answer = _answer(place, "POST", url, (200, 412), params=asked, data=content)
  return int(answer.json()["generation"]) if answer.status_code == 200 else None


def delete_object(place: str | os.PathLike, generation: int) -> None:
  """Delete an object unless it has another generation by now.

  Raises:
    UserError: if the service cannot be reached or refuses.
  """
  asked = {"ifGenerationMatch": str(generation)}
  _answer(place, "DELETE", _object_url(place), (204, 404, 412), params=asked)


def _object_url(place: str | os.PathLike) -> str:
  bucket, name = (urllib.parse.quote(part, safe="") for part in bucket_and_name(place))
  return f"{SERVICE}/storage/v1/b/{bucket}/o/{name}"


def check_output_folder(
  option: str, place: str | os.PathLike, advice: str = "name another"
) -> None:
  """Refuse a folder that cannot be made or written to; nothing is made.

  Args:
    option: what the folder was named with, for the message.
    advice: how to fix it.
  Raises:
    UserError: naming the folder.
  """
  if in_bucket(place):
    check_writable(place)
    return
  path = pathlib.Path(place).absolute()
  there = next(folder for folder in (path, *path.parents) if folder.exists())
  if not there.is_dir():
    raise UserError(f"{option} {place}: {there} is not a folder; {advice}")
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f"{option} {place}: {there} cannot be written to; {advice}")


def check_utf8(place: str | os.PathLike) -> None:
  """Refuse a path that is not UTF-8, for libraries that cannot open such.

  Raises:
    UserError: naming it.
  """
  try:
    os.fspath(place).encode()
  except UnicodeEncodeError:
    raise UserError(
      f"{place}: this path is not UTF-8 and cannot be used here; rename it, or name another"
    ) from None


def bucket_and_name(place: str | os.PathLike) -> tuple[str, str]:
  """The bucket of an address, and the name of what is meant in it.

  Raises:
    UserError: for an address of another kind, or without a bucket.
  """
  scheme, _, rest = os.fspath(place).partition("://")
  bucket, _, name = rest.partition("/")
  if scheme != "gs" or not bucket:
    raise UserError(f"{place}: not an address that can be used; give a path or gs://BUCKET/…")
  return bucket, name.rstrip("/")


def _check_once(place: str | os.PathLike) -> None:
  """Refuse an address in a bucket that cannot be read, unless the bucket could be before."""
  bucket, _ = bucket_and_name(place)
  if bucket not in _readable:
    check_reachable(place)
    _readable.add(bucket)


def check_reachable(place: str | os.PathLike) -> None:
  """Refuse an address in a bucket that cannot be read now.

  Raises:
    UserError: saying what is missing: a package, credentials, the network, the bucket or a
      permission.
  """
  bucket, name = bucket_and_name(place)
  for package in ("google.cloud.storage", "tensorflow"):
    if not _is_installed(package):
      raise UserError(
        f"{place}: {package.replace('.', '-')} is not installed; pip install 'atgcn_jax[gcs]'"
      )
  url = f"{SERVICE}/storage/v1/b/{urllib.parse.quote(bucket)}/o"
  _answer(place, "GET", url, params={"prefix": name, "maxResults": 1})


def _is_installed(package: str) -> bool:
  try:
    return importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:  # of the package around it
    return False


def _answer(place: Any, method: str, url: str, expected: tuple[int, ...] = (200,), **asked) -> Any:
  """The service's answer to a request about this address.

  Raises:
    UserError: if there is none, or another one than expected.
  """
  import requests
  from google.auth import exceptions

  try:
    answer = _session()[0].request(method, url, timeout=SECONDS, **asked)
  except exceptions.DefaultCredentialsError as error:
    found = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    what = f"no credentials in {found} ({_one_line(error)})" if found else "no credentials"
    raise UserError(f"{place}: {what}; {CREDENTIALS}") from error
  except (exceptions.GoogleAuthError, requests.RequestException) as error:
    if isinstance(error, exceptions.RefreshError) and not error.retryable:
      told = f"credentials are refused ({_one_line(error)}); {CREDENTIALS}"
      raise UserError(f"{place}: {told}") from error
    raise UserError(
      f"{place}: the storage service cannot be reached ({_one_line(error)}); check the network"
    ) from error
  if answer.status_code in expected:
    return answer
  reason = {
    401: f"the credentials are not accepted; {CREDENTIALS}",
    403: f"the credentials do not permit to {'read' if method == 'GET' else 'write'}; grant them "
    "the role Storage Object User on the bucket",
    404: "no such bucket; make it, or name another",
  }.get(answer.status_code, f"the storage service answers {answer.status_code}; try again later")
  raise UserError(f"{place}: {reason}")


@functools.cache
def _session() -> tuple[Any, str | None]:
  """A session with the credentials of this machine or user, and their project if it is known."""
  import google.auth
  from google.auth.transport.requests import AuthorizedSession

  credentials, project = google.auth.default(scopes=[SCOPE])
  return AuthorizedSession(credentials, refresh_timeout=SECONDS), project


def _one_line(error: Exception) -> str:
  text = " ".join(str(error).split())
  return text if len(text) <= 160 else text[:157] + "..."
