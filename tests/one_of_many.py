"""Run as one process of many: what the training step computes there, written by the first.

python one_of_many.py OUT COORDINATOR PROCESSES INDEX
"""

import pickle
import sys

import jax
from narrow_system import trained

from atgcn_jax.runs.processes import Pulse, first_only, gathered, host_names, is_first, join
from atgcn_jax.training.sharding import Layout, data_mesh


def computed() -> dict:
  whole, parts = Layout(data_mesh()), Layout(data_mesh(label_parts=2), fsdp=True)
  results = {
    "first": trained(whole, 1, "authors", "float32", record=True),
    "first_in_parts": trained(parts, 1, "authors", "float32", record=True),
  }
  with jax.enable_x64(True):
    results["twenty"] = trained(whole, 20, "authors", "float64", record=False)
  return results


def talked() -> dict:
  """What the processes know of each other."""
  pulse, index = Pulse(data_mesh(), 2), jax.process_index()
  beats = [pulse.beat([index, step]).tolist() for step in range(3)]
  me = jax.numpy.zeros(1, "int32") + index
  return {
    "beats": beats,
    "gathered": gathered(jax.device_get(me)).tolist(),
    "told": first_only(lambda: {"index": index}),
    "hosts": len(host_names()),
    "processes": [device.process_index for device in data_mesh().devices.flat],
  }


if __name__ == "__main__":
  out, coordinator, processes, index = sys.argv[1:]
  join(coordinator, int(processes), int(index))
  results = {**talked(), **computed()}
  if is_first():
    with open(out, "wb") as file:
      pickle.dump(results, file)
