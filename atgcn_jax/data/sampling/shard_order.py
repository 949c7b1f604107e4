"""Order of clips that are stored in shards, for sequential reading.

Like the order of `clip_order`, it is a function of (seed, step). A run can resume at any step
without reading earlier clips.

Each pass shuffles the shards and cuts the sequence of their clips into LANES lanes of equal length.
Each batch takes the same number of clips from every lane. A batch therefore mixes clips of several
shards, and a process that needs a slice of every batch reads only a few lanes. A lane is shuffled
within windows of WINDOW clips. The windows of different lanes end at different steps, which spreads
the reads evenly. The remainder at the end of the sequence, less than a batch, comes last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from atgcn_jax.data.sampling.clip_order import SHARDS, WITHIN_WINDOW, hash_words, permuted

LANES = 16
WINDOW = 256


def shard_order(
  clips: np.ndarray, shard_starts: np.ndarray, seed: int, batch: int
) -> Callable[[int], np.ndarray]:
  """Return a function from a step to its clips int64[batch]. Each pass has every clip once.

  Args:
    clips: int64[M], the clips to draw from, ascending.
    shard_starts: int64[S + 1], the first clip of each shard, and the number of all clips.
    seed: Seed of the order.
    batch: Number of clips per step.

  Raises:
    ValueError: If there are no clips.
  """
  if not len(clips):
    raise ValueError("no clips to draw from")

  @functools.lru_cache(maxsize=4)
  def row(pass_number: int) -> np.ndarray:
    """Return the clips of a pass, shard after shard."""
    shards = len(shard_starts) - 1
    key = np.full(shards, hash_words(seed, SHARDS, pass_number))
    order = permuted(np.arange(shards), np.full(shards, shards), key)
    begins = np.searchsorted(clips, shard_starts)
    return np.concatenate([clips[begins[shard] : begins[shard + 1]] for shard in order])

  def clips_of(step: int) -> np.ndarray:
    passes, places = np.divmod(np.arange(step * batch, (step + 1) * batch), len(clips))
    drawn = np.empty(batch, np.int64)
    for pass_number in np.unique(passes):
      here = passes == pass_number
      shuffled = _in_lanes(places[here], len(clips), batch, seed, int(pass_number))
      drawn[here] = row(int(pass_number))[shuffled]
    return drawn

  return clips_of


def _in_lanes(
  places: np.ndarray, total: int, batch: int, seed: int, pass_number: int
) -> np.ndarray:
  """Map places int64[n] in the order of a pass to positions in its sequence of `total` clips."""
  lanes = math.gcd(batch, LANES)
  together = batch // lanes  # number of clips that a batch takes from a lane
  length = total // batch * together
  in_lane = places < lanes * length
  lane = np.where(in_lane, places // together % lanes, lanes)  # The remainder is an extra lane.
  offset = np.where(
    in_lane, places // batch * together + places % together, places - lanes * length
  )
  size = np.where(in_lane, length, total - lanes * length)
  ahead = lane * WINDOW // lanes
  window = (offset + ahead) // WINDOW
  first = np.maximum(window * WINDOW - ahead, 0)
  last = np.minimum((window + 1) * WINDOW - ahead, size)
  key = hash_words(seed, WITHIN_WINDOW, pass_number, lane, window)
  return lane * length + first + permuted(offset - first, last - first, key)
