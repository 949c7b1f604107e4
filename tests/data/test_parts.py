"""Distribution of clips over parts, and the combined draws of all parts."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from atgcn_jax.data.sampling import clip_order, device_shares
from atgcn_jax.data.store.clip_store import ClipStore

CLASSES = 7
# Number of clips with only label k. In addition, 30 clips have labels 0 and 6, and 57 have none.
ALONE = (200, 90, 41, 20, 9, 3, 1)


def labels():
  rows = [[k] for k, count in enumerate(ALONE) for _ in range(count)]
  rows += [[0, 6]] * 30 + [[]] * 57
  return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


LABELS = labels()
OFFSETS = np.cumsum([0, *map(len, LABELS)])
INDICES = np.array([k for row in LABELS for k in row], np.int32)
UNLABELLED = [i for i, row in enumerate(LABELS) if not row]


def store_of_labels():
  nothing = np.zeros(0)
  return ClipStore("", nothing, nothing, OFFSETS, INDICES, nothing, nothing, None, None, "")


def deal(count, *, balanced, seed=0):
  return device_shares.deal(OFFSETS, INDICES, count, seed, balanced=balanced)


def samplers(count, *, balanced, seed=0):
  """Return (clips, sampler) of each part."""
  return [
    (own, device_shares.part_sampler(store_of_labels(), own, part, count, seed, balanced=balanced))
    for part, own in enumerate(deal(count, balanced=balanced, seed=seed))
  ]


def drawn(given, steps, batch):
  """Return the clips [D, steps * batch] that the parts draw."""
  return np.stack(
    [
      np.concatenate([own[clip_order.draw(sampler, step, batch)] for step in range(steps)])
      for own, sampler in given
    ]
  )


def classes_visited(count, draws, seed=0):
  """Return the class of each draw of each part's rounds, [D, draws]."""
  found = []
  for _, sampler in samplers(count, balanced=True, seed=seed):
    # Replace the clips of each queue by the number of its class.
    queues = np.repeat(np.arange(CLASSES), np.diff(sampler.starts))
    numbers = clip_order.Sampler(
      queues, sampler.starts, seed, True, part=sampler.part, parts=sampler.parts
    )
    found.append(clip_order.draw(numbers, 0, draws))
    assert len(sampler.starts) == CLASSES + 1
  return np.stack(found)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_clip_is_in_one_part(count):
  dealt = deal(count, balanced=False)
  np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.arange(len(LABELS)))
  assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
  assert all((np.diff(own) > 0).all() for own in dealt)


@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_every_part_has_clips_of_every_class(count):
  dealt = deal(count, balanced=True)
  whole = np.concatenate(dealt)
  np.testing.assert_array_equal(np.unique(whole), np.arange(len(LABELS)))
  # At most one copy per part and class.
  assert len(whole) - len(LABELS) <= (count - 1) * CLASSES
  for own in dealt:
    assert {k for i in own for k in LABELS[i]} == set(range(CLASSES))
    assert np.isin(own, UNLABELLED).any()
    assert (np.diff(own) > 0).all()


@pytest.mark.parametrize("count", [3, 8])
def test_classes_are_spread_evenly(count):
  # Classes whose clips have no other label, and the clips without a label.
  for row in ([], *([k] for k in range(1, CLASSES - 1))):
    held = [sum(LABELS[i] == row for i in own) for own in deal(count, balanced=True)]
    assert max(held) - min(held) <= 1, row


def test_a_part_without_an_unlabelled_clip_gets_one():
  offsets = np.append(np.arange(31), [30, 30])  # the last 2 of 32 clips have no label
  for own in device_shares.deal(offsets, np.zeros(30, int), 8, 0, balanced=True):
    assert np.isin(own, [30, 31]).any()


def test_the_seed_determines_the_parts():
  first, again, other = (deal(4, balanced=True, seed=seed) for seed in (0, 0, 1))
  assert all((a == b).all() for a, b in zip(first, again))
  assert any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other))


@pytest.mark.parametrize("balanced", [True, False])
def test_a_single_part_draws_like_the_sampler_of_all_clips(balanced):
  ((own, sampler),) = samplers(1, balanced=balanced, seed=5)
  clips = np.arange(len(LABELS))
  if balanced:
    whole = clip_order.balanced_sampler(clips, OFFSETS, INDICES, 5)
  else:
    whole = clip_order.shuffled_sampler(clips, 5)
  for step in (*range(60), 600_000):
    expected = clip_order.draw(whole, step, 16)
    np.testing.assert_array_equal(own[clip_order.draw(sampler, step, 16)], expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 40])
def test_classes_are_drawn_equally_often(count):
  rounds = 50
  visited = classes_visited(count, rounds * CLASSES)
  # On each part: once per round.
  by_round = visited.reshape(count, rounds, CLASSES)
  assert (np.sort(by_round, axis=2) == np.arange(CLASSES)).all()
  # Over all parts: within a round, no class is ever more than one draw ahead of another.
  for number in range(rounds):
    for first in range(CLASSES):
      for last in range(first + 1, CLASSES + 1):
        window = visited[:, number * CLASSES + first : number * CLASSES + last]
        counts = np.bincount(window.ravel(), minlength=CLASSES)
        assert counts.max() - counts.min() <= 1


