"""Training, validation and test splits."""

import numpy as np
import pytest
import small_store

from atgcn_jax.data.splits import Splits, recording_of, split_clips
from atgcn_jax.errors import UserError

CLIPS = 3000


def splits_of(train=("train",), validation=(), test=(), share=0.0):
  return Splits(train, validation, test, share)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  path = tmp_path_factory.mktemp("splits") / "s.h5"
  log_mel = np.zeros((CLIPS, small_store.FRAMES, small_store.BANDS), np.float32)
  small_store.write(path, log_mel, chunk=CLIPS, clip_ids=[f"{i:04d}.wav" for i in range(CLIPS)])
  return small_store.clip_store.open_store(path)


def test_clips_are_in_the_order_of_the_store(store):
  splits = splits_of(("train", "test"), ("validation",), ("test",))
  np.testing.assert_array_equal(
    split_clips(store, splits, "train"), [i for i in range(CLIPS) if i % 3 != 1]
  )
  np.testing.assert_array_equal(split_clips(store, splits, "validation"), range(1, CLIPS, 3))
  np.testing.assert_array_equal(split_clips(store, splits, "test"), range(2, CLIPS, 3))


def test_no_fold_no_clips(store):
  for split in ("train", "validation", "test"):
    assert len(split_clips(store, splits_of(train=()), split)) == 0


def test_folds_may_be_numbers(tmp_path):
  store = small_store.make(tmp_path / "s.h5", 4, folds=["1", "2", "1", "10"])
  assert split_clips(store, splits_of(train=(1,), test=(10,)), "train").tolist() == [0, 2]
  assert split_clips(store, splits_of(train=(1,), test=(10,)), "test").tolist() == [3]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_share_of_the_training_folds_validates_instead(store, share):
  splits = splits_of(("train", "validation"), (), ("test",), share)
  train, validation = (split_clips(store, splits, split) for split in ("train", "validation"))
  assert not set(train) & set(validation)
  assert sorted({*train, *validation}) == [i for i in range(CLIPS) if i % 3 != 2]
  expected, spread = 2000 * share, np.sqrt(2000 * share * (1 - share))
  assert abs(len(validation) - expected) < 4 * spread


def test_pieces_of_a_file_are_together(tmp_path):
  ids = [f"a@b/{file}.wav@{10 * piece:010.3f}" for file in range(40) for piece in range(5)]
  store = small_store.make(tmp_path / "s.h5", len(ids), clip_ids=ids, folds=["train"] * len(ids))
  held_out = split_clips(store, splits_of(share=0.3), "validation")
  assert 0 < len(held_out) < len(ids)
  assert set(np.bincount(held_out // 5, minlength=40)) == {0, 5}
  assert recording_of("x@home") == "x@home"
  assert recording_of("@000010.000") == "@000010.000"


def test_the_held_out_share_is_frozen(store):
  """Runs are resumed and compared across versions, so these clips must never change."""
  validation = split_clips(store, splits_of(share=0.02), "validation")
  assert validation.tolist()[:8] == [336, 666, 687, 732, 996, 1011, 1293, 1554]


def test_a_smaller_share_is_part_of_a_larger_one(store):
  small, large = (
    set(split_clips(store, splits_of(share=share), "validation")) for share in (0.05, 0.2)
  )
  assert small < large


def test_the_selection_depends_on_the_clip_and_not_on_its_position(tmp_path, store):
  chosen = {store.clip_ids[i] for i in split_clips(store, splits_of(share=0.3), "validation")}
  some = [f"{i:04d}.wav" for i in range(0, 90, 3)][::-1]
  other = small_store.make(tmp_path / "s.h5", 30, clip_ids=some, folds=["train"] * 30)
  again = {other.clip_ids[i] for i in split_clips(other, splits_of(share=0.3), "validation")}
  assert again == chosen & set(some)


def test_share_and_fold_validate_together(store):
  validation = split_clips(store, splits_of(validation=("validation",), share=0.1), "validation")
  assert set(range(1, CLIPS, 3)) < set(validation)
  assert len(validation) > CLIPS // 3


@pytest.mark.parametrize("key", ["train_folds", "validation_folds", "test_folds"])
def test_a_missing_fold(store, key):
  splits = splits_of()._replace(**{key: ("train", "7", "eval")})
  with pytest.raises(UserError) as caught:
    split_clips(store, splits, key.removesuffix("_folds"))
  message = str(caught.value)
  assert message.startswith(f"data.{key}: {store.path} has no fold 7, eval; ")
  assert "test, train, validation" in message
  assert "\n" not in message
