"""Batches: each is determined by its step, for any first step, with and without TensorFlow."""

import numpy as np
import pytest
import small_store

from atgcn_jax.data import pipeline
from atgcn_jax.data.pipeline import PIECE, PREFETCH, Share, batches, sequential
from atgcn_jax.data.sampling import clip_order

CLIPS, BATCH = 23, 8
SHUFFLED = clip_order.shuffled_sampler(np.arange(CLIPS), seed=5)


@pytest.fixture(autouse=True, params=["tf.data", "thread"])
def reader(request, monkeypatch):
  monkeypatch.setattr(pipeline, "has_tensorflow", lambda: request.param == "tf.data")


def clips_of(step):
  return clip_order.draw(SHUFFLED, step, BATCH)


@pytest.fixture(scope="module", params=["uint8", "float16"])
def store(request, tmp_path_factory):
  return small_store.make(tmp_path_factory.mktemp("pipe") / "s.h5", CLIPS, request.param)


def same(batch, expected):
  assert list(batch) == ["log_mel", "peak_db", "labels"]
  for name, array in expected.items():
    assert batch[name].dtype == array.dtype, name
    np.testing.assert_array_equal(batch[name], array, err_msg=name)


def test_shapes_and_types(store):
  (batch,) = batches(store, clips_of, 0, 1)
  assert batch["log_mel"].shape == (BATCH, small_store.FRAMES, small_store.BANDS)
  assert batch["log_mel"].dtype == store.log_mel.dtype
  assert batch["peak_db"].shape == (BATCH,)
  assert batch["peak_db"].dtype == np.float32
  assert batch["labels"].shape == (BATCH, 4)
  assert batch["labels"].dtype == np.uint8


@pytest.mark.parametrize("start", [0, 1, 13, 600_000])
def test_batch_t_holds_the_clips_of_step_t(store, start):
  got = list(batches(store, clips_of, start, start + 10))
  assert len(got) == 10
  for step, batch in enumerate(got, start):
    same(batch, store.read(clips_of(step)))


def test_a_start_in_the_middle_gives_the_same_batches(store):
  whole = list(batches(store, clips_of, 0, 12))
  for batch, expected in zip(batches(store, clips_of, 7, 12), whole[7:], strict=True):
    same(batch, expected)


@pytest.mark.parametrize("count", [2, 4])
def test_concatenated_shares_are_the_batch(store, count):
  whole = batches(store, clips_of, 3, 6)
  parts = [batches(store, clips_of, 3, 6, Share(index, count)) for index in range(count)]
  for expected, *pieces in zip(whole, *parts, strict=True):
    assert len(pieces[0]["labels"]) == BATCH // count
    same({name: np.concatenate([p[name] for p in pieces]) for name in expected}, expected)


def test_no_steps(store):
  assert list(batches(store, clips_of, 4, 4)) == []


def test_reading_ahead_is_bounded(store):
  asked = []

  def noted(step):
    asked.append(step)
    return clips_of(step)

  feed = batches(store, noted, 0, 100_000)
  for _ in range(3):
    next(feed)
  # The piece of these three, the prefetched pieces, and the piece that is being read.
  assert max(asked) < (1 + PREFETCH + 1) * PIECE // BATCH


@pytest.mark.parametrize("piece", [1, BATCH, 3 * BATCH, 3 * BATCH + 1, 1000])
def test_pieces_of_any_size_give_the_same_batches(store, monkeypatch, piece):
  monkeypatch.setattr(pipeline, "PIECE", piece)
  asked = []

  def noted(step):
    asked.append(step)
    return clips_of(step)

  for step, batch in zip(range(2, 12), batches(store, noted, 2, 12), strict=True):
    same(batch, store.read(clips_of(step)))
  assert max(asked) == 11


def test_a_read_error_is_raised(store, monkeypatch):
  monkeypatch.setattr(pipeline, "PIECE", BATCH)

  def failing(step):
    if step == 2:
      raise RuntimeError("the disk is gone")
    return clips_of(step)

  feed = batches(store, failing, 0, 5)
  same(next(feed), store.read(clips_of(0)))
  same(next(feed), store.read(clips_of(1)))
  with pytest.raises(Exception, match="the disk is gone"):
    next(feed)


def test_a_missing_clip_raises(store):
  with pytest.raises(Exception, match="out of bounds"):
    next(batches(store, lambda step: np.array([0, CLIPS]), 0, 1))


@pytest.mark.parametrize(("clips", "count"), [(1, 1), (7, 1), (8, 1), (9, 2), (23, 3)])
def test_sequential_covers_the_clips_once_and_pads_with_the_last(store, clips, count):
  chosen = np.random.default_rng(clips).permutation(CLIPS)[:clips]
  of_step, steps = sequential(chosen, BATCH)
  assert steps == count
  got = np.concatenate([of_step(step) for step in range(steps)])
  assert got.shape == (count * BATCH,)
  np.testing.assert_array_equal(got[:clips], chosen)
  assert (got[clips:] == chosen[-1]).all()
  for step, batch in enumerate(batches(store, of_step, 0, steps)):
    same(batch, store.read(of_step(step)))


def test_sequential_over_nothing():
  assert sequential(np.zeros(0, np.int64), BATCH)[1] == 0