@pytest.mark.slow
def test_a_part_draws_all_clips_of_a_class_before_any_repeats():
  for own, sampler in samplers(4, balanced=True):
    sizes = np.diff(sampler.starts)
    draws = drawn([(own, sampler)], CLASSES * int(sizes.max()), 1)[0]
    alone = [np.array([i for i in draws if LABELS[i] == [k]]) for k in range(1, CLASSES - 1)]
    for k, queue in enumerate(alone, 1):
      for first in range(0, len(queue) - sizes[k] + 1, sizes[k]):
        assert len(set(queue[first : first + sizes[k]])) == sizes[k]


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("share", [None, Fraction(1, 2), Fraction(3, 64)])
def test_clips_without_a_label_have_their_share_on_every_part(count, share):
  draws = 20 * clip_order.BLOCK
  whole = Fraction(len(UNLABELLED), len(LABELS)) if share is None else share
  chosen = []
  for part, own in enumerate(deal(count, balanced=True)):
    sampler = device_shares.part_sampler(
      store_of_labels(), own, part, count, 0, balanced=True, share=whole
    )
    drawn = own[clip_order.draw(sampler, 0, draws)]
    chosen.append(np.isin(drawn, UNLABELLED))
    # All unlabelled clips of the part are drawn before any repeats.
    queue = drawn[chosen[-1]]
    size = np.isin(own, UNLABELLED).sum()
    for first in range(0, len(queue) - size + 1, size):
      assert len(set(queue[first : first + size])) == size
    # The first and the last block are partial.
    assert abs(chosen[-1].sum() - draws * whole) < clip_order.BLOCK / 8
  # Over all parts, they are drawn at a nearly constant rate.
  window = clip_order.BLOCK // count
  rates = np.mean(chosen, axis=0)[: draws // window * window].reshape(-1, window).mean(axis=1)
  np.testing.assert_allclose(rates, float(whole), atol=0.2)


def test_draws_without_unlabelled_clips_are_frozen():
  """Runs are resumed across versions, so these numbers must never change."""
  rows = [sorted({i * i % 11, (7 * i + 3) % 13}) for i in range(500)]
  offsets = np.cumsum([0, *map(len, rows)])
  indices = np.array([k for row in rows for k in row], np.int32)
  nothing = np.zeros(0)
  store = ClipStore("", nothing, nothing, offsets, indices, nothing, nothing, None, None, "")
  steps = (*range(50), 600_000)

  def digest(draws):
    return hashlib.sha256(np.concatenate(draws).astype("<i8").tobytes()).hexdigest()[:16]

  host = clip_order.balanced_sampler(np.arange(500), offsets, indices, 5)
  assert digest([clip_order.draw(host, step, 16) for step in steps]) == "0545cf1671ea251a"
  for count, promised in ((1, "0545cf1671ea251a"), (8, "7b450d69b58a590b")):
    draws = []
    for part, own in enumerate(device_shares.deal(offsets, indices, count, 5, balanced=True)):
      sampler = device_shares.part_sampler(
        store, own, part, count, 5, balanced=True, share=clip_order.unlabelled_share(offsets)
      )
      draws += [own[clip_order.draw(sampler, step, 16 // count)] for step in steps]
    assert digest(draws) == promised


@pytest.mark.parametrize("balanced", [True, False])
def test_draws_of_parts_are_a_function_of_the_step(balanced):
  given = samplers(8, balanced=balanced)
  dealt = deal(8, balanced=balanced)
  forward = drawn(given, 12, 4)
  for own, clips in zip(dealt, forward):
    assert np.isin(clips, own).all()
  for step in (11, 3, 0):
    for (own, sampler), clips in zip(given, forward):
      again = own[clip_order.draw(sampler, step, 4)]
      np.testing.assert_array_equal(again, clips[step * 4 : step * 4 + 4])


def test_more_parts_than_clips():
  offsets, indices = np.array([0, 1, 2]), np.array([0, 1])
  for balanced in (True, False):
    dealt = device_shares.deal(offsets, indices, 5, 0, balanced=balanced)
    assert all(len(own) for own in dealt)
  assert all(
    own.tolist() == [0, 1] for own in device_shares.deal(offsets, indices, 5, 0, balanced=True)
  )


def test_no_clips_to_distribute():
  for balanced in (True, False):
    with pytest.raises(ValueError, match="no clips"):
      device_shares.deal(np.zeros(1, int), np.zeros(0, int), 2, 0, balanced=balanced)
  with pytest.raises(ValueError, match="with a label"):
    device_shares.deal(np.zeros(4, int), np.zeros(0, int), 2, 0, balanced=True)
