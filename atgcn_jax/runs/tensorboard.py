"""TensorBoard files of scalars, written in the calling thread.

The writer of tensorboardX passes each value to another thread. If the disk is full, that thread
dies and training soon hangs. Here the caller gets the error.
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
  """Open a new file in a folder. It hides records of `purge_step` and later in older files.

  Raises:
    OSError: If the file cannot be made.
  """
  path_of(folder).mkdir(parents=True, exist_ok=True)
  writer = EventsWriter(os.path.join(folder, "events"))
  start = SessionLog(status=SessionLog.START)
  writer.write_event(Event(step=purge_step, wall_time=time.time(), session_log=start))
  return writer


def write_scalars(writer: EventsWriter, values: Mapping[str, float], step: int) -> None:
  """Write named values of a step. `flush` or `close` of the writer writes them to disk.

  Raises:
    OSError: If the values cannot be written.
  """
  for name, value in values.items():
    writer.write_event(Event(step=step, wall_time=time.time(), summary=scalar(name, value)))
