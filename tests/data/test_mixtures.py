"""Mixtures of recordings: co-occurrence, output files, and rejected input."""

import csv
import pathlib

import numpy as np
import pytest
import soundfile

from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.synthetic import mixtures
from atgcn_jax.data.synthetic.co_occurring import draw_together
from atgcn_jax.data.synthetic.mixtures import Kind, together, write_mixtures
from atgcn_jax.errors import UserError

RATE = 8000
LABELS = {"dog": ["dog", "animal"], "cat": ["cat", "animal"], "rain": ["rain"]}
PAIRS = {("dog", "cat"): 8, ("dog", "rain"): 2, ("animal", "rain"): 6}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
  """Return a folder of recordings: two folds with three sounds each, two files per sound."""
  folder = tmp_path_factory.mktemp("recordings")
  random = np.random.default_rng(0)
  rows = []
  (folder / "audio" / "sub").mkdir(parents=True)
  for k, (name, labels) in enumerate(LABELS.items()):
    for fold in "12":
      for take in "ab":
        file = f"sub/{name}-{fold}{take}.wav"
        tone = np.sin(2 * np.pi * 300 * (k + 1) * np.arange(RATE * (k + 1)) / RATE)
        soundfile.write(folder / "audio" / file, (k + 1) * 0.1 * tone, RATE)
        rows.append([file, fold, ",".join(labels)])
  random.shuffle(rows)
  with open(folder / "labels.csv", "w", newline="") as file:
    csv.writer(file).writerows([["filename", "fold", "positive_labels"], *rows])
  ids = ["animal", "cat", "cow", "dog", "rain"]
  lines = [f"{i},{key},{key.title()}\n" for i, key in enumerate(ids)]
  (folder / "vocabulary.csv").write_text("index,mid,display_name\n" + "".join(lines))
  pairs = np.zeros((5, 5), np.int64)
  for (one, other), count in PAIRS.items():
    i, j = ids.index(one), ids.index(other)
    pairs[i, j] = pairs[j, i] = count
  np.savez(
    folder / "counts.npz",
    mids=np.array(ids),
    occurrences_full=np.full(5, 100),
    cooccurrences_full=pairs,
  )
  return folder


def write(recordings, out, **changes):
  names = {"audio": "audio", "labels": "labels.csv", "vocabulary": "vocabulary.csv"}
  paths = {key: recordings / name for key, name in {**names, "counts": "counts.npz"}.items()}
  options = {"counts_set": "full", "clips": 12, "seed": 1, "rate": RATE} | changes
  write_mixtures(
    **(paths | {k: options.pop(k) for k in list(options) if k in paths}), out=out, **options
  )


def rows_of(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_kinds_are_mixed_according_to_the_counts_of_their_labels():
  # Labels 0 to 3: animal, cat, dog, rain. Cat and dog share `animal`, which is not counted.
  counts = np.array([[0, 5, 7, 6], [5, 0, 8, 0], [7, 8, 0, 2], [6, 0, 2, 0]])
  kinds = [Kind((0, 1), ("c",)), Kind((0, 2), ("d",)), Kind((3,), ("r",))]
  weights = np.array([[0, 8, 6], [8, 0, 6 + 2], [6, 6 + 2, 0]])
  assert together(kinds, counts) == pytest.approx(weights / weights.sum(axis=1, keepdims=True))


def test_a_kind_without_cooccurrences_is_joined_uniformly():
  graph = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0.0]])
  for seed in range(20):
    drawn = draw_together(np.random.default_rng(seed), graph, (0, 0, 1.0))
    assert sorted(drawn) == [0, 1, 2]


def test_mixtures_follow_the_counts(recordings):
  known = {"dog": 0, "cat": 1, "rain": 2}
  weights = np.array([[0, 8, 8], [8, 0, 6], [8, 6, 0]]) / np.array([[16], [14], [14]])
  firsts = np.zeros((3, 3))
  for seed in range(3000):
    one, other = draw_together(np.random.default_rng(seed), weights, (0, 1.0))
    firsts[one, other] += 1
  share = firsts / firsts.sum(axis=1, keepdims=True)
  assert np.abs(share - (0.95 * weights + 0.05 * (1 - np.eye(3)) / 2)).max() < 0.05
  assert len(known) == 3


