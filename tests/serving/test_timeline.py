"""The tagger on many and long sounds: timelines, embeddings, thresholds and folders."""

import csv
import dataclasses
import json
import math
import shutil
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
from runs_support import (
  FRONTEND,
  VOCABULARY,
  contents,
  make_store,
  tiny_config,
  trained,
  wav,
  waveforms,
)

import atgcn_jax
from atgcn_jax import cli, models
from atgcn_jax.audio import sound_files
from atgcn_jax.audio.decoding import Sound, open_sound
from atgcn_jax.audio.windows import Window, cut, resampled
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.models.google_cnn import patches
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.thresholds import best_thresholds, read_thresholds, thresholds_text
from atgcn_jax.serving import batches, many_files
from atgcn_jax.serving.many_files import COLUMNS, shortened
from atgcn_jax.serving.tagger import Tag, Tagger
from atgcn_jax.serving.timeline import of_frames

RATE, SIZE = FRONTEND.sample_rate, FRONTEND.samples


@pytest.fixture(scope="module")
def tagger():
  return atgcn_jax.Tagger.restore(trained())


@pytest.fixture(scope="module")
def sounds():
  return waveforms(6, 4)[0]


# Windows of sounds that are read block by block.


def windows(samples, size, hop, block, **how):
  waveform = np.arange(1, samples + 1, dtype=np.float32)
  blocks = (waveform[i : i + block] for i in range(0, samples, block))
  found = list(cut(blocks, size, hop, **how))
  for window in found:
    sound = waveform[window.start : window.stop]
    np.testing.assert_array_equal(window.waveform, np.pad(sound, (0, size - len(sound))))
  return [(window.start, window.stop) for window in found]


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_windows_side_by_side(block):
  for samples, count in [(1, 1), (99, 1), (100, 1), (109, 1), (110, 2), (200, 2), (305, 3)]:
    spans = windows(samples, 100, 100, block, shortest=10)
    assert [start for start, _ in spans] == [100 * k for k in range(count)]
    assert spans[-1][1] == min(samples, 100 * count)
  assert windows(101, 100, 100, block) == [(0, 100), (100, 101)]


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_the_last_sliding_window_ends_with_the_sound(block):
  assert windows(30, 100, 40, block, at_end=True) == [(0, 30)]
  assert windows(100, 100, 40, block, at_end=True) == [(0, 100)]
  assert windows(140, 100, 40, block, at_end=True) == [(0, 100), (40, 140)]
  assert windows(150, 100, 40, block, at_end=True) == [(0, 100), (40, 140), (50, 150)]


def test_windows_require_sound_and_a_hop():
  for size, hop in [(0, 0), (10, 0), (10, 11)]:
    with pytest.raises(ValueError, match="window size"):
      list(cut([np.ones(5, np.float32)], size, hop))
  with pytest.raises(ValueError, match="sample"):
    list(cut([], 10, 10))


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 32000), (16000, 16000)])
def test_resampling_in_blocks_gives_the_same_bits(rate, wanted):
  for samples in (1, 2, 1000, 3 * rate):
    waveform = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    blocks = (waveform[i : i + 999] for i in range(0, samples, 999))
    sound = resampled(Sound(rate, samples, blocks, []), wanted)
    whole = sound_files.resample(waveform, rate, wanted)
    np.testing.assert_array_equal(np.concatenate(list(sound.blocks)), whole)
    assert sound.samples == len(whole) or samples < 3


def test_a_long_file_is_read_in_bounded_memory(tmp_path):
  path, seconds, rate = tmp_path / "long.wav", 3600, 8000  # 115 MB as floats
  quarter = (0.1 * np.sin(np.arange(rate * 900) / 9) * 32767).astype(np.int16)
  with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
    for _ in range(4):
      file.write(quarter)
  del quarter
  tracemalloc.start()
  try:
    with open_sound(path) as sound:
      count = sum(1 for _ in cut(resampled(sound, RATE).blocks, SIZE, SIZE))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert count == seconds
  assert peak < 16e6


# Many sounds in batches of a fixed size.


