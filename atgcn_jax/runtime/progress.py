"""How far a long work is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from atgcn_jax.runtime import signals

QUIET_SECONDS = 60  # between two lines where the terminal is none


def counted(chunks: Iterable[list[Any]], *, total: int, done: int, what: str) -> Iterator[list]:
  """The chunks; their members are counted on stderr, with the rate and the time left.

  Args:
    total: members of all.
    done: how many were there before.
    what: is being done.
  """
  began = spoke = time.monotonic()
  start = done
  with tqdm(total=total, initial=done, unit="clip", desc=what, disable=None) as bar:
    for chunk in chunks:
      yield chunk
      signals.raise_if_stopped()
      done += len(chunk)
      bar.update(len(chunk))
      now = time.monotonic()
      if bar.disable and now - spoke > QUIET_SECONDS:
        spoke = now
        rate = (done - start) / (now - began)
        left = datetime.timedelta(seconds=round((total - done) / rate))
        print(
          f"{what}: {done} of {total} clips, {rate:.1f} clips/s, {left} left",
          file=sys.stderr,
          flush=True,
        )
