"""Clip stores: round trip, fingerprint, atomic writes, all kinds of bad files."""

import dataclasses
import fcntl
import subprocess
import sys

import h5py
import numpy as np
import pytest
import small_store

from atgcn_jax.audio.quantisation import RANGE_DB, quantise
from atgcn_jax.data.store import clip_store, store_writing
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

CLIPS = 11
HALF_STEP = RANGE_DB / 255 / 2


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
  return small_store.make(tmp_path_factory.mktemp("store") / "s.h5", CLIPS)


def complaint(path):
  with pytest.raises(UserError) as caught:
    clip_store.open_store(path)
  message = str(caught.value)
  assert message.startswith(f"{path}: ")
  assert "\n" not in message
  assert "atgcn prepare" in message
  return message


def test_round_trip(tmp_path):
  parts = small_store.write(tmp_path / "s.h5", small_store.decibels(CLIPS))
  opened = clip_store.open_store(tmp_path / "s.h5")
  assert len(opened) == CLIPS
  assert opened.clip_ids.tolist() == parts["clip_ids"]
  assert opened.folds.tolist() == parts["folds"]
  assert opened.vocabulary == small_store.VOCABULARY
  assert opened.frontend == small_store.FRONTEND
  assert isinstance(opened.log_mel, np.memmap)
  assert opened.log_mel.shape == (CLIPS, small_store.FRAMES, small_store.BANDS)
  assert not opened.log_mel.flags.writeable
  assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]


def test_uint8_is_within_half_a_step(opened):
  expected = small_store.decibels(CLIPS)
  batch = opened.read(np.arange(CLIPS))
  assert batch["log_mel"].dtype == np.uint8
  np.testing.assert_array_equal(batch["peak_db"], expected.max(axis=(1, 2)))
  floor = batch["peak_db"][:, None, None].astype(np.float64) - RANGE_DB
  got = batch["log_mel"] * (RANGE_DB / 255) + floor
  assert np.abs(got - expected).max() <= HALF_STEP * (1 + 1e-4)
  assert np.abs(got - expected).max() > HALF_STEP / 2


def test_uint8_clips_values_far_below_the_peak():
  log_mel = np.full((1, 3, 2), -500.0, np.float32)
  log_mel[0, 0] = (-7.0, -7.0 - RANGE_DB)
  values, peaks = quantise(log_mel, "uint8")
  assert peaks.tolist() == [-7.0]
  assert values[0].tolist() == [[255, 0], [0, 0], [0, 0]]


def test_float16_keeps_decibels(tmp_path):
  expected = small_store.decibels(CLIPS)
  opened = small_store.make(tmp_path / "s.h5", CLIPS, "float16")
  assert opened.log_mel.dtype == np.float16
  np.testing.assert_array_equal(opened.log_mel, expected.astype(np.float16))
  np.testing.assert_array_equal(opened.peak_db, expected.max(axis=(1, 2)))


def test_clips_are_read_in_the_given_order(opened):
  clips = np.array([7, 2, 2, 10, 0])
  batch = opened.read(clips)
  np.testing.assert_array_equal(batch["log_mel"], np.asarray(opened.log_mel)[clips])
  np.testing.assert_array_equal(batch["peak_db"], opened.peak_db[clips])
  assert batch["labels"].dtype == np.uint8
  lists = [[0, 2], [], [3], [0, 1, 2, 3], [1]]
  expected = [[int(k in lists[i % 5]) for k in range(4)] for i in clips]
  assert batch["labels"].tolist() == expected


def test_label_lists_of_some_clips(opened):
  offsets, indices = opened.labels_of(np.array([3, 1, 0, 4]))
  assert offsets.tolist() == [0, 4, 4, 6, 7]
  assert indices.tolist() == [0, 1, 2, 3, 0, 2, 1]
  assert opened.labels(np.array([1])).tolist() == [[0, 0, 0, 0]]


def test_a_store_without_any_label(tmp_path):
  opened = small_store.make(tmp_path / "s.h5", 3, labels=[[], [], []])
  assert not opened.labels(np.arange(3)).any()


