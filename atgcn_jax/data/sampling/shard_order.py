"""The order of clips that lie in shards which are read one after another.

It is a function of (seed, step), as that of `sampling` is, so a run is resumed at any step without
reading what came before: the shards of a step follow from their lengths.

A pass puts the shards in an order of its own, and cuts the row of their clips into LANES lanes of
equal length. Each batch takes equally many clips from every lane, so it mixes clips of as many
shards, and a process that needs a slice of every batch reads few lanes. A lane is shuffled within
windows of WINDOW clips, which end in turns, so that what is to be read comes evenly. Less than a
batch is left over at the end of the row, and comes last.
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
  """Step → its clips int64[batch]; every clip comes once a pass.

  Args:
    clips: int64[M], the clips to draw from, ascending.
    shard_starts: int64[S + 1], the first clip of each shard, and how many clips there are.
  Raises:
    ValueError: if there are no clips.
  """
  if not len(clips):
    raise ValueError("no clips to draw from")

  @functools.lru_cache(maxsize=4)
  def row(pass_number: int) -> np.ndarray:
    """The clips of a pass, shard after shard."""
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
  """Where in a pass's row of `total` clips those lie that come at some places int64[n] of it."""
  lanes = math.gcd(batch, LANES)
  together = batch // lanes  # clips that a batch takes from a lane
  length = total // batch * together
  in_lane = places < lanes * length
  lane = np.where(in_lane, places // together % lanes, lanes)  # the rest counts as one lane more
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
