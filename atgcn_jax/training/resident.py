"""Clips that lie in the memory of the devices, from which a step gathers its own batch."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, SingleDeviceSharding

from atgcn_jax.training import sharding

Array = jax.Array
CHUNK = 8192  # rows that are read and sent to a device at once


def pack_clips(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """A batch as it is kept: `log_mel` [n, T * F], and the labels as bits, uint8[n, ⌈K / 8⌉].

  In two axes, because of [n, T, F] XLA makes a whole copy on a TPU whenever rows are gathered.
  """
  rows = dict(batch)
  rows["log_mel"] = rows["log_mel"].reshape(len(rows["log_mel"]), -1)
  rows["labels"] = np.packbits(rows["labels"], axis=1)
  return rows


def resident(
  mesh: jax.sharding.Mesh,
  rows: int,
  read: Callable[[int, int, int], Mapping[str, np.ndarray]],
) -> dict[str, Array]:
  """Arrays with so many rows on each device of the mesh, which are filled chunk by chunk.

  Args:
    read: (a device's place in the mesh, first, last) → its rows first … last - 1.
  """
  mine: dict[str, list[Array]] = {}
  for place, device in enumerate(mesh.devices.flat):
    if device.process_index != jax.process_index():
      continue
    whole: dict[str, Array] = {}
    for begin in range(0, rows, CHUNK):
      first = max(0, min(begin, rows - CHUNK))  # all chunks are of one length
      chunk = jax.device_put(read(place, first, min(first + CHUNK, rows)), device)
      whole = _written(whole or _empty(chunk, rows, device), chunk, first)
    jax.block_until_ready(whole)
    for name, array in whole.items():
      mine.setdefault(name, []).append(array)
  return {
    name: jax.make_array_from_single_device_arrays(
      (mesh.size * rows, *arrays[0].shape[1:]), sharding.split(mesh), arrays
    )
    for name, arrays in mine.items()
  }


def _empty(chunk: Mapping[str, Array], rows: int, device: jax.Device) -> dict[str, Array]:
  def zeros():
    return {name: jnp.zeros((rows, *x.shape[1:]), x.dtype) for name, x in chunk.items()}

  return jax.jit(zeros, out_shardings=SingleDeviceSharding(device))()


@jax.jit(donate_argnums=0)
def _written(whole: Any, chunk: Any, first: Any) -> Any:
  """The arrays with this chunk in its place, in the same memory."""
  return jax.tree.map(
    lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, first, 0), whole, chunk
  )


def gathering(
  mesh: jax.sharding.Mesh, frames: int, bands: int, classes: int
) -> Callable[[dict[str, Any]], dict[str, Array]]:
  """The function, for within a jitted step, of `clips` and `rows` to the batch of these rows.

  `clips` are `resident`; `rows` int32[B], split over the mesh, are each device's own row numbers
  in its own part, so that no clip leaves its device.
  """

  def of_one_device(clips, rows):
    own = {name: x.at[rows].get(mode="promise_in_bounds") for name, x in clips.items()}
    own["log_mel"] = own["log_mel"].reshape(-1, frames, bands)
    own["labels"] = jnp.unpackbits(own["labels"], axis=1, count=classes)
    return own

  data = PartitionSpec(sharding.AXES)
  gather = jax.shard_map(of_one_device, mesh=mesh, in_specs=(data, data), out_specs=data)
  # Without the barrier the gather may be fused with what follows, which may change the last bit.
  return lambda given: jax.lax.optimization_barrier(gather(given["clips"], given["rows"]))


def free_bytes(device: jax.Device) -> int | None:
  """The memory that a device has left; of a CPU what its system has; None where nobody tells."""
  memory = device.memory_stats()
  if memory and "bytes_limit" in memory:
    return memory["bytes_limit"] - memory["bytes_in_use"]
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
  except OSError:
    return None
  told = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
  return None if told is None or device.platform != "cpu" else int(told) * 1024
