"""How batches and state lie on the devices: a mesh of the axes `data` and `label`.

Batches are split over both axes. The state is on every device, or (fully sharded data parallelism)
each device keeps a part of it and the parts are gathered where they are used. Along `label` the
logits, and the parameters that have a row a label, are split by labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "label")
LEAST_TO_SPLIT = 1024  # numbers; the parts of fewer are not worth gathering


class Layout(NamedTuple):
  """How the state lies on the devices: the mesh, and whether each keeps but a part of it."""

  mesh: Mesh
  fsdp: bool = False

  @property
  def in_parts(self) -> bool:
    """Whether not all of the state is whole on every device."""
    return self.fsdp or self.mesh.shape["label"] > 1


def data_mesh(devices=None, label_parts: int = 1) -> Mesh:
  """A mesh of these devices (default: all), the labels falling into so many parts.

  The devices of a process are neighbours in it, so that each has one slice of a batch.

  Raises:
    ValueError: if the devices do not make whole rows of `label_parts`.
  """
  devices = jax.devices() if devices is None else devices
  ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
  grid = np.array(ordered).reshape(-1, label_parts)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def split(mesh: Mesh) -> NamedSharding:
  """First axis over the devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on each device."""
  return NamedSharding(mesh, PartitionSpec())


def by_label(mesh: Mesh) -> NamedSharding:
  """Arrays [B, K], the labels in parts."""
  return NamedSharding(mesh, PartitionSpec(*AXES))


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """Global arrays from this process's slice of the batch, split along the first axis."""
  sharding = split(mesh)
  return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
  """These arrays, whole on every device; those that are so already are returned as they are."""
  return jax.device_put(tree, replicated(mesh))


def where_used(mesh: Mesh, tree: Any, classes: int) -> Any:
  """Shardings of the parameters in a step: whole, but for the label axis of those of the head.

  Args:
    tree: of arrays or their shapes; under the key `head` lie those that may have a label axis.
    classes: how many labels there are. An axis that does not fall into equal parts stays whole.
  """

  def of(path, x):
    return NamedSharding(mesh, PartitionSpec(*_label_spec(mesh, path, x.shape, classes)))

  return jax.tree.map_with_path(of, tree)


def where_kept(layout: Layout, tree: Any, classes: int) -> Any:
  """Shardings of a training state, or a part of it, between steps; arguments are `where_used`'s.

  Fully sharded, an array falls into parts along its longest axis that can be split.
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
