"""Access to paths that may be in a bucket (gs://…), with clear errors for buckets.

Files in a bucket are read and written with `etils.epath`, as in TFDS and Orbax, which uses
TensorFlow's file system. The arrays of a checkpoint use TensorStore. Both wait for minutes if the
service does not answer, and report missing credentials as a denied permission. Therefore this
module checks a bucket with a request of its own before it is used.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import pathlib
import stat
import urllib.parse
from typing import Any

from atgcn_jax.errors import UserError
from atgcn_jax.runtime.tensorflow import import_tensorflow

SERVICE = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
SECONDS = 10  # timeout of each request
_readable: set[str] = set()  # buckets that this process could read
CREDENTIALS = "run `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"


def in_bucket(place: str | os.PathLike) -> bool:
  """Return whether `place` is an address in a bucket, not a path on a disk."""
  return "://" in os.fspath(place)


def path_of(place: str | os.PathLike) -> pathlib.Path:
  """Return a path on a disk, or an object with most methods of a path for a bucket.

  In a bucket, files cannot be appended to, a file appears when it is complete, and a folder is
  renamed file by file.

  Raises:
    UserError: If the bucket cannot be read; raised within a minute.
  """
  if not in_bucket(place):
    return pathlib.Path(place)
  _check_once(place)
  import_tensorflow()
  from etils import epath

  return epath.Path(place)


def open_binary(place: str | os.PathLike) -> io.BufferedIOBase:
  """Open a file for reading. A file in a bucket is read into memory.

  Raises:
    UserError: If the bucket cannot be read, or the file is a device or a pipe.
    OSError: As for `open`.
  """
  if in_bucket(place):
    return io.BytesIO(path_of(place).read_bytes())
  check_no_device(place)
  return open(place, "rb")


def check_no_device(path: str | os.PathLike, *, pipes: bool = False) -> None:
  """Refuse a device such as /dev/zero, which would be read for ever, and a pipe.

  Args:
    path: The path.
    pipes: Whether pipes of a shell are accepted, such as standard input. A named pipe is not,
      because without a process that writes to it, it cannot even be opened.

  Raises:
    UserError: If the path is one.
    OSError: As for `os.stat`.
  """
  mode = os.stat(path).st_mode
  if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
    raise UserError(f"{path}: is a device; name a file")
  is_named = os.path.exists(os.path.realpath(path))
  if stat.S_ISSOCK(mode) or (stat.S_ISFIFO(mode) and (is_named or not pipes)):
    raise UserError(f"{path}: is a pipe; save it to a file and name that")


def check_writable(place: str | os.PathLike) -> None:
  """Check that an address in a bucket is writable, without writing anything.

  Raises:
    UserError: If the address is not writable or the bucket cannot be read.
  """
  bucket, name = bucket_and_name(place)
  _check_once(place)
  # Orbax creates a client of the service, which needs a project.
  if not _session()[1]:
    raise UserError(f"{place}: no project is set; set GOOGLE_CLOUD_PROJECT")
  # Start an upload and cancel it, which leaves nothing in the bucket.
  url = f"{SERVICE}/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
  params = {"uploadType": "resumable", "name": f"{name}/metrics.jsonl".lstrip("/")}
  answer = _answer(place, "POST", url, params=params, json={})
  _answer(place, "DELETE", answer.headers["Location"], expected=(499, 204, 200))


def read_object(place: str | os.PathLike) -> tuple[bytes, int] | None:
  """Return the content of an object in a bucket and its generation; None if it does not exist.

  Raises:
    UserError: If the bucket cannot be read.
  """
  answer = _answer(place, "GET", _object_url(place), (200, 404), params={"alt": "media"})
  if answer.status_code == 404:
    return None
  return answer.content, int(answer.headers["x-goog-generation"])


def write_object(place: str | os.PathLike, content: bytes, generation: int) -> int | None:
  """Write an object in a bucket if it still has a given generation.

  Args:
    place: Address of the object.
    content: New content.
    generation: Expected current generation, 0 if the object does not exist.

  Returns:
    The new generation. None if another process has changed the object; nothing is written then.

  Raises:
    UserError: If the object cannot be written.
  """
  bucket, name = bucket_and_name(place)
  url = f"{SERVICE}/upload/storage/v1/b/{urllib.parse.quote(bucket)}/o"
  params = {"uploadType": "media", "name": name, "ifGenerationMatch": str(generation)}
  answer = _answer(place, "POST", url, (200, 412), params=params, data=content)
  return int(answer.json()["generation"]) if answer.status_code == 200 else None


def delete_object(place: str | os.PathLike, generation: int) -> None:
  """Delete an object in a bucket if it still has a given generation.

  Raises:
    UserError: If the service cannot be reached or denies the request.
  """
  params = {"ifGenerationMatch": str(generation)}
  _answer(place, "DELETE", _object_url(place), (204, 404, 412), params=params)


def _object_url(place: str | os.PathLike) -> str:
  bucket, name = (urllib.parse.quote(part, safe="") for part in bucket_and_name(place))
  return f"{SERVICE}/storage/v1/b/{bucket}/o/{name}"


def check_output_folder(
  option: str, place: str | os.PathLike, advice: str = "choose another"
) -> None:
  """Check that a folder is writable or can be created, without creating it.

  Args:
    option: Option that names the folder, for the message.
    place: The folder.
    advice: What the user can do, for the message.

  Raises:
    UserError: If the folder is not writable and cannot be created.
  """
  if in_bucket(place):
    check_writable(place)
    return
  path = pathlib.Path(place).absolute()
  existing = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
  if not existing.exists():
    raise UserError(
      f"{option} {place}: cannot be made, because {existing} is a broken link; {advice}"
    )
  if not existing.is_dir():
    raise UserError(f"{option} {place}: {existing} is not a folder; {advice}")
  if not os.access(existing, os.W_OK | os.X_OK):
    raise UserError(f"{option} {place}: {existing} cannot be written to; {advice}")


def check_utf8(place: str | os.PathLike) -> None:
  """Check that a path is UTF-8, for libraries that cannot open other paths.

  Raises:
    UserError: If the path is not UTF-8.
  """
  try:
    os.fspath(place).encode()
  except UnicodeEncodeError:
    raise UserError(
      f"{place}: this path is not UTF-8 and cannot be used here; rename it or choose another"
    ) from None


def bucket_and_name(place: str | os.PathLike) -> tuple[str, str]:
  """Split an address into the bucket and the name of the object.

  Raises:
    UserError: If it is not a gs:// address or has no bucket.
  """
  scheme, _, rest = os.fspath(place).partition("://")
  bucket, _, name = rest.partition("/")
  if scheme != "gs" or not bucket:
    raise UserError(f"{place}: not a supported address; give a path or gs://BUCKET/…")
  return bucket, name.rstrip("/")


def _check_once(place: str | os.PathLike) -> None:
  """Check that a bucket can be read, once for each bucket and process."""
  bucket, _ = bucket_and_name(place)
  if bucket not in _readable:
    check_reachable(place)
    _readable.add(bucket)


def check_reachable(place: str | os.PathLike) -> None:
  """Check that an address in a bucket can be read now.

  Raises:
    UserError: If a package, credentials, the network, the bucket or a permission is missing.
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
  except ModuleNotFoundError:  # A parent package is missing.
    return False


