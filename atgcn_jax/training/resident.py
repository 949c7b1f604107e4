"""Clips that are stored in device memory, from which the training step gathers its batch."""

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
CHUNK = 8192  # number of rows that are read and sent to a device at a time


def pack_clips(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Convert a batch to the format in device memory.

  The log-mels have two axes because XLA on a TPU copies a complete array [n, T, F] whenever rows
  are gathered from it.

  Returns:
    The batch with `log_mel` [n, T * F] and `labels` as bits, uint8[n, ⌈K / 8⌉].
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
  """Create arrays with `rows` rows on each device of the mesh, and fill them chunk by chunk.

  Args:
    mesh: The devices.
    rows: Number of rows per device.
    read: Function from (position of a device in the mesh, first, last) to the rows
      first … last - 1 of that device.
  """
  mine: dict[str, list[Array]] = {}
  for place, device in enumerate(mesh.devices.flat):
    if device.process_index != jax.process_index():
      continue
    whole: dict[str, Array] = {}
    for begin in range(0, rows, CHUNK):
      first = max(0, min(begin, rows - CHUNK))  # All chunks have the same length.
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
  """Return the arrays with a chunk written at row `first`, in the same memory."""
  return jax.tree.map(
    lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, first, 0), whole, chunk
  )


def gathering(
  mesh: jax.sharding.Mesh, frames: int, bands: int, classes: int
) -> Callable[[dict[str, Any]], dict[str, Array]]:
  """Return a function that gathers a batch within a jitted step.

  Its argument is a dict with `clips`, the result of `resident`, and `rows` int32[B], split over
  the mesh. Each row number refers to the clips of its own device, so no clip leaves its device.

  Args:
    mesh: The devices.
    frames: Number of frames T.
    bands: Number of bands F.
    classes: Number of labels K.
  """

  def of_one_device(clips, rows):
    own = {name: x.at[rows].get(mode="promise_in_bounds") for name, x in clips.items()}
    own["log_mel"] = own["log_mel"].reshape(-1, frames, bands)
    own["labels"] = jnp.unpackbits(own["labels"], axis=1, count=classes)
    return own

  data = PartitionSpec(sharding.AXES)
  gather = jax.shard_map(of_one_device, mesh=mesh, in_specs=(data, data), out_specs=data)
  # The barrier prevents fusion with later operations, which may change the last bit.
  return lambda inputs: jax.lax.optimization_barrier(gather(inputs["clips"], inputs["rows"]))


def free_bytes(device: jax.Device) -> int | None:
  """Return the free memory of a device in bytes; None if it is unknown.

  For a CPU, this is the available memory of the system.
  """
  memory = device.memory_stats()
  if memory and "bytes_limit" in memory:
    return memory["bytes_limit"] - memory["bytes_in_use"]
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
  except OSError:
    return None
  available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
  return None if available is None or device.platform != "cpu" else int(available) * 1024
