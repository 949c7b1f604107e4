"""Run the training step in one of several processes. Process 0 writes the results.

python one_of_many.py FOLDER COORDINATOR PROCESSES INDEX
"""

import pathlib
import pickle
import sys
from typing import Any

import jax
import numpy as np
from narrow_system import trained
from runs_support import tiny_config

from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.runs.step_inputs import PLACEMENTS, feed_of
from atgcn_jax.runtime.processes import (
  Pulse,
  first_only,
  gather_over_processes,
  host_names,
  is_first,
  join,
  whole,
)
from atgcn_jax.training.sharding import Layout, data_mesh


def computed() -> dict:
  plain, parts = Layout(data_mesh()), Layout(data_mesh(label_parts=2), fsdp=True)
  results = {
    "first": trained(plain, 1, "authors", "float32", record=True),
    "first_in_parts": trained(parts, 1, "authors", "float32", record=True),
  }
  with jax.enable_x64(True):
    results["twenty"] = trained(plain, 20, "authors", "float64", record=False)
  return results


def talked() -> dict:
  """Return the results of the communication between processes."""
  pulse, index = Pulse(data_mesh(), 2), jax.process_index()
  beats = [pulse.beat([index, step]).tolist() for step in range(3)]
  me = jax.numpy.zeros(1, "int32") + index
  return {
    "beats": beats,
    "gathered": gather_over_processes(jax.device_get(me)).tolist(),
    "reported": first_only(lambda: {"index": index}),
    "hosts": len(host_names()),
    "processes": [device.process_index for device in data_mesh().devices.flat],
  }


def fed(folder: pathlib.Path) -> dict[str, list[Any]]:
  """Return the complete batches of the first steps on the tiny store, by placement."""
  folder, batches = folder / f"of-{jax.process_index()}", {}  # each process has its own folder
  folder.mkdir(exist_ok=True)
  store = open_store(tiny_config(folder).data.store)
  clips = np.arange(0, len(store), 2)
  for placement in PLACEMENTS:
    feed = feed_of(store, clips, data_mesh(), range(30), 8, 3, balanced=True, placement=placement)
    steps = [jax.jit(feed.batch_of)(next(feed.given)) for _ in range(3)]
    batches[placement] = [{name: whole(array) for name, array in step.items()} for step in steps]
  return batches


if __name__ == "__main__":
  folder, coordinator, processes, index = sys.argv[1:]
  join(coordinator, int(processes), int(index))
  results = {**talked(), **computed(), "fed": fed(pathlib.Path(folder))}
  if is_first():
    with open(pathlib.Path(folder) / "out.pickle", "wb") as file:
      pickle.dump(results, file)