def _answer(
  place: Any, method: str, url: str, expected: tuple[int, ...] = (200,), **arguments
) -> Any:
  """Send a request to the storage service and return the response.

  Args:
    place: Address in the bucket, for the message.
    method: HTTP method.
    url: URL of the request.
    expected: Accepted status codes.
    **arguments: Further arguments of `requests.Session.request`.

  Raises:
    UserError: If there is no response or its status is not expected.
  """
  import requests
  from google.auth import exceptions

  try:
    answer = _session()[0].request(method, url, timeout=SECONDS, **arguments)
  except exceptions.DefaultCredentialsError as error:
    found = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    what = f"no credentials in {found} ({_one_line(error)})" if found else "no credentials"
    raise UserError(f"{place}: {what}; {CREDENTIALS}") from error
  except (exceptions.GoogleAuthError, requests.RequestException) as error:
    if isinstance(error, exceptions.RefreshError) and not error.retryable:
      fault = f"credentials are refused ({_one_line(error)}); {CREDENTIALS}"
      raise UserError(f"{place}: {fault}") from error
    raise UserError(
      f"{place}: the storage service cannot be reached ({_one_line(error)}); check the network"
    ) from error
  if answer.status_code in expected:
    return answer
  reason = {
    401: f"the credentials are not accepted; {CREDENTIALS}",
    403: f"the credentials do not permit to {'read' if method == 'GET' else 'write'}; grant them "
    "the role Storage Object User on the bucket",
    404: "no such bucket; create it or choose another",
  }.get(answer.status_code, f"the storage service returned {answer.status_code}; try again later")
  raise UserError(f"{place}: {reason}")


@functools.cache
def _session() -> tuple[Any, str | None]:
  """Return a session with the default credentials, and their project if it is known."""
  import google.auth
  from google.auth.transport.requests import AuthorizedSession

  credentials, project = google.auth.default(scopes=[SCOPE])
  return AuthorizedSession(credentials, refresh_timeout=SECONDS), project


def _one_line(error: Exception) -> str:
  text = " ".join(str(error).split())
  return text if len(text) <= 160 else text[:157] + "..."
