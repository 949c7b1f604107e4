"""Windows of many sounds, read in threads and scored in batches of a fixed size."""

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

READERS = min(4, os.cpu_count() or 1)  # number of sounds read at the same time
AHEAD = 8  # maximum number of waiting windows per sound
# Number of batches after which windows no longer wait for others of their length. Results are in
# order, so a sound of a rare length would hold up all others.
PATIENCE = 32
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


class Piece(NamedTuple):
  """A window, and the share of its sound, up to 1, that has been read at its end."""

  window: Window
  part: float


@dataclasses.dataclass
class Group:
  """Waiting windows of one length with their sounds, and the number of batches before the first."""

  since: int
  waiting: list[tuple[ScoredSound, Window]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class ScoredSound:
  """The result of a sound: the positions and values of its windows, or an error.

  Attributes:
    source: The source of the sound.
    spans: The start and the end of each window, in samples.
    values: The values of each window.
    error: The reason why the sound cannot be used, or None.
    ended: Whether the sound has been read to its end.
    findings: Problems of a sound that was used.
  """

  source: Any
  spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)
  values: list[np.ndarray] = dataclasses.field(default_factory=list)
  error: UserError | None = None
  ended: bool = False
  findings: list[Finding] = dataclasses.field(default_factory=list)

  def is_done(self) -> bool:
    """Return whether the result is complete."""
    return self.ended and (self.error is not None or len(self.values) == len(self.spans))


def scored(
  sources: Sequence[Any],
  pieces_of: Callable[[Any], Iterable[Piece | Finding]],
  score: Callable[[np.ndarray], Any],
  size: int,
  *,
  alone: bool = True,
) -> Iterator[ScoredSound]:
  """Yield the result of each sound, in order, as soon as it is complete.

  READERS sounds are read at a time, each in its own thread, while the device computes. Windows of
  different sounds share a batch if they have the same length. On a terminal, a progress bar appears
  after one second.

  Args:
    sources: The sources of the sounds.
    pieces_of: A function that reads a sound and yields its pieces and findings. It is called in a
      thread. A UserError only ends this sound.
    score: A function from windows float32[size, S] to values [size, ...] on the device, for each
      length S. It must not wait for the values. If there is only one window in total, it gets
      [1, S].
    size: The number of windows per batch.
    alone: Whether these are all the sounds. If False, a single window is also scored in a batch of
      `size`, so that it gets the same bits as among other windows.
  """
  unfinished: collections.deque[ScoredSound] = collections.deque()
  groups: dict[int, Group] = {}  # by length
  running: collections.deque[tuple[list[ScoredSound], Any]] = collections.deque()
  batches = 0

  def begin(length: int, size: int) -> None:
    nonlocal batches
    waiting = groups.pop(length).waiting
    windows = np.stack([window.waveform for _, window in waiting])
    windows = np.pad(windows, ((0, size - len(windows)), (0, 0)))
    running.append(([owner for owner, _ in waiting], score(windows)))
    batches += 1
    if len(running) > 1:  # one batch is computed while the next one is read
      finish()

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
        length = len(piece.window.waveform)
        group = groups.setdefault(length, Group(batches))
        group.waiting.append((owner, piece.window))
        if len(group.waiting) == size:
          begin(length, size)
          for overdue in [n for n, other in groups.items() if batches > other.since + PATIENCE]:
            begin(overdue, size)
          bar.update(k + piece.part - bar.n)
          yield from done()
      owner.ended = True
      bar.update(k + 1 - bar.n)
      yield from done()
    # A single window is the most common case, so it is compiled for its own size.
    single = alone and not batches and sum(len(group.waiting) for group in groups.values()) == 1
    for length in list(groups):
      begin(length, 1 if single else size)
    while running:
      finish()
    yield from done()


@contextlib.contextmanager
def _read_ahead(
  sources: Iterable[Any], pieces_of: Callable[[Any], Iterable[Piece | Finding]]
) -> Iterator[Iterator[tuple[Any, Iterator[Piece | Finding | UserError]]]]:
  """Yield an iterator over each source and its pieces. The last piece may be a UserError."""
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

    def in_order() -> Iterator[tuple[Any, Iterator[Piece | Finding | UserError]]]:
      reading = started()
      lines = collections.deque(itertools.islice(reading, READERS))
      while lines:
        source, line = lines.popleft()
        yield source, received(line)
        lines.extend(itertools.islice(reading, 1))

    try:
      yield in_order()
    finally:
      stop.set()
