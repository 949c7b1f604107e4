"""Order of clips in shards: once per pass, a function of the step, few shards per process."""

import numpy as np
import pytest

from atgcn_jax.data.pipeline import Share
from atgcn_jax.data.sampling.shard_order import LANES, shard_order

#         clips, shards, batch
SIZES = [(23, 3, 8), (1000, 7, 64), (5, 2, 16), (997, 1, 12), (4096, 40, 64), (1, 1, 4)]


def starts_of(clips, shards):
  """Return the starts of shards of unequal lengths, some of them without a clip to draw."""
  inner = np.random.default_rng(clips).choice(np.arange(clips + 1), shards - 1)
  return np.concatenate([[0], np.sort(inner), [clips]])


def drawn_in(order, steps):
  return np.concatenate([order(step) for step in range(steps)])


@pytest.mark.parametrize(("clips", "shards", "batch"), SIZES)
@pytest.mark.parametrize("share_drawn", [1.0, 0.7])
def test_every_clip_comes_once_per_pass(clips, shards, batch, share_drawn):
  chosen = np.flatnonzero(np.random.default_rng(7).random(clips) < share_drawn)
  chosen = chosen if len(chosen) else np.array([0])
  order = shard_order(chosen, starts_of(clips, shards), 5, batch)
  passes = drawn_in(order, 3 * len(chosen) // batch + 1)[: 3 * len(chosen)].reshape(3, -1)
  for one in passes:
    np.testing.assert_array_equal(np.sort(one), chosen)
  if len(chosen) > 10:
    assert len({tuple(one) for one in passes}) == 3


def test_the_order_is_a_function_of_seed_and_step():
  clips, starts = np.arange(1000), starts_of(1000, 7)
  steps = list(range(40))
  first = [shard_order(clips, starts, 3, 64)(step) for step in steps]
  again = shard_order(clips, starts, 3, 64)
  for step in reversed(steps):
    np.testing.assert_array_equal(again(step), first[step])
  assert (shard_order(clips, starts, 4, 64)(0) != first[0]).any()


def test_a_distant_step_is_computed_directly():
  order = shard_order(np.arange(1000), starts_of(1000, 7), 3, 64)
  assert len(np.unique(order(10**9))) == 64


def test_adjacent_clips_are_drawn_apart():
  order = shard_order(np.arange(4096), starts_of(4096, 8), 0, 64)
  drawn = drawn_in(order, 64)
  assert (np.abs(np.diff(drawn)) == 1).mean() < 0.02


def test_a_batch_mixes_many_shards_and_a_process_reads_few():
  clips, starts = np.arange(64 * 256), np.arange(65) * 256
  order = shard_order(clips, starts, 1, 64)
  assert all(len(np.unique(order(step) // 256)) >= LANES // 2 for step in range(256))
  touched = [
    len({shard for step in range(256) for shard in Share(i, 4).of(order(step)) // 256})
    for i in range(4)
  ]
  assert sum(touched) <= 64 + 2 * LANES  # each shard by one process, those at boundaries by two


def test_a_pass_reads_the_shards_in_sequence():
  clips, starts = np.arange(64 * 256), np.arange(65) * 256
  order = shard_order(clips, starts, 1, 64)
  seen = [set(np.unique(order(step) // 256)) for step in range(256)]
  for shard in range(64):
    steps = [step for step, shards in enumerate(seen) if shard in shards]
    assert steps[-1] - steps[0] < 3 * 64  # 64 steps read one shard of each lane


def test_no_clips():
  with pytest.raises(ValueError, match="no clips"):
    shard_order(np.zeros(0, np.int64), np.array([0, 3]), 0, 8)
