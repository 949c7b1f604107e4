"""One mesh axis, `data`, over all devices: batches are split along it, the state is on each."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def data_mesh(devices=None) -> jax.sharding.Mesh:
  """A mesh with the one axis `data` over these devices (default: all)."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def split(mesh: jax.sharding.Mesh) -> NamedSharding:
  """First axis over the devices."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The whole array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def place(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """Global arrays from this process's slice of the batch, split along the first axis."""
  sharding = split(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}
