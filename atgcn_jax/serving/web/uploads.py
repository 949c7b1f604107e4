"""Uploads: the body of a request, and the sound in it. No path from outside is opened."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np
from starlette.requests import ClientDisconnect, Request

from atgcn_jax.audio import decoding, windows
from atgcn_jax.audio.inputs import one_line
from atgcn_jax.errors import UserError, printable
from atgcn_jax.runtime import signals
from atgcn_jax.serving.sources import MOST_CHANNELS, MOST_HZ
from atgcn_jax.serving.web.limits import (
  LEAST_BYTES,
  PERIOD_SECONDS,
  REFUSED_SECONDS,
  Limits,
  Refused,
)

# A web page of another origin cannot send these types without asking first, and is refused then.
TYPES = ("audio/", "video/", "application/octet-stream", "application/ogg")
NAME_LENGTH = 120


class Upload(NamedTuple):
  """A sound: its name, mono samples float32[S] at the rate of a front end, and what is wrong."""

  name: str
  waveform: np.ndarray
  remarks: list[str]


def name_in(request: Request) -> str:
  """Return the name of the sound in the query, for the tables and messages."""
  name = request.query_params.get("name", "").replace("\\", "/").rpartition("/")[2]
  return printable(one_line(name), NAME_LENGTH) or "sound"


def check_type(request: Request) -> None:
  """Check that the body is declared to be sound.

  Raises:
    Refused: It is not.
  """
  kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
  if not kind.startswith(TYPES):
    what = f"Content-Type {kind}" if kind else "A body without Content-Type"
    raise Refused(
      415,
      f"{what} is not accepted; send the bytes of the sound file as the body, with Content-Type "
      "application/octet-stream.",
    )


@contextlib.asynccontextmanager
async def reading_refused(request: Request) -> AsyncIterator[None]:
  """Read the rest of a body that is refused: closing earlier would reset the connection.

  The client would then report this instead of the reason.
  """
  try:
    yield
  except Refused:
    # RuntimeError: the body has been read.
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
      async with asyncio.timeout(REFUSED_SECONDS):
        async for _ in request.stream():
          pass
    raise


async def body_of(request: Request, limits: Limits) -> bytes:
  """Return the body of a request.

  Raises:
    Refused: It is too large or empty, or arrives too slowly (see LEAST_BYTES).
  """
  too_large = Refused(
    413, f"The file is larger than {limits.megabytes:g} MB, the limit of this server."
  )
  stated = request.headers.get("content-length", "0")
  if not stated.isdecimal() or int(stated) > limits.upload_bytes:
    raise too_large
  body, chunks = bytearray(), request.stream()
  try:
    while True:
      enough = len(body) + LEAST_BYTES
      async with asyncio.timeout(PERIOD_SECONDS):
        while len(body) < enough:
          body += await anext(chunks)
          if len(body) > limits.upload_bytes:
            raise too_large
  except StopAsyncIteration:
    pass
  except TimeoutError:
    raise Refused(
      408,
      f"The upload is too slow: it must send {LEAST_BYTES / 1000:g} kB within each "
      f"{PERIOD_SECONDS:g} s; use a faster connection or a smaller file.",
    ) from None
  except ClientDisconnect:
    raise Refused(400, "The upload ended early.") from None
  if not body:
    raise Refused(400, "The body is empty; send the bytes of a sound file.")
  return bytes(body)


def decoded(name: str, body: bytes, rate: int, limits: Limits) -> Upload:
  """Return the sound in a body.

  Memory holds no more than the limit of seconds, whatever the file claims.

  Args:
    name: The name of the sound.
    body: The bytes of a sound file.
    rate: The sample rate of the front end, in Hz.
    limits: The limits.

  Raises:
    Refused: It is not sound, or too long.
  """
  source = io.BytesIO(body)
  source.name = name  # for messages
  blocks, samples = [], 0
  try:
    with decoding.reading(source, most_seconds=limits.seconds) as reader:
      channels = max(stream.channels for stream in reader.streams)
      if channels > MOST_CHANNELS or reader.rate > MOST_HZ:
        raise Refused(
          422,
          f"{name} has {channels} channels of {reader.rate} Hz; at most {MOST_CHANNELS} of "
          f"{MOST_HZ} Hz are accepted.",
        )
      sound = windows.resampled(decoding.sound_of(reader), rate)
      for block in sound.blocks:
        signals.raise_if_stopped()
        blocks.append(block)
        samples += len(block)
        if samples > limits.seconds * rate:
          raise Refused(
            422, f"{name} is longer than {limits.seconds:g} s, the limit of this server."
          )
  except UserError as error:
    raise Refused(422, f"{error}.") from None
  return Upload(name, np.concatenate(blocks), [finding.detail for finding in sound.findings])