def test_the_fingerprint_covers_all_content(tmp_path):
  log_mel = small_store.decibels(5)
  louder = log_mel + np.float32(1)
  louder_bin = log_mel.copy()
  louder_bin[3, 2, 1] -= 1
  ids = small_store.VOCABULARY.ids
  swapped = Vocabulary((ids[1], ids[0], *ids[2:]), small_store.VOCABULARY.names)
  other_frontend = dataclasses.replace(small_store.FRONTEND, fmax=400.0)
  writings = {
    "same": (log_mel, {}),
    "other chunks": (log_mel, {"chunk": 5}),
    "peaks": (louder, {}),
    "one value": (louder_bin, {}),
    "dtype": (log_mel, {"dtype": "float16"}),
    "ids": (log_mel, {"clip_ids": [*"abcde"]}),
    "folds": (log_mel, {"folds": ["train"] * 5}),
    "labels": (log_mel, {"labels": [[0], [], [3], [0, 1, 2, 3], [1]]}),
    "vocabulary": (log_mel, {"vocabulary": swapped}),
    "frontend": (log_mel, {"frontend": other_frontend}),
  }
  prints = {}
  for name, (values, changes) in writings.items():
    small_store.write(tmp_path / name, values, **changes)
    prints[name] = clip_store.open_store(tmp_path / name).fingerprint
  assert prints["same"] == prints["other chunks"]
  assert len(set(prints.values())) == len(writings) - 1


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, UserError, OSError])
def test_an_error_midway_leaves_the_old_file(tmp_path, error, existing):
  path = tmp_path / "s.h5"
  if existing:
    small_store.make(path, 3)
  before = path.read_bytes() if existing else None

  def chunks():
    yield quantise(small_store.decibels(4), "uint8")
    raise error("midway")

  with pytest.raises(UserError if error is OSError else error, match="midway"):
    store_writing.write_store(
      path,
      chunks(),
      dtype="uint8",
      clip_ids=[*"abcdefgh"],
      folds=["a"] * 8,
      labels=[[]] * 8,
      vocabulary=small_store.VOCABULARY,
      frontend=small_store.FRONTEND,
    )
  assert [p.name for p in tmp_path.iterdir()] == ["s.h5"] * existing
  assert not existing or path.read_bytes() == before


def test_too_few_log_mels(tmp_path):
  with pytest.raises(ValueError, match="3 log-mels for 4 clips"):
    small_store.write(
      tmp_path / "s.h5",
      small_store.decibels(3),
      clip_ids=[*"abcd"],
      folds=["a"] * 4,
      labels=[[]] * 4,
    )
  assert not list(tmp_path.iterdir())


def test_an_unwritable_path(tmp_path):
  (tmp_path / "file").touch()
  (tmp_path / "folder.h5").mkdir()
  for path in (tmp_path / "file" / "s.h5", tmp_path / "folder.h5", "/proc/s.h5", ""):
    with pytest.raises(UserError) as caught:
      small_store.write(path, small_store.decibels(3))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.h5"]
  assert not list((tmp_path / "folder.h5").iterdir())


def test_an_open_store_outlives_its_replacement(tmp_path):
  opened = small_store.make(tmp_path / "s.h5", 5)
  before = np.array(opened.log_mel)
  small_store.write(tmp_path / "s.h5", small_store.decibels(7, seed=1))
  np.testing.assert_array_equal(opened.log_mel, before)
  assert len(clip_store.open_store(tmp_path / "s.h5")) == 7


def test_folders_are_created_and_large_vocabularies_fit(tmp_path):
  names = tuple(f"label number {k}" for k in range(9000))  # more than the 64 KiB of an attribute
  path = tmp_path / "a" / "b" / "s.h5"
  opened = small_store.make(path, 2, vocabulary=Vocabulary(names, names))
  assert opened.vocabulary.names == names


@pytest.mark.parametrize("where", [*range(10), "in the log-mels", "last byte"])
def test_a_store_cut_short_is_never_read(tmp_path, where):
  opened = small_store.make(tmp_path / "whole.h5", 200)
  data = (tmp_path / "whole.h5").read_bytes()
  log_mel_end = opened.log_mel.offset + opened.log_mel.nbytes
  assert 0 < opened.log_mel.offset < log_mel_end < len(data)
  length = {"in the log-mels": log_mel_end - 1, "last byte": len(data) - 1}.get(
    where, len(data) * where // 10 if isinstance(where, int) else 0
  )
  (tmp_path / "cut.h5").write_bytes(data[:length])
  assert "cut short" in complaint(tmp_path / "cut.h5")


def test_a_file_that_is_not_a_clip_store_is_named(tmp_path):
  assert "no such clip store" in complaint(tmp_path / "none.h5")
  assert "no such clip store" in complaint(tmp_path)
  (tmp_path / "text.h5").write_text("words\n" * 1000)
  assert "cannot be read as a clip store" in complaint(tmp_path / "text.h5")
  with h5py.File(tmp_path / "other.h5", "w") as file:
    file["images"] = np.zeros((3, 4))
  assert "not a clip store of this version" in complaint(tmp_path / "other.h5")


