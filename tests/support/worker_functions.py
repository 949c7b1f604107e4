"""Functions that tests run in worker processes. Each worker imports this module, so it is small."""

import os
import signal
import time

from atgcn_jax.errors import UserError


def work(chunk):
  """Return the members of a chunk in tuples of one."""
  if "bad" in chunk:
    raise UserError("bad.wav: is bad; fix it")
  if "killed" in chunk:
    os.kill(os.getpid(), signal.SIGKILL)
  return [(member,) for member in chunk]


def work_and_report(chunk):
  """Return the members of a chunk, each with the devices of JAX and the process."""
  import jax

  if chunk == ["slow"]:
    time.sleep(1)
  return [(member, jax.config.jax_platforms, jax.device_count(), os.getpid()) for member in chunk]


def killed_once(mark, chunk):
  """Kill the first process that calls it, and leave a marker file."""
  if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)
  return list(chunk)


def end():
  """Replacement of the initialiser of a worker."""
  os._exit(1)
