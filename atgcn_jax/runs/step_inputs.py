"""Inputs of training steps: batches read by the host, or row numbers of clips on the devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from atgcn_jax.data.pipeline import Share, batches
from atgcn_jax.data.sampling import clip_order, device_shares
from atgcn_jax.data.sampling.shard_order import shard_order
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.training import resident, sharding

PLACEMENTS = ("host", "device")


class Feed(NamedTuple):
  """The inputs of a training.

  Attributes:
    given: An iterator over the input of each step.
    batch_of: A function that turns an input into a batch, on the devices.
  """

  given: Iterator[Any]
  batch_of: Callable[[Any], dict[str, jax.Array]]


def feed_of(
  store: ClipStore,
  clips: np.ndarray,
  mesh: jax.sharding.Mesh,
  steps: range,
  batch: int,
  seed: int,
  *,
  balanced: bool,
  placement: str,
) -> Feed:
  """Return the feed of a run.

  Args:
    store: The store.
    clips: int64[N], the numbers of the training clips.
    mesh: The device mesh.
    steps: The steps to feed.
    batch: The number of clips per step.
    seed: The seed of the run.
    balanced: Whether all classes are drawn equally often.
    placement: One of PLACEMENTS.

  Raises:
    UserError: If the training folds have no clip to draw, or too many for the memory of the
      devices.
  """
  feed = device_feed if placement == "device" else host_feed
  try:
    return feed(store, clips, mesh, steps, batch, seed, balanced=balanced)
  except ValueError as error:
    raise UserError(f"data.train_folds: {store.path}: {error}; name other folds") from error


def host_feed(
  store: ClipStore,
  clips: np.ndarray,
  mesh: jax.sharding.Mesh,
  steps: range,
  batch: int,
  seed: int,
  *,
  balanced: bool,
) -> Feed:
  """Return a feed of batches that the host reads ahead, shard by shard if the store requires it.

  Raises:
    ValueError: If there is no clip to draw.
  """
  if store.shard_starts is not None:
    clips_of = shard_order(clips, store.shard_starts, seed, batch)
  elif balanced:
    sampler = clip_order.balanced_sampler(clips, *store.labels_of(clips), seed)
    clips_of = clip_order.drawer(sampler, batch)
  else:
    clips_of = clip_order.drawer(clip_order.shuffled_sampler(clips, seed), batch)
  share = Share(jax.process_index(), jax.process_count())
  read = batches(store, clips_of, steps.start, steps.stop, share)
  return Feed((sharding.place(loaded, mesh) for loaded in read), lambda given: given)


def device_feed(
  store: ClipStore,
  clips: np.ndarray,
  mesh: jax.sharding.Mesh,
  steps: range,
  batch: int,
  seed: int,
  *,
  balanced: bool,
) -> Feed:
  """Return a feed of row numbers into clips that stay in the memory of the devices.

  Each device has a part of the clips. The clips are placed by this call, unless `steps` is empty.

  Raises:
    UserError: If there are too many clips for the memory.
    ValueError: If there is no clip to draw.
  """
  offsets, labels = store.labels_of(clips)
  dealt = [
    clips[own] for own in device_shares.deal(offsets, labels, mesh.size, seed, balanced=balanced)
  ]
  rows = max(map(len, dealt))
  check_memory(store, rows, mesh)
  own_batch, share = batch // mesh.size, clip_order.unlabelled_share(offsets)

  def sampler_of(part: int) -> clip_order.Sampler:
    own = dealt[part]
    return device_shares.part_sampler(
      store, own, part, mesh.size, seed, balanced=balanced, share=share
    )

  clips_of = {
    part: clip_order.drawer(sampler_of(part), own_batch)
    for part, device in enumerate(mesh.devices.flat)
    if device.process_index == jax.process_index()
  }

  def rows_of(step: int) -> jax.Array:
    def of_one_device(where: Any) -> np.ndarray:
      return clips_of[(where[0].start or 0) // own_batch](step).astype(np.int32)

    return jax.make_array_from_callback((batch,), sharding.split(mesh), of_one_device)

  placed = place_clips(store, dealt, rows, mesh) if len(steps) else {}
  _, frames, bands = store.log_mel.shape
  given = ({"clips": placed, "rows": rows_of(step)} for step in steps)
  return Feed(given, resident.gathering(mesh, frames, bands, len(store.vocabulary)))


def place_clips(
  store: ClipStore, dealt: list[np.ndarray], rows: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """Place the parts of a store in the memory of the devices.

  Parts with fewer than `rows` clips are padded with their last clip.
  """
  here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
  with tqdm(total=here * rows, unit="clip", unit_scale=True, desc="placing", disable=None) as bar:

    def read(part: int, first: int, last: int) -> dict[str, np.ndarray]:
      own = dealt[part]
      bar.update(last - first)
      return resident.pack_clips(store.read(own[np.minimum(np.arange(first, last), len(own) - 1)]))

    return resident.resident(mesh, rows, read)


def check_memory(store: ClipStore, rows: int, mesh: jax.sharding.Mesh) -> None:
  """Refuse clips that do not fit into the memory of the devices.

  Args:
    store: The store.
    rows: The number of clips per device.
    mesh: The device mesh.

  Raises:
    UserError: If the memory is too small. The message has the required and the free bytes.
  """
  local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
  clip = resident.pack_clips(store.read(np.zeros(1, np.int64)))
  needed = rows * sum(array.nbytes for array in clip.values())
  shared = len(local) if local[0].platform == "cpu" else 1  # CPU devices share the host memory
  free = [(free, device) for device in local if (free := resident.free_bytes(device)) is not None]
  for bytes_free, device in free:
    if needed * shared > bytes_free:
      raise UserError(
        f"data.placement: {rows * shared} clips of {store.path} need {needed * shared:,} bytes on "
        f"{device.device_kind}, but only {bytes_free:,} are free; use more devices or "
        "data.placement=host"
      )