def test_many_sounds_share_batches(monkeypatch):
  sizes = []

  def pieces_of(source):
    if source < 0:
      yield from pieces_of(3)
      raise UserError(f"{source}: bad")
    for window in cut([np.full(source, source, np.float32)], 1, 1):
      yield batches.Piece(window, 1.0)

  def score(waveforms):
    sizes.append(len(waveforms))
    return waveforms.sum(axis=1)

  given = [1, 2, -1, 9, 3, -2, 7, 1] * 4
  found = list(batches.scored(given, pieces_of, score, 4))
  assert [one.source for one in found] == given
  for one in found:
    if one.source < 0:
      assert str(one.error) == f"{one.source}: bad"
    else:
      assert one.error is None
      assert one.spans == [(k, k + 1) for k in range(one.source)]
      np.testing.assert_array_equal(one.values, np.full(one.source, one.source))
  assert set(sizes) == {4}
  assert len(sizes) == -(-sum(abs(n) if n > 0 else 3 for n in given) // 4)
  sizes.clear()
  (one,) = batches.scored([1], pieces_of, score, 4)
  assert one.values == [1]
  assert sizes == [1]


def test_sounds_of_one_length_share_batches(monkeypatch):
  monkeypatch.setattr(batches, "PATIENCE", 3)
  shapes = []

  def pieces_of(source):
    yield batches.Piece(Window(0, source, np.full(source, source, np.float32)), 1.0)

  def score(waveforms):
    shapes.append(waveforms.shape)
    return waveforms.sum(axis=1)

  given = [3, 5] + [2] * 12 + [5]
  arriving = []
  for one in batches.scored(given, pieces_of, score, 2):
    assert one.values == [one.source**2]
    arriving.append(len(shapes))
  # The first sound waits for others of its length, but for no more than a few batches.
  assert shapes == [(2, 2)] * 4 + [(2, 3), (2, 5)] + [(2, 2)] * 2 + [(2, 5)]
  assert arriving[:2] == [6, 7]
  shapes.clear()
  assert [one.values for one in batches.scored([1, 2], pieces_of, score, 2)] == [[1], [4]]
  assert shapes == [(2, 1), (2, 2)]


def test_readers_end_if_the_caller_stops():
  def endless(source):
    while True:
      yield batches.Piece(next(iter(cut([np.ones(1, np.float32)], 1, 1))), 0.5)

  before = threading.active_count()
  with pytest.raises(ZeroDivisionError):
    list(batches.scored([1, 2, 3], endless, lambda waveforms: 1 // 0, 4))
  assert threading.active_count() == before


def test_lists_and_folders(tagger, sounds, tmp_path):
  clips = [sounds[0], np.concatenate(sounds[1:4]), sounds[4, :500]]
  names = ["b.wav", "deep/a.WAV", "a.flac"]
  paths = [str(tmp_path / name) for name in names]
  for path, clip in zip(paths[:2], clips):
    wav(tmp_path / path, clip)
  soundfile.write(paths[2], clips[2], RATE, subtype="PCM_24")
  (tmp_path / "notes.txt").write_text("no sound")
  (tmp_path / "._b.wav").write_text("no sound")
  (tmp_path / "folder.wav").mkdir()
  expected = np.array([tagger.scores(clip) for clip in clips])
  np.testing.assert_allclose(tagger.scores(clips), expected, atol=1e-5)
  by_path = tagger.scores(tmp_path)
  assert list(by_path) == sorted(paths)
  for path, scores in zip(paths, expected):
    np.testing.assert_allclose(by_path[path], scores, atol=1e-5)
  assert [tags[0].id for tags in tagger.tag(clips, top=1)] == [
    VOCABULARY.ids[k] for k in expected.argmax(axis=1)
  ]
  assert tagger.tag([]) == []
  with pytest.raises(UserError, match=r"none\.wav"):
    tagger.tag([paths[0], tmp_path / "none.wav"])
  with pytest.raises(UserError, match="no sound file"):
    tagger.tag(tmp_path / "folder.wav")


def test_files_of_other_formats_in_a_folder_are_named(tagger, sounds, tmp_path, capsys):
  path = wav(tmp_path / "a.wav", sounds[0])
  (tmp_path / "phone.ape").write_bytes(b"another format")
  left_out = "1 file of another format left out: phone.ape; convert to wav, flac, ogg or mp3"
  with pytest.warns(UserWarning, match=left_out):
    assert list(tagger.tag(tmp_path)) == [str(path)]
  assert tag(tmp_path) == 1
  printed = capsys.readouterr()
  assert printed.out.startswith(f"{path}\n")
  assert printed.err == f"atgcn tag: {tmp_path}: {left_out}\n"


def test_embeddings(tagger, sounds, tmp_path):
  one = tagger.embed(sounds[0])
  size = tagger._shape("embedding")[1]
  assert one.shape == (size,)
  assert one.dtype == np.float32
  parts = np.array(tagger.embed(list(sounds[:3])))
  assert np.ptp(parts, axis=0).max() > 1e-3
  np.testing.assert_allclose(parts[0], one, atol=1e-5)
  np.testing.assert_allclose(
    tagger.embed(np.concatenate(sounds[:3])), parts.mean(axis=0), atol=1e-5
  )


# Timelines.


def test_a_timeline_of_windows(tagger, sounds):
  long = np.concatenate(sounds)[: 3 * SIZE + SIZE // 4]
  line = tagger.timeline(long, hop_seconds=0.5)
  starts = [0, 0.5, 1, 1.5, 2, 2.25]
  np.testing.assert_allclose(line.start_s, starts)
  np.testing.assert_allclose(line.end_s, np.array(starts) + 1)
  expected = [tagger.scores(long[int(s * RATE) :][:SIZE]) for s in starts]
  np.testing.assert_allclose(line.scores, expected, atol=1e-5)
  assert np.ptp(line.scores, axis=0).max() > 0.05
  # Times do not depend on the rate.
  twice = tagger.timeline(soxr.resample(long, RATE, 2 * RATE), rate=2 * RATE)
  np.testing.assert_allclose(twice.start_s, [0, 1, 2, 2.25], atol=1e-3)
  short = tagger.timeline(long[: SIZE // 4])
  np.testing.assert_allclose([short.start_s, short.end_s], [[0], [0.25]])
  for hop in (0, -1, 1.5, np.nan, np.inf):
    with pytest.raises(UserError, match="--hop-seconds"):
      tagger.timeline(long, hop_seconds=hop)


@pytest.fixture(scope="module")
def of_talnet(tmp_path_factory):
  """Return a tagger of an untrained system with frames."""
  folder = tmp_path_factory.mktemp("talnet")
  make_store(folder / "store.h5", frontend=dataclasses.replace(FRONTEND, n_mels=32))
  config = tiny_config(folder, "model.encoder=talnet", "model.head=linear")
  run = new_run(config, open_store(config.data.store))
  return Tagger(run, run.initial_state().variables)


@pytest.mark.slow
def test_a_timeline_of_frames(of_talnet, sounds):
  # 8 frames from 32 input frames of 125 samples each per second.
  long = np.concatenate(sounds)[: 2 * SIZE + 1100]
  line = of_talnet.timeline(long)
  assert len(line.start_s) == 8 + 8 + 3
  np.testing.assert_allclose(line.start_s, np.arange(19) / 8)
  np.testing.assert_allclose(line.end_s[:-1], line.start_s[1:])
  assert line.end_s[-1] == len(long) / RATE
  second = of_talnet.timeline(long[SIZE : 2 * SIZE])
  np.testing.assert_allclose(line.scores[8:16], second.scores, atol=1e-5)
  assert np.ptp(line.scores, axis=0).min() > 0
  # The score of the clip is the linear softmax of the frame scores.
  pooled = (second.scores**2).sum(axis=0) / second.scores.sum(axis=0)
  np.testing.assert_allclose(of_talnet.scores(long[SIZE : 2 * SIZE]), pooled, atol=1e-5)
  assert len(of_talnet.timeline(long, hop_seconds=0.5).start_s) == 4


def test_frame_pooling_matches_the_systems():
  for frames, talnet, deepres, google in [(400, 100, 25, 40), (1001, 250, 63, 96)]:
    assert frames // models.frames_pooled("talnet", frames) == talnet
    assert -(-frames // models.frames_pooled("deepres", frames)) == deepres
    assert models.frames_pooled("google_cnn", frames) == google
    assert patches(np.zeros((1, frames, 2))).shape[2] == google
  assert models.frames_pooled("cnn10", 400) is None


def test_frames_end_where_the_next_window_starts():
  spans, scores = np.array([[0, 100], [100, 120]]), np.arange(14.0).reshape(2, 7, 1)
  line = of_frames(spans, scores, 16, 100, 10)
  np.testing.assert_allclose(line.start_s, [0, 1.6, 3.2, 4.8, 6.4, 8, 9.6, 10, 11.6])
  np.testing.assert_allclose(line.end_s, [1.6, 3.2, 4.8, 6.4, 8, 9.6, 10, 11.6, 12])
  np.testing.assert_array_equal(line.scores[:, 0], range(9))


# Thresholds.


def in_the_middle(accepted, scores):
  """Return the middle, in log-odds, of a score and the next lower one, or of it and 0.01.

  A score below 0.01 without a lower one is returned itself.
  """
  lower = max([score for score in map(float, scores) if score < accepted], default=0.01)
  odds = [min(max(score, 1e-7), 1 - 1e-7) for score in (float(accepted), lower)]
  root = math.prod(score / (1 - score) for score in odds) ** 0.5
  return min(root / (1 + root), float(accepted))


def test_thresholds_have_the_highest_f1():
  random = np.random.default_rng(0)
  scores = np.round(random.random((40, 5)), 1).astype(np.float32)
  labels = (random.random((40, 5)) + 0.4 * scores > 0.9).astype(np.uint8)
  labels[:, 3], labels[:, 4] = 0, 1
  thresholds, f1 = best_thresholds(scores, labels)

  def f1_at(t, k):
    reported, has = scores[:, k] >= t, labels[:, k] > 0
    return 2 * (reported & has).sum() / (reported.sum() + has.sum())

  for k in (0, 1, 2, 4):
    values = {t: f1_at(t, k) for t in np.unique(scores[:, k])}
    np.testing.assert_allclose(f1[k], max(values.values()))
    best = max(t for t, value in values.items() if np.isclose(value, f1[k]))
    assert thresholds[k] == pytest.approx(in_the_middle(best, scores[:, k]), rel=1e-5)
    assert f1_at(thresholds[k], k) == pytest.approx(f1[k])
  assert np.isnan([thresholds[3], f1[3]]).all()
  scores[:, 0], labels[:, 0] = np.linspace(0, 1, 40), np.arange(40) >= 30
  middle = in_the_middle(scores[30, 0], scores[:, 0])
  assert best_thresholds(scores, labels)[0][0] == pytest.approx(middle)
  assert scores[29, 0] < middle < scores[30, 0]


@pytest.mark.parametrize(
  ("positives", "others", "low", "high"),
  [
    ([0.934, 0.99], [0.2], 0.6, 0.7),  # the middle, far below the positive
    ([0.934], [], 0.2, 0.4),  # every clip is accepted: towards 0.01
    ([2**-12], [2**-12], 2**-12, 2**-12),  # below 0.01, the score itself
    ([1.0], [1 - 2**-24], 1 - 2**-24, 1),  # neighbouring numbers, and log-odds of 1
    ([1.0], [0.0], 0.4, 0.6),
  ],
)
def test_thresholds_are_between_two_scores(positives, others, low, high):
  scores = np.array([positives + others], np.float32).T
  labels = (np.arange(len(scores)) < len(positives))[:, None]
  ((found,), _) = best_thresholds(scores, labels)
  assert low <= found <= high
  np.testing.assert_array_equal(scores >= found, scores >= min(scores[labels]))


def test_the_table_of_thresholds_says_which_are_uncertain():
  def table(*thresholds, positives):
    entries = [
      {"name": "n", "positives": positives, "threshold": value, "f1": 1.0} for value in thresholds
    ]
    labels = dict(enumerate([*entries, {"threshold": None, "positives": 0}]))
    return thresholds_text({"step": 1, "clips": 9, "mean_f1": 1.0, "labels": labels}).splitlines()

  *rows, last, warning = table(0.5, 0.99987, 0.0003, positives=4)
  assert [row.split()[0] for row in rows[1:]] == ["0.500", "0.9999", "0.0003"]
  assert last.endswith("3 labels; 1 has no threshold")
  text = "warning: 3 labels have fewer than 5 positives; their thresholds are uncertain"
  assert warning == text
  assert "1 label has fewer than 5 positives; its threshold is un" in table(0.5, positives=1)[-1]
  assert "warning" not in "".join(table(0.5, positives=5))


def test_thresholds_keep_a_floor_and_a_precision():
  scores = np.array([[0.9], [0.8], [0.7], [0.2], [0.1]], np.float32)
  labels = np.array([[1], [0], [1], [1], [0]], np.uint8)
  found = {
    (floor, precision): best_thresholds(scores, labels, floor=floor, min_precision=precision)[0][0]
    for floor, precision in ((0, 0), (0.3, 0), (0, 0.8), (0.95, 0))
  }
  assert scores[4, 0] < found[0, 0] < scores[3, 0]  # F1 6/7
  assert found[0.3, 0] == pytest.approx(in_the_middle(scores[2, 0], scores[:, 0]))
  assert scores[1, 0] < found[0, 0.8] < scores[0, 0]  # the only one without a false positive
  assert best_thresholds(scores, labels, floor=0.65)[0][0] == 0.65, "the middle is lower"
  assert np.isnan(found[0.95, 0])


def test_thresholds_are_stored_with_the_run(tagger, sounds, tmp_path, capsys):
  tuned = shutil.copytree(trained(), tmp_path / "run")
  assert cli.main(["thresholds", "--workdir", str(tuned)]) == 0
  table = capsys.readouterr().out.splitlines()
  assert table[0].split() == ["threshold", "F1", "positives", "label"]
  assert max(map(len, table)) <= COLUMNS
  kept = json.loads((tuned / "thresholds.json").read_text())
  assert kept["step"] == tagger.step == 30
  assert kept["clips"] == 15
  with_them = Tagger.restore(tuned)
  thresholds = [kept["labels"][label]["threshold"] for label in VOCABULARY.ids]
  np.testing.assert_array_equal(with_them.thresholds, np.array(thresholds, float))
  for sound in sounds:
    scores = with_them.scores(sound)
    tags = with_them.tag(sound, above_threshold=True)
    assert {tag.id for tag in tags} == {
      label
      for label, score, threshold in zip(VOCABULARY.ids, scores, thresholds)
      if threshold is not None and score >= threshold
    }
    assert [tag.score for tag in tags] == sorted((tag.score for tag in tags), reverse=True)
  assert tagger.thresholds is None
  with pytest.raises(UserError, match="atgcn thresholds"):
    tagger.tag(sounds[0], above_threshold=True)
  path = wav(tmp_path / "a.wav", sounds[0])
  assert tag("--above-threshold", "--json", path, workdir=tuned) == 0
  assert len(json.loads(capsys.readouterr().out)["tags"]) == len(
    with_them.tag(path, above_threshold=True)
  )
  other = Tagger.restore(tuned, "best")
  if other.step != 30:
    with pytest.warns(UserWarning, match="tuned at step 30"):
      other.tag(sounds[0], above_threshold=True)


@pytest.mark.parametrize("content", ["", "[]", '{"step": 3}', '{"step": 1, "labels": {"a": 3}}'])
def test_a_file_without_thresholds(content, tmp_path):
  assert read_thresholds(tmp_path) is None
  (tmp_path / "thresholds.json").write_text(content)
  with pytest.raises(UserError, match=r"thresholds\.json"):
    read_thresholds(tmp_path)


# The commands.


def tag(*arguments, workdir=None):
  return cli.main(["tag", "--workdir", str(workdir or trained()), *map(str, arguments)])


def test_the_command_writes_a_timeline(tagger, sounds, tmp_path, capsys):
  sound = np.concatenate(sounds[:2])
  paths = [wav(tmp_path / "in/a, b.wav", sound), wav(tmp_path / "in/c.wav", sounds[2])]
  bad = tmp_path / "in/bad.wav"
  bad.write_text("no sound")
  out = tmp_path / "out.csv"
  assert tag("--timeline", "--hop-seconds", 0.5, "--top", 2, "--csv", out, tmp_path / "in") == 1
  printed = capsys.readouterr()
  assert printed.out == ""
  written, left_out = printed.err.splitlines()
  assert written == f"atgcn tag: wrote {out}"
  assert "bad.wav" in left_out
  with out.open(newline="") as file:
    header, *rows = csv.reader(file)
  assert header == ["file", "start_s", "end_s", "mid", "display_name", "score"]
  line = tagger.timeline(sound, hop_seconds=0.5)
  assert [row[0] for row in rows] == [str(paths[0])] * 6 + [str(paths[1])] * 2
  for k, scores in enumerate(line.scores):
    for row, best in zip(rows[2 * k : 2 * k + 2], np.argsort(-scores)):
      np.testing.assert_allclose([float(x) for x in row[1:3]], [0.5 * k, 0.5 * k + 1])
      assert row[3:5] == [VOCABULARY.ids[best], VOCABULARY.names[best]]
      assert abs(float(row[5]) - scores[best]) < 1e-5
  before = contents(tmp_path)
  assert tag("--timeline", "--csv", out, bad) == 2
  assert contents(tmp_path) == before


def test_the_command_prints_a_timeline(tagger, sounds, tmp_path, capsys):
  path = wav(tmp_path / "a.wav", np.concatenate(sounds[:3]))
  assert tag("--timeline", path) == 0
  name, *lines = capsys.readouterr().out.splitlines()
  assert name == str(path)
  assert [line.split()[:2] for line in lines] == [[f"{s}.00", f"{s + 1}.00"] for s in range(3)]
  assert max(map(len, lines)) <= COLUMNS
  assert tag("--timeline", "--json", "--top", 1, path) == 0
  reported = json.loads(capsys.readouterr().out)
  assert reported["file"] == str(path)
  best = tagger.timeline(path).scores.argmax(axis=1)
  assert [row["tags"][0]["id"] for row in reported["timeline"]] == [VOCABULARY.ids[k] for k in best]
  assert shortened("x" * 101, 100) == "x" * 99 + "…"


def test_names_with_commas_and_ids_that_are_names():
  tags = [Tag("/m/068hy", "Domestic animals, pets", 0.5), Tag("waves", "waves", 0.25)]
  text = "0.50 Domestic animals, pets; 0.25 waves"
  assert many_files._table("a.wav", [(0.0, 1.0, tags)], True).splitlines()[1].endswith(text)
  assert many_files._table("a.wav", [(0.0, 1.0, tags)], False).splitlines() == [
    "a.wav",
    "  0.500  Domestic animals, pets  (/m/068hy)",
    "  0.250  waves",
  ]


def test_the_command_embeds(tagger, sounds, tmp_path, capsys):
  paths = [wav(tmp_path / f"{k}.wav", sounds[k]) for k in range(3)]
  (tmp_path / "0.flac").write_text("no sound")
  out = tmp_path / "vectors.npz"
  command = ["embed", "--workdir", str(trained()), "--out", str(out), str(tmp_path)]
  assert cli.main(command) == 1
  printed = capsys.readouterr()
  assert printed.out == f"{out}: 3 files\n"
  assert "0.flac" in printed.err
  with np.load(out) as stored:
    assert stored["file"].tolist() == list(map(str, paths))
    assert stored["embedding"].dtype == np.float32
    np.testing.assert_allclose(stored["embedding"], tagger.embed(list(sounds[:3])), atol=1e-5)
  assert cli.main([*command[:-1], str(paths[0])]) == 0
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    ["0.wav", "1.wav", "2.wav", "0.flac", "vectors.npz"]
  )
