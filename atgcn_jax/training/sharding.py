"""Sharding of batches and state over a device mesh with the axes `data` and `label`.

Batches are split over both axes. The state is replicated, or, with fully sharded data parallelism,
each device stores a shard of it and the shards are gathered for use. Logits, and parameters with a
label axis, are split by labels along `label`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "label")
LEAST_TO_SPLIT = 1024  # minimum size of an array that is sharded; smaller ones are not worth it


class Layout(NamedTuple):
  """Layout of the state on the devices: the mesh, and whether the state is fully sharded."""

  mesh: Mesh
  fsdp: bool = False

  @property
  def in_parts(self) -> bool:
    """True if any part of the state is sharded rather than replicated."""
    return self.fsdp or self.mesh.shape["label"] > 1


def data_mesh(devices=None, label_parts: int = 1) -> Mesh:
  """Return a mesh of devices.

  The devices of a process are adjacent in the mesh, so that each process has one contiguous slice
  of a batch.

  Args:
    devices: The devices. Defaults to all devices.
    label_parts: Size of the axis `label`.

  Raises:
    ValueError: If the number of devices is not a multiple of `label_parts`.
  """
  devices = jax.devices() if devices is None else devices
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  grid = np.array(ordered).reshape(-1, label_parts)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def split(mesh: Mesh) -> NamedSharding:
  """Return the sharding that splits the first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding that replicates an array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def by_label(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays [B, K] that splits clips over `data` and labels over `label`."""
  return NamedSharding(mesh, PartitionSpec(*AXES))


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Return global arrays, split along the first axis, from this process's slice of the batch."""
  sharding = split(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Replicate arrays on every device. Arrays that are replicated already are returned unchanged."""
  return jax.device_put(tree, replicated(mesh))


def where_used(mesh: Mesh, tree: Any, classes: int) -> Any:
  """Return the shardings of parameters where a step uses them.

  Parameters are replicated, except that the label axis of parameters of the head is split.

  Args:
    mesh: The devices.
    tree: Tree of arrays or their shapes. Arrays under the key `head` may have a label axis.
    classes: Number of labels. A label axis that cannot be split into equal parts is not split.
  """

  def of(path, x):
    return NamedSharding(mesh, PartitionSpec(*_label_spec(mesh, path, x.shape, classes)))

  return jax.tree.map_with_path(of, tree)


def where_kept(layout: Layout, tree: Any, classes: int) -> Any:
  """Return the shardings of a training state, or a part of it, between steps.

  With full sharding, an array is split along its longest axis that can be split.

  Args:
    layout: Layout of the state.
    tree: As for `where_used`.
    classes: As for `where_used`.
  """
  mesh = layout.mesh

  def of(path, x):
    spec = _label_spec(mesh, path, x.shape, classes)
    if layout.fsdp and x.size >= LEAST_TO_SPLIT:
      axes = AXES[:1] if AXES[1] in spec else AXES
      parts = int(np.prod([mesh.shape[axis] for axis in axes]))
      free = [i for i, n in enumerate(x.shape) if spec[i] is None and n % parts == 0]
      if free:
        spec[max(free, key=lambda i: x.shape[i])] = axes
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree.map_with_path(of, tree)


def _label_spec(mesh: Mesh, path, shape: tuple[int, ...], classes: int) -> list[Any]:
  spec: list[Any] = [None] * len(shape)
  parts = mesh.shape[AXES[1]]
  of_head = any(getattr(key, "key", None) == "head" for key in path)
  if parts > 1 and of_head and classes % parts == 0 and classes in shape:
    last = len(shape) - 1 - shape[::-1].index(classes)
    spec[last] = AXES[1]
  return spec
