"""A file from the web: in several attempts, going on where the last one broke off."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message

from tqdm import tqdm

from atgcn_jax import __version__
from atgcn_jax.errors import UserError, WorkFailed

TIMEOUT = 30  # seconds without a byte
PAUSES = (1, 2, 4)  # seconds before another attempt
RETRIED = (408, 425, 429, 500, 502, 503, 504)
CHUNK_BYTES = 2**16


def download(
  url: str, path: pathlib.Path, wrong: Callable[[pathlib.Path, Message | None], str]
) -> None:
  """Fetches a file; until it is whole and right it is called `NAME.part`, which a later call uses.

  Args:
    url: Where from.
    path: The file; an older one is replaced.
    wrong: Says what is wrong with a file, given the headers of the server that sent it or None;
      empty if nothing.

  Raises:
    WorkFailed: It cannot be had, or is wrong.
    UserError: It cannot be written.
  """
  part = path.with_name(f"{path.name}.part")
  if part.is_file() and not wrong(part, None):  # whole, but not yet renamed
    os.replace(part, path)
    return
  for pause in (*PAUSES, 0):
    held = part.is_file()
    try:
      headers = receive(url, part)
    except urllib.error.HTTPError as error:
      trouble = f"the server says {error.code} {error.reason}"
      if error.code not in RETRIED:
        break
    except (OSError, http.client.HTTPException) as error:
      trouble = " ".join(str(getattr(error, "reason", None) or error or type(error)).split())
    else:
      trouble = wrong(part, headers)
      if not trouble:
        os.replace(part, path)
        return
      part.unlink()
      if not held:  # it would be the same again
        break
    if pause:
      tqdm.write(f"{url}: {trouble}; again in {pause} s", file=sys.stderr)
      time.sleep(pause)
  raise WorkFailed(f"{url}: {trouble}; try again later or give another address to --mirror")


def receive(url: str, part: pathlib.Path) -> Message:
  """Writes what a server sends to a file, behind what it holds if the server can; its headers.

  Raises:
    OSError, HTTPException: It could not be had, or not whole.
    UserError: It cannot be written.
  """
  held = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url, headers={"User-Agent": f"atgcn_jax/{__version__}"})
  if held:
    request.add_header("Range", f"bytes={held}-")
  try:
    response = urllib.request.urlopen(request, timeout=TIMEOUT)
  except urllib.error.HTTPError as error:
    if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      raise
    part.unlink()
    raise OSError("the server has no more than was held; from the start") from None
  with response:
    behind = response.status == http.client.PARTIAL_CONTENT
    if behind and not response.headers.get("Content-Range", "").startswith(f"bytes {held}-"):
      part.unlink()
      raise OSError("the server sent another part than was asked for; from the start")
    size = held if behind else 0
    length = response.headers.get("Content-Length", "")
    total = size + int(length) if length.isdigit() else None
    with _writing(part):
      file = open(part, "ab" if behind else "wb", buffering=0)  # noqa: SIM115 (closed below)
    shown = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
    with file, tqdm(total=total, initial=size, **shown) as bar:
      while chunk := response.read1(CHUNK_BYTES):  # what is there, so that little is lost
        with _writing(part):
          file.write(chunk)
        size += len(chunk)
        bar.update(len(chunk))
  if total is not None and size < total:
    raise OSError(f"cut off after {size} of {total} bytes")
  return response.headers


@contextlib.contextmanager
def _writing(part: pathlib.Path) -> Iterator[None]:
  """Tells what the disk says from what the network says."""
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{part}: cannot be written ({error.strerror}); free space or choose another --out"
    ) from error
