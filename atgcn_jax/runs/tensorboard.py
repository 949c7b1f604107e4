"""TensorBoard files of scalars, written by the one who asks.

tensorboardX's own writer hands each value to a thread; where the disk is full that thread dies, and
soon after the training waits for it for ever. Here the training is told.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from atgcn_jax.runtime.buckets import path_of


def open_scalars(folder: str | os.PathLike, purge_step: int) -> EventsWriter:
  """A new file in a folder; what others there have of `purge_step` and beyond is not shown.

  Raises:
    OSError: If it cannot be made.
  """
  path_of(folder).mkdir(parents=True, exist_ok=True)
  writer = EventsWriter(os.path.join(folder, "events"))
  start = SessionLog(status=SessionLog.START)
  writer.write_event(Event(step=purge_step, wall_time=time.time(), session_log=start))
  return writer


def write_scalars(writer: EventsWriter, values: Mapping[str, float], step: int) -> None:
  """Write named values of a step; they reach the disk with the writer's `flush`, or `close`.

  Raises:
    OSError: If they cannot be written.
  """
  for name, value in values.items():
    writer.write_event(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