@pytest.mark.parametrize("missing", clip_store.ARRAYS)
def test_a_store_with_a_missing_array_or_another_version(tmp_path, missing):
  small_store.write(tmp_path / "s.h5", small_store.decibels(3))
  with h5py.File(tmp_path / "s.h5", "a") as file:
    del file[missing]
  assert "not a clip store of this version" in complaint(tmp_path / "s.h5")
  small_store.write(tmp_path / "s.h5", small_store.decibels(3))
  with h5py.File(tmp_path / "s.h5", "a") as file:
    file.attrs["format"] = "atgcn_jax clip store 99"
  assert "not a clip store of this version" in complaint(tmp_path / "s.h5")


def test_a_store_can_be_opened_several_times(tmp_path, opened):
  first = [clip_store.open_store(opened.path) for _ in range(3)]
  assert len({store.fingerprint for store in first}) == 1
  with h5py.File(opened.path):  # like another reader
    script = (
      "import sys; from atgcn_jax.data.store.clip_store import open_store;"
      "store = open_store(sys.argv[1]); print(int(store.log_mel[:].sum()), store.fingerprint)"
    )
    done = subprocess.run(
      [sys.executable, "-c", script, opened.path], capture_output=True, text=True, check=True
    )
  assert done.stdout.split() == [str(int(opened.log_mel[:].sum())), opened.fingerprint]


def test_an_open_store_holds_no_lock(opened):
  with open(opened.path, "rb+") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_store_whose_end_was_lost_is_refused(tmp_path):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(300))
  data = path.read_bytes()
  end = data.rindex(b"GCOL") + 400  # within a collection of texts
  path.write_bytes(data[:end] + bytes(len(data) - end))
  # Without the check, the HDF5 library loops for ever.
  assert "a collection of texts is damaged" in complaint(path)


WRONG = {
  "clip_ids": [
    ["a"] * 5,
    ["a"] * 3,
    ["a\x1b[0m", "b", "c", "d"],
    ["", "b", "c", "d"],
    ["x" * 5000] * 4,
  ],
  "folds": [["a"] * 5, ["a"] * 3],
  "label_indices": [[0, 2, 3, 0, 1, 2, 4], [-1, 2, 3, 0, 1, 2, 3]],
  "label_offsets": [[0, 2, 2, 3], [1, 2, 2, 3, 7], [0, 3, 2, 3, 7], [0, 2, 2, 3, 8]],
  "peak_db": [np.zeros((4, 1), np.float32), np.zeros(4, np.float64)],
  "normaliser": [np.ones((2, 4), np.float32), np.ones(5, np.float32)],
  "seconds": [np.full(4, -1, np.float32), np.zeros(3, np.float32)],
  "log_mel": [np.zeros((4, 9, 5), np.uint8), np.zeros((4, 21, 5), np.int8), np.zeros(4, np.uint8)],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_arrays_that_do_not_fit_are_refused(tmp_path, name, value):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(4))
  with h5py.File(path, "r+") as file:
    dtype = file[name].dtype if isinstance(value, list) else None
    if name in file:
      del file[name]
    file.create_dataset(name, data=value, dtype=dtype)
  message = complaint(path)
  assert name in message
  assert len(message.removeprefix(str(path))) < 250


@pytest.mark.parametrize(
  ("name", "value"),
  [("peak_db", np.full(4, np.nan, np.float32)), ("normaliser", np.zeros((2, 5), np.float32))],
)
def test_values_that_are_not_finite_are_refused(tmp_path, name, value):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(4))
  with h5py.File(path, "r+") as file:
    if name in file:
      del file[name]
    file[name] = value
  with pytest.raises(UserError, match=r"s\.h5: the (peak of clip|normaliser)"):
    clip_store.open_store(path)
  assert getattr(clip_store.open_store(path, finite=False), name).shape == value.shape


@pytest.mark.parametrize("name", ["peak_db", "clip_ids", "log_mel"])
def test_a_claim_of_a_terabyte_is_refused(tmp_path, name):
  path = tmp_path / "s.h5"
  small_store.write(path, small_store.decibels(4))
  with h5py.File(path, "r+") as file:
    dtype, shape = file[name].dtype, (2**40, *file[name].shape[1:])
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]))
  assert ("declares" in complaint(path)) or "chunks" in complaint(path)