def test_output_files(recordings, tmp_path):
  out = tmp_path / "out"
  write(recordings, out)
  rows, events = rows_of(out / "labels.csv"), rows_of(out / "events.csv")
  assert [row["fold"] for row in rows] == ["1", "2"] * 6
  for row in rows:
    mixed = [event for event in events if event["filename"] == row["filename"]]
    sounds = [pathlib.Path(event["source"]).name.split("-")[0] for event in mixed]
    assert 2 <= len(sounds) <= 3
    assert len(set(sounds)) == len(sounds)
    assert {event["source"].split("-")[1][0] for event in mixed} == {row["fold"]}
    expected = {label for sound in sounds for label in LABELS[sound]}
    assert set(row["positive_labels"].split(",")) == expected
    sound, rate = soundfile.read(out / "audio" / row["filename"])
    assert (len(sound), rate) == (10 * RATE, RATE)
    assert 0.01 < np.abs(sound).max() <= 0.96
    for event, name in zip(mixed, sounds):  # every sound is in the mixture at its onset
      start, gain = float(event["onset_s"]), float(event["gain_db"])
      seconds, tone = {"dog": (1, 300), "cat": (2, 600), "rain": (3, 900)}[name]
      assert 0 <= start <= 10 - seconds
      assert -10 <= gain <= 0
      part = sound[int(start * RATE) : int((start + seconds) * RATE)]
      amplitude = 2 * abs(np.mean(part * np.exp(-2j * np.pi * tone * np.arange(len(part)) / RATE)))
      assert amplitude == pytest.approx(0.1 * 2**0.5 * 10 ** (gain / 20), rel=0.05)
  ids = [line.split(",")[1] for line in (out / "vocabulary.csv").read_text().split()[1:]]
  assert ids == ["animal", "cat", "dog", "rain"]  # no recording is a cow


def test_the_seed_determines_the_bytes(recordings, tmp_path):
  contents = []
  for name, seed in (("one", 1), ("again", 1), ("other", 2)):
    write(recordings, tmp_path / name, seed=seed, clips=4)
    files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
    contents.append([path.read_bytes() for path in files])
  assert contents[0] == contents[1] != contents[2]


def test_a_store_of_mixtures(recordings, tmp_path):
  write(recordings, tmp_path / "out", clips=4)
  arguments = [tmp_path / "out" / name for name in ("audio", "labels.csv")]
  prepare(*arguments, tmp_path / "s.h5", vocabulary=tmp_path / "out" / "vocabulary.csv", workers=1)
  assert open_store(tmp_path / "s.h5").log_mel.shape == (4, 400, 64)


def test_bad_input_is_rejected_and_nothing_is_written(recordings, tmp_path):
  bare = tmp_path / "bare.csv"
  bare.write_text('filename,fold,positive_labels\nsub/dog-1a.wav,1,"dog,animal"\n')
  empty = tmp_path / "empty.csv"
  empty.write_text("filename,fold,positive_labels\nsub/dog-1a.wav,1,\n")
  for changes, message in (
    ({"labels": empty}, "no file has a label; add the labels"),
    ({"labels": bare}, "fold 1 has fewer than two kinds of sound"),
    ({"labels": tmp_path / "none.csv"}, "no such label list"),
    ({"audio": tmp_path / "none"}, "no such folder"),
    ({"counts_set": "balanced"}, "no key occurrences_balanced"),
    ({"counts": tmp_path / "none.npz"}, "none.npz"),
  ):
    with pytest.raises(UserError, match=message):
      write(recordings, tmp_path / "out", **changes)
  assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_unchanged(recordings, tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(UserError, match=r"already holds notes\.txt"):
    write(recordings, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_recordings_are_scaled_to_one_level(recordings):
  for name in ("dog", "cat", "rain"):
    sound = mixtures.recording(recordings / "audio" / "sub" / f"{name}-1a.wav", RATE)
    assert np.sqrt(np.mean(sound**2)) == pytest.approx(mixtures.LEVEL, rel=1e-3)
