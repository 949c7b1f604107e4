"""Order of clips: keyed permutations, passes, rounds over classes, shares."""

import zlib
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from atgcn_jax.data.pipeline import Share
from atgcn_jax.data.sampling import clip_order

# Six classes, two of them without a clip. Clip 100 + i has the labels LABELS[i].
LABELS = [[0], [0, 2], [], [2, 3], [5], [0, 5], [], [5], [5], [3], [0]]
CLIPS = np.arange(100, 100 + len(LABELS))
WITH_CLIPS = (0, 2, 3, 5)
UNLABELLED = (102, 106)
LABELLED = [row for row in LABELS if row], CLIPS[[bool(row) for row in LABELS]]


def permutations(size, keys):
  index, key = np.tile(np.arange(size), len(keys)), np.repeat(np.asarray(keys, np.uint32), size)
  return clip_order.permuted(index, np.full(len(index), size), key).reshape(-1, size)


def balanced(seed=0, labels=LABELS, clips=CLIPS):
  offsets = np.cumsum([0, *map(len, labels)])
  flat = np.array([label for row in labels for label in row], np.int64)
  return clip_order.balanced_sampler(clips, offsets, flat, seed)


def drawn(sampler, batch, steps):
  return np.concatenate([clip_order.draw(sampler, step, batch) for step in range(steps)])


def test_a_permutation_holds_every_index_once():
  for size in (*range(1, 301), 1000, 4095, 4096, 4097, 65537):
    orders = permutations(size, (0, 1, 0xFFFFFFFF))
    assert (np.sort(orders, axis=1) == np.arange(size)).all(), size


def test_indices_of_many_sizes_and_keys_at_once():
  sizes = np.array([1, 2, 3, 7, 1000, 2**31])
  index = np.array([0, 1, 1, 3, 999, 2**31 - 1])
  keys = np.array([5, 6, 7, 8, 9, 10], np.uint32)
  alone = [clip_order.permuted(*(x[i : i + 1] for x in (index, sizes, keys)))[0] for i in range(6)]
  np.testing.assert_array_equal(clip_order.permuted(index, sizes, keys), alone)
  assert (np.array(alone) < sizes).all()


def test_different_keys_give_different_orders():
  assert len(np.unique(permutations(40, range(500)), axis=0)) == 500


@pytest.mark.parametrize("size", [3, 5, 8, 13])
def test_all_positions_are_equally_likely(size):
  keys = 4000
  counts = np.zeros((size, size))
  orders = permutations(size, clip_order.hash_words(77, np.arange(keys)))
  np.add.at(counts, (np.tile(np.arange(size), keys), orders.ravel()), 1)
  # Rows and columns sum to `keys`, so the table has (size - 1)² degrees of freedom.
  statistic = ((counts - keys / size) ** 2 / (keys / size)).sum()
  assert stats.chi2.sf(statistic, (size - 1) ** 2) > 1e-4


def test_orders_of_four_are_equally_likely():
  orders = permutations(4, clip_order.hash_words(5, np.arange(6000)))
  seen, counts = np.unique(orders, axis=0, return_counts=True)
  assert len(seen) == 24
  assert stats.chisquare(counts).pvalue > 1e-4


def test_the_orders_are_frozen():
  """Runs are resumed across versions, so these numbers must never change."""
  assert int(clip_order.hash_words(1, 2, 3)) == 3053600446
  assert permutations(10, [7]).tolist() == [[8, 1, 6, 2, 0, 9, 4, 5, 7, 3]]
  shuffled = clip_order.shuffled_sampler(np.arange(1000), seed=3)
  assert clip_order.draw(shuffled, 0, 6).tolist() == [25, 920, 496, 271, 694, 575]
  assert clip_order.draw(shuffled, 600_000, 6).tolist() == [761, 235, 265, 633, 194, 636]
  labelled = balanced(3, *LABELLED)
  assert clip_order.draw(labelled, 0, 6).tolist() == [100, 103, 105, 109, 101, 103]
  assert clip_order.draw(labelled, 600_000, 6).tolist() == [103, 101, 107, 100, 109, 103]


def test_long_orders_of_many_classes_are_frozen():
  sizes = np.arange(1, 60) ** 2 % 97 + 1
  clips = np.arange(sizes.sum())
  one_label_each = np.arange(len(clips) + 1), np.repeat(np.arange(59), sizes)
  for sampler, promised in (
    (clip_order.balanced_sampler(clips, *one_label_each, 11), 3370747343),
    (clip_order.shuffled_sampler(clips, 11), 3284817837),
  ):
    assert zlib.crc32(drawn(sampler, 64, 200).astype("<i8").tobytes()) == promised


@pytest.mark.parametrize("batch", [1, 48, 64, 5000])
@pytest.mark.parametrize("make", [balanced, lambda seed: clip_order.shuffled_sampler(CLIPS, seed)])
def test_drawing_many_steps_at_once_gives_the_same_clips(make, batch):
  sampler = make(4)
  clips_of = clip_order.drawer(sampler, batch)
  for step in (0, 1, 63, 64, 65, 600_000, 10_000_000, 64):
    np.testing.assert_array_equal(clips_of(step), clip_order.draw(sampler, step, batch))


def test_a_permutation_does_not_change_its_arguments():
  index, size, key = np.arange(5), np.full(5, 5), np.zeros(5, np.uint32)
  clip_order.permuted(index, size, key)
  np.testing.assert_array_equal(index, np.arange(5))
  np.testing.assert_array_equal(size, 5)


