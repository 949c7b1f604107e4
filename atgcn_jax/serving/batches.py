"""Windows of many sounds, read in threads and scored in batches of one size."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.windows import Window
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import signals

READERS = min(4, os.cpu_count() or 1)  # sounds that are read at the same time
AHEAD = 8  # windows of each that wait to be scored
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


class Piece(NamedTuple):
  """A window, and the part of its sound that is read with it, up to 1."""

  window: Window
  part: float


@dataclasses.dataclass
class ScoredSound:
  """What came of a sound: where its windows lie, what each gave; or why there is nothing.

  `findings` says what is wrong with a sound that was used.
  """

  source: Any
  spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # start, stop in samples
  values: list[np.ndarray] = dataclasses.field(default_factory=list)
  error: UserError | None = None
  ended: bool = False
  findings: list[Finding] = dataclasses.field(default_factory=list)

  def is_done(self) -> bool:
    """Whether nothing more will come."""
    return self.ended and (self.error is not None or len(self.values) == len(self.spans))


def scored(
  sources: Sequence[Any],
  pieces_of: Callable[[Any], Iterable[Piece | Finding]],
  score: Callable[[np.ndarray], Any],
  size: int,
  *,
  alone: bool = True,
) -> Iterator[ScoredSound]:
  """What came of each sound, in their order, as soon as it is known.

  A few sounds are read at a time, each in a thread, while the device works; of each a few windows
  wait. Windows of different sounds share a batch. A bar shows how far it is, on a terminal, once
  it has taken a second.

  Args:
    pieces_of: Reads a sound; is called in a thread. A UserError is that sound's end alone. What it
      finds wrong with the sound may stand among the pieces.
    score: float32[size, S] windows (or [1, S], if there is one window in all) to values
      [size, ...] on the device, without waiting for them.
    size: Windows of a batch.
    alone: Whether there are no sounds besides these; else one window is a batch of `size` too, in
      which it gets the same bits as among others.
  """
  unfinished: collections.deque[ScoredSound] = collections.deque()
  waiting: list[tuple[ScoredSound, Window]] = []
  running: collections.deque[tuple[list[ScoredSound], Any]] = collections.deque()
  batches = 0

  def begin(size: int) -> None:
    windows = np.stack([window.waveform for _, window in waiting])
    windows = np.pad(windows, ((0, size - len(windows)), (0, 0)))
    running.append(([owner for owner, _ in waiting], score(windows)))
    waiting.clear()

  def finish() -> None:
    owners, values = running.popleft()
    for owner, value in zip(owners, np.asarray(values)):
      owner.values.append(value)

  def done() -> Iterator[ScoredSound]:
    while unfinished and unfinished[0].is_done():
      yield unfinished.popleft()

  with contextlib.ExitStack() as stack:
    bar = stack.enter_context(
      tqdm(
        total=len(sources),
        unit="file",
        desc="sounds",
        bar_format=_BAR,
        delay=1,
        leave=False,
        disable=None,
      )
    )
    for k, (source, items) in enumerate(stack.enter_context(_read_ahead(sources, pieces_of))):
      owner = ScoredSound(source)
      unfinished.append(owner)
      for piece in items:
        if isinstance(piece, UserError):
          owner.error = piece
          break
        if isinstance(piece, Finding):
          owner.findings.append(piece)
          continue
        owner.spans.append((piece.window.start, piece.window.stop))
        waiting.append((owner, piece.window))
        if len(waiting) == size:
          begin(size)
          batches += 1
          if len(running) > 1:  # one is computed while the next is read
            finish()
          bar.update(k + piece.part - bar.n)
          yield from done()
      owner.ended = True
      bar.update(k + 1 - bar.n)
      yield from done()
    if waiting:
      # A single window is the usual case: it gets a program of its own size.
      begin(1 if len(waiting) == 1 and not batches and alone else size)
    while running:
      finish()
    yield from done()


@contextlib.contextmanager
def _read_ahead(
  sources: Iterable[Any], pieces_of: Callable[[Any], Iterable[Piece | Finding]]
) -> Iterator[Iterator[tuple[Any, Iterator[Piece | Finding | UserError]]]]:
  """Gives each source with its pieces, at whose end a UserError may stand."""
  stop = threading.Event()

  def put(line: queue.Queue, item: Any) -> bool:
    while not stop.is_set():
      with contextlib.suppress(queue.Full):
        line.put(item, timeout=0.1)
        return True
    return False

  def read(source: Any, line: queue.Queue) -> None:
    try:
      for piece in pieces_of(source):
        if not put(line, piece):
          return
    except Exception as error:
      put(line, error)
    else:
      put(line, None)

  def taken(line: queue.Queue) -> Any:
    while True:
      signals.raise_if_stopped()
      with contextlib.suppress(queue.Empty):
        return line.get(timeout=0.1)

  def received(line: queue.Queue) -> Iterator[Piece | Finding | UserError]:
    while (item := taken(line)) is not None:
      if isinstance(item, Exception) and not isinstance(item, UserError):
        raise item
      yield item
      if isinstance(item, UserError):
        return

  with ThreadPoolExecutor(READERS, "reader") as pool:

    def started() -> Iterator[tuple[Any, queue.Queue]]:
      for source in sources:
        line: queue.Queue = queue.Queue(AHEAD)
        pool.submit(read, source, line)
        yield source, line

    def given() -> Iterator[tuple[Any, Iterator[Piece | Finding | UserError]]]:
      begun = started()
      lines = collections.deque(itertools.islice(begun, READERS))
      while lines:
        source, line = lines.popleft()
        yield source, received(line)
        lines.extend(itertools.islice(begun, 1))

    try:
      yield given()
    finally:
      stop.set()
