"""Download of a file from the web, with retries that resume an interrupted transfer."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message

from tqdm import tqdm

from atgcn_jax import __version__
from atgcn_jax.errors import UserError, WorkFailed

TIMEOUT = 30  # seconds without data
PAUSES = (1, 2, 4)  # seconds before each retry
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes
CHUNK_BYTES = 2**16
LARGE_BYTES = 500_000_000  # size from which a download is announced


def download(
  url: str,
  path: pathlib.Path,
  wrong: Callable[[pathlib.Path, Message | None], str],
  advice: str = "free space or choose another --out",
) -> None:
  """Download a file. An incomplete file is called `NAME.part`, and a later call resumes it.

  Args:
    url: Address of the file.
    path: Path of the file. An existing file is replaced.
    wrong: Function from a path and the response headers (or None) to what is wrong with the file;
      empty if it is valid.
    advice: What to do if the file cannot be written, for messages.

  Raises:
    WorkFailed: If the file cannot be downloaded or is not valid.
    UserError: If the file cannot be written.
  """
  part = path.with_name(f"{path.name}.part")
  if part.is_file() and not wrong(part, None):  # complete, but not renamed yet
    os.replace(part, path)
    return
  for pause in (*PAUSES, 0):
    resumed = part.is_file()
    try:
      headers = receive(url, part, advice)
    except urllib.error.HTTPError as error:
      trouble = f"the server returned {error.code} {error.reason}"
      if error.code not in RETRIED:
        break
    except (OSError, http.client.HTTPException) as error:
      cause = getattr(error, "reason", None) or error
      trouble = " ".join(str(cause or type(error)).split())
      if isinstance(cause, socket.gaierror | ConnectionRefusedError):  # no network or no server
        break
    else:
      trouble = wrong(part, headers)
      if not trouble:
        os.replace(part, path)
        return
      part.unlink()
      if not resumed:  # A complete download is wrong, so a retry gives the same file.
        break
    if pause:
      tqdm.write(f"{url}: {trouble}; retrying in {pause} s", file=sys.stderr)
      time.sleep(pause)
  raise WorkFailed(f"{url}: {trouble}; try again later or give another address to --mirror")


def receive(url: str, part: pathlib.Path, advice: str) -> Message:
  """Write the response of a server to a file, and resume the file if the server can.

  Args:
    url: Address of the file.
    part: Path of the file, which may have the first bytes of the content.
    advice: What to do if the file cannot be written, for messages.

  Returns:
    The headers of the response.

  Raises:
    OSError: If the content cannot be received completely.
    HTTPException: If the response is not valid.
    UserError: If the file cannot be written.
  """
  received = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={"User-Agent": f"atgcn_jax/{__version__}"})
  if received:
    request.add_header("Range", f"bytes={received}-")
  try:
    response = urllib.request.urlopen(request, timeout=TIMEOUT)
  except urllib.error.HTTPError as error:
    if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      raise
    part.unlink()
    raise OSError("the server has no further bytes; starting again") from None
  with response:
    partial = response.status == http.client.PARTIAL_CONTENT
    if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {received}-"):
      part.unlink()
      raise OSError("the server sent the wrong part of the file; starting again")
    size = received if partial else 0
    length = response.headers.get("Content-Length", "")
    total = size + int(length) if length.isdigit() else None
    if total is not None and total >= LARGE_BYTES:
      announce(part, size, total, advice)
    with _writing(part, advice):
      file = open(part, "ab" if partial else "wb", buffering=0)  # noqa: SIM115 (closed below)
    shown = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
    with file, tqdm(total=total, initial=size, **shown) as bar:
      while chunk := response.read1(CHUNK_BYTES):  # Write data as it arrives.
        with _writing(part, advice):
          file.write(chunk)
        size += len(chunk)
        bar.update(len(chunk))
  if total is not None and size < total:
    raise OSError(f"cut off after {size} of {total} bytes")
  return response.headers


def announce(part: pathlib.Path, received: int, total: int, advice: str) -> None:
  """Print the size of a download before it starts or resumes.

  Args:
    part: Path of the file.
    received: Number of bytes that the file has.
    total: Number of bytes of the complete file.
    advice: What to do if there is too little space, for the message.

  Raises:
    UserError: If the disk has too little free space.
  """
  missing, free = total - received, shutil.disk_usage(part.parent).free
  text = f"{missing / 1e9:.3g} GB of {total / 1e9:.3g} GB"
  if missing > free:
    raise UserError(f"{part}: {text} are missing, but only {free / 1e9:.3g} GB are free; {advice}")
  tqdm.write(f"{part.stem}: downloading {text}", file=sys.stderr)


@contextlib.contextmanager
def _writing(part: pathlib.Path, advice: str) -> Iterator[None]:
  """Turn an OSError of the disk into a UserError, to distinguish it from network errors."""
  try:
    yield
  except OSError as error:
    raise UserError(f"{part}: cannot be written ({error.strerror}); {advice}") from error