@pytest.mark.parametrize("batch", [1, 4, 11, 16])
def test_a_pass_has_each_clip_once(batch):
  sampler = clip_order.shuffled_sampler(CLIPS, seed=1)
  passes = drawn(sampler, batch, 11).reshape(-1, len(CLIPS))
  assert (np.sort(passes, axis=1) == CLIPS).all()
  assert len(np.unique(passes, axis=0)) == len(passes)


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_round_visits_every_class_with_clips_once(batch):
  sampler = balanced()
  draws = drawn(sampler, batch, 80)
  of_classes = draws[~np.isin(draws, UNLABELLED)]
  rounds = of_classes[: len(of_classes) // 4 * 4].reshape(-1, 4)
  assert all(assign(row) for row in rounds)
  # Unlabelled clips are drawn between the draws of the rounds and do not change them.
  np.testing.assert_array_equal(of_classes, drawn(balanced(0, *LABELLED), 1, len(of_classes)))


@pytest.mark.parametrize(
  ("labelled", "unlabelled", "share"),
  [(120, 160, Fraction(1, 2)), (10, 5, Fraction(1, 3)), (97, 3, Fraction(3, 100))],
)
def test_clips_without_a_label_have_their_share(labelled, unlabelled, share):
  labels = [[0]] * labelled + [[]] * unlabelled
  sampler = balanced(7, labels, np.arange(len(labels)))
  assert sampler.share == share
  draws = drawn(sampler, 640, 10)
  blocks = draws.reshape(-1, clip_order.BLOCK) >= labelled
  assert (abs(blocks.sum(axis=1) - clip_order.BLOCK * share) < 1).all()
  assert blocks.sum() == blocks.size * share // 1
  if share > 0.1:  # at positions that differ between blocks
    assert len(np.unique(blocks, axis=0)) == len(blocks)
  # All of them are drawn before any repeats, in a different order in each pass.
  queue = draws[draws >= labelled]
  passes = queue[: len(queue) // unlabelled * unlabelled].reshape(-1, unlabelled)
  assert len(passes) > 1
  assert (np.sort(passes, axis=1) == np.arange(labelled, labelled + unlabelled)).all()
  assert len(np.unique(passes, axis=0)) > 1


def assign(clips):
  """Return whether the clips can be matched to the classes with clips, one to one."""
  if not len(clips):
    return True

  def match(rest, classes):
    if not rest:
      return not classes
    own = LABELS[rest[0] - 100]
    return any(match(rest[1:], classes - {c}) for c in own if c in classes)

  return match(list(clips), set(WITH_CLIPS))


def test_rounds_differ_and_queues_are_completed_before_they_repeat():
  # Each clip has one label, so a clip identifies its class.
  labels = [[i % 5] for i in range(5 * 3)] + [[5]] * 7
  clips = np.arange(len(labels))
  classes = np.array([row[0] for row in labels])
  rounds = drawn(balanced(labels=labels, clips=clips), 6, 210).reshape(-1, 6)
  assert (np.sort(classes[rounds], axis=1) == np.arange(6)).all()
  assert len(np.unique(classes[rounds], axis=0)) > 150  # of 210 rounds in 720 orders
  for label, members in enumerate([*([3] * 5), 7]):
    passes = rounds[classes[rounds] == label].reshape(-1, members)
    assert (np.sort(passes, axis=1) == clips[classes == label]).all()
    assert len(np.unique(passes, axis=0)) > 1


@pytest.mark.parametrize("sampler", [balanced(3), clip_order.shuffled_sampler(CLIPS, 3)])
def test_a_step_depends_only_on_its_number(sampler):
  forward = [clip_order.draw(sampler, step, 8) for step in range(20)]
  for step in (19, 3, 11, 3, 0):
    np.testing.assert_array_equal(clip_order.draw(sampler, step, 8), forward[step])
  for step in (600_000, 10_000_000):
    far = clip_order.draw(sampler, step, 64)
    assert far.shape == (64,)
    assert np.isin(far, CLIPS).all()
    halves = [clip_order.draw(sampler, 2 * step + half, 32) for half in (0, 1)]
    np.testing.assert_array_equal(far, np.concatenate(halves))


@pytest.mark.parametrize("make", [balanced, lambda seed: clip_order.shuffled_sampler(CLIPS, seed)])
def test_the_seed_determines_the_order(make):
  first, again, other = (drawn(make(seed), 8, 4) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_concatenated_shares_are_the_batch(count):
  whole = clip_order.draw(balanced(), 5, 16)
  assert np.isin(UNLABELLED, whole).any()
  parts = [Share(index, count).of(whole) for index in range(count)]
  assert {len(part) for part in parts} == {16 // count}
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_batch_that_cannot_be_split():
  with pytest.raises(ValueError, match="equal division"):
    Share(0, 3).of(np.arange(16))


def test_tables_of_two_million_clips_stay_small():
  rng = np.random.default_rng(0)
  clips, labels_a_clip = 200_000, 3
  flat = rng.integers(0, 527, clips * labels_a_clip)
  offsets = np.arange(clips + 1) * labels_a_clip
  samplers = [
    clip_order.balanced_sampler(np.arange(clips), offsets, flat, 0),
    clip_order.shuffled_sampler(np.arange(clips), 0),
  ]
  for sampler in samplers:
    assert 10 * (sampler.clips.nbytes + sampler.starts.nbytes) < 32e6
    assert clip_order.draw(sampler, 123, 64).shape == (64,)


def test_no_clips_to_draw_from():
  with pytest.raises(ValueError, match="no clips"):
    clip_order.shuffled_sampler(np.zeros(0, np.int64), 0)
  with pytest.raises(ValueError, match="no clip with a label"):
    balanced(labels=[[], []], clips=np.arange(2))
