"""Progress display of long work: a bar on a terminal, otherwise a line per minute."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from atgcn_jax.runtime import signals

QUIET_SECONDS = 60  # minimum time between two lines if stderr is not a terminal


def counted(chunks: Iterable[list[Any]], *, total: int, done: int, what: str) -> Iterator[list]:
  """Yield the chunks, and display the progress on stderr with the rate and the remaining time.

  Args:
    chunks: Chunks of finished items.
    total: Number of items in all chunks, including `done`.
    done: Number of items that were finished earlier.
    what: Description of the work.

  Raises:
    Interrupted: If the command was asked to stop.
  """
  began = last_line = time.monotonic()
  start = done
  with tqdm(total=total, initial=done, unit="clip", desc=what, disable=None) as bar:
    for chunk in chunks:
      yield chunk
      signals.raise_if_stopped()
      done += len(chunk)
      bar.update(len(chunk))
      now = time.monotonic()
      if bar.disable and now - last_line > QUIET_SECONDS:
        last_line = now
        rate = (done - start) / (now - began)
        left = datetime.timedelta(seconds=round((total - done) / rate))
        print(
          f"{what}: {done} of {total} clips, {rate:.1f} clips/s, {left} left",
          file=sys.stderr,
          flush=True,
        )
