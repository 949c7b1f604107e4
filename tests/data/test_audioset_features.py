"""AudioSet's features: records, labels, padding, damage, archives, workers and kills."""

import csv
import io
import os
import signal
import subprocess
import sys
import tarfile

import feature_files
import numpy as np
import pytest
import runs_support
from feature_files import embeddings, example, write

from atgcn_jax import cli
from atgcn_jax.audio.frontend import FRONTENDS, VGGISH_FEATURES, Frontend, log_mel
from atgcn_jax.data.layouts import feature_archive
from atgcn_jax.data.layouts.audioset_features import list_features
from atgcn_jax.data.layouts.feature_records import feature_clip, framed_records
from atgcn_jax.data.normaliser import band_statistics, decibels
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store import store_builder, unfinished
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.tfds.write import write_tfds
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.labels.counts import count_labels, read_segments
from atgcn_jax.labels.vocabulary import read_vocabulary

pytestmark = pytest.mark.filterwarnings("ignore::atgcn_jax.errors.SoundWarning")


@pytest.fixture
def here(monkeypatch):
  runs_support.prepare_here(monkeypatch)


@pytest.fixture
def vocabulary(tmp_path):
  return feature_files.vocabulary_file(tmp_path)


def prepared(audio, out, vocabulary, **options):
  """Prepare a store, and return what was built and the store."""
  built = prepare(audio, None, out, layout="audioset-features", vocabulary=vocabulary, **options)
  return built, open_store(out)


def report(out):
  """Return the reasons in the report of unreadable records, by source."""
  with unfinished.report_path(out).open() as file:
    rows = list(csv.reader(file))
  assert rows[0] == ["file", "reason"]
  return dict(rows[1:])


@pytest.fixture(scope="module")
def official(shared, tmp_path_factory):
  """Return the folder of reference data, and the unpacked balanced part with a few other files."""
  folder = tmp_path_factory.mktemp("official")
  with tarfile.open(shared / "data" / "audioset" / "vggish_features.tar.gz") as archive:
    left = 3
    for member in archive:
      if member.isreg() and (member.name.startswith("bal_train/") or left > 0):
        left -= not member.name.startswith("bal_train/")
        archive.extract(member, folder, filter="data")
  return shared / "data" / "audioset", folder


def test_official_records(official, tmp_path, here):
  import tensorflow as tf

  lists, folder = official
  some = tmp_path / "features"
  for part in ("bal_train", "eval"):
    (some / part).mkdir(parents=True)
    for path in sorted((folder / part).iterdir())[:2]:
      os.link(path, some / part / path.name)
  vocabulary = lists / "class_labels_indices.csv"
  (clips, *_), store = prepared(some, tmp_path / "s.h5", vocabulary)
  assert clips >= 12
  assert set(store.folds) == {"bal_train", "eval"}
  segments = {}
  for name in ("balanced_train_segments.csv", "eval_segments.csv"):
    listed = read_segments(lists / name, store.vocabulary)
    for i, clip_id in enumerate(listed.clip_ids):
      chosen = listed.label_indices[listed.offsets[i] : listed.offsets[i + 1]]
      segments[clip_id] = (set(chosen.tolist()), listed.ends[i] - listed.starts[i])
  row = 0
  for path in [*sorted((some / "bal_train").iterdir()), *sorted((some / "eval").iterdir())]:
    for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
      wanted = tf.train.SequenceExample.FromString(record)
      context = wanted.context.feature
      clip_id = context["video_id"].bytes_list.value[0].decode()
      rows = wanted.feature_lists.feature_list["audio_embedding"].feature
      values = [np.frombuffer(one.bytes_list.value[0], np.uint8) for one in rows]
      assert store.clip_ids[row] == clip_id
      assert store.folds[row] == path.parent.name
      _, labels = store.labels_of(np.array([row]))
      assert labels.tolist() == list(context["labels"].int64_list.value)
      assert (set(labels.tolist()), store.seconds[row]) == segments[clip_id]
      np.testing.assert_array_equal(store.log_mel[row][: len(values)], values)
      row += 1
  assert row == clips


def test_counts_of_the_balanced_part(official):
  lists, folder = official
  vocabulary = read_vocabulary(lists / "class_labels_indices.csv")
  listing = list_features(folder / "bal_train", vocabulary)
  assert len(listing.clip_ids) == 22160
  assert set(listing.folds) == {"bal_train"}
  assert not listing.unreadable
  counts = count_labels(listing.label_offsets, listing.label_indices, len(vocabulary))
  with np.load(lists / "cooccurrence.npz") as wanted:
    np.testing.assert_array_equal(counts.occurrences, wanted["occurrences_balanced"])
    np.testing.assert_array_equal(counts.cooccurrences, wanted["cooccurrences_balanced"])


def test_order_folds_labels_and_padding(tmp_path, vocabulary, here):
  made = feature_files.release(tmp_path / "r" / "audioset_v1_embeddings", 4)
  out = tmp_path / "s.h5"
  text = "12 of 24 sounds are shorter than a clip of 10 s and padded with repeated embeddings"
  with pytest.warns(SoundWarning, match=text):
    built, store = prepared(tmp_path / "r", out, vocabulary)
  assert built == (24, 0, 0)
  assert store.clip_ids.tolist() == list(made)
  assert store.folds.tolist() == ["bal_train"] * 8 + ["unbal_train"] * 8 + ["eval"] * 8
  assert store.frontend == VGGISH_FEATURES
  assert store.log_mel.shape == (24, 10, 128)
  assert store.log_mel.dtype == np.uint8
  for row, values in enumerate(made.values()):
    i = row % 4
    assert store.labels_of(np.array([row]))[1].tolist() == list(dict.fromkeys([i, 7 * i + 1]))
    assert store.seconds[row] == len(values)
    for second in range(10):
      np.testing.assert_array_equal(store.log_mel[row][second], values[second % len(values)])
  assert store.rate_hz.tolist() == [0] * 24
  assert not list(tmp_path.glob(".s.h5*"))


def test_values_are_those_of_vggish(tmp_path, vocabulary, here):
  values = np.arange(1280).reshape(10, 128).astype(np.uint8)
  write(tmp_path / "eval" / "a.tfrecord", [example("a", [3], values)])
  _, store = prepared(tmp_path / "eval", tmp_path / "s.h5", vocabulary)
  got = decibels(store.log_mel[:], store.peak_db, store.frontend.uint8_range)[0]
  np.testing.assert_allclose(got, -2 + values * (4 / 255), atol=1e-6)
  assert (got.min(), got.max()) == (-2, 2)
  mean, deviation = band_statistics(store, np.array([0]))
  np.testing.assert_allclose(mean, got.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(deviation, got.std(axis=0), atol=1e-5)


@pytest.mark.parametrize("part", ["bal_train", "unbal_train", "eval"])
def test_one_part_alone(tmp_path, vocabulary, here, part):
  made = feature_files.release(tmp_path / "r", 1, files=1)
  _, store = prepared(tmp_path / "r" / part, tmp_path / "s.h5", vocabulary)
  assert store.folds.tolist() == [part]
  assert store.clip_ids.tolist() == [clip_id for clip_id in made if clip_id[0] == part[0]]


def test_broken_records_are_left_out_and_the_rest_is_read(tmp_path, vocabulary, here):
  good = embeddings(0)
  contents = {
    "first": example("first", [1], good),
    "checksum": example("checksum", [1], good),
    "narrow": example("narrow", [1], embeddings(1, 10, 127)),
    "wide": example("wide", [1], embeddings(1, 10, 256)),
    "eleven": example("eleven", [1], embeddings(1, 11)),
    "none": example("none", [1], embeddings(1, 0)),
    "label": example("label", [1, 527], good),
    "negative": example("negative", [-1], good),
    "no id": example("x", [1], good, video_id=None),
    "empty id": example("", [1], good),
    "no start": example("x", [1], good, start_time_seconds=None),
    "of another type": example("x", [1], good, start_time_seconds=[3]),
    "no labels": example("x", [1], good, labels=None),
    "not an id": example("é", [1], good),
    "other bytes": b"\xff\xff\xff",
    "middle": example("middle", [], good),
    "length": example("length", [1], good),
    "last": example("last", [1], good),
  }
  folder, out = tmp_path / "r", tmp_path / "s.h5"
  offsets = dict(zip(contents, write(folder / "eval" / "a.tfrecord", contents.values())))
  feature_files.damage(folder / "eval" / "a.tfrecord", offsets["checksum"] + 400)
  feature_files.damage(folder / "eval" / "a.tfrecord", offsets["length"] + 1)
  write(folder / "eval" / "b.tfrecord", [example(f"b{i}", [2], good) for i in range(2)])
  cut = folder / "eval" / "b.tfrecord"
  cut.write_bytes(cut.read_bytes()[:-1])
  (folder / "eval" / "c.tfrecord").write_bytes(b"")
  (folder / "eval" / "d.tfrecord").write_bytes(cut.read_bytes()[:7])
  (folder / "eval" / "e.tfrecord").symlink_to(folder / "nothing")
  write(folder / "eval" / "f.tfrecord", [example("f", [2], good)])
  built, store = prepared(folder, out, vocabulary)
  assert store.clip_ids.tolist() == ["first", "middle", "b0", "f"]
  reasons = report(out)
  assert built == (4, 0, len(reasons))
  parts = {
    "checksum": "the checksum of the record is wrong",
    "narrow": "an embedding has 127 values, not 128",
    "wide": "an embedding has 256 values, not 128",
    "eleven": "the record has 11 embeddings, not 1 to 10",
    "none": "the record has 0 embeddings, not 1 to 10",
    "label": "label 527 is not one of the 527 of the vocabulary",
    "negative": "label -1 is not",
    "no id": "the record has no video_id",
    "empty id": "the video_id is empty or not ASCII",
    "no start": "the record has no start_time_seconds",
    "of another type": "the record has an empty feature",
    "no labels": "the record has no labels",
    "not an id": "the video_id is empty or not ASCII",
    "other bytes": "the record is not a SequenceExample",
    "length": "the checksum of the record's length is wrong; the last ",
  }
  for name, part in parts.items():
    assert part in reasons.pop(f"eval/a.tfrecord:{offsets[name]}"), name
  assert reasons.pop(f"eval/b.tfrecord:{16 + len(contents['first']) - 3}").startswith(
    "the file ends 1 bytes before the end"
  )
  assert reasons.pop("eval/c.tfrecord") == "the file is empty"
  assert reasons.pop("eval/d.tfrecord:0") == "the file ends within this record"
  assert list(reasons) == ["eval/e.tfrecord"]


def test_records_of_tensorflow_with_any_content(tmp_path):
  contents = [bytes(range(256)) * i for i in range(5)]
  write(tmp_path / "a.tfrecord", contents)
  with open(tmp_path / "a.tfrecord", "rb") as file:
    assert [content for _, content in framed_records(file)] == contents


def test_a_record_with_further_features(tmp_path):
  clip = feature_clip(example("a", [1], embeddings(0), quality=[b"good"]))
  assert clip.clip_id == "a"


def test_repeated_ids(tmp_path, vocabulary, here):
  """A further start makes another clip, as in segment lists. The same start is left out."""
  for part, starts in (("bal_train", (30.0, 30.0, 50.0)), ("eval", (50.0, 60.5, 30.0))):
    contents = [example("same", [1], embeddings(int(s)), start=s) for s in starts]
    write(tmp_path / part / "a.tfrecord", contents)
  with pytest.warns(UserWarning, match="--audio: 3 rows repeat an id and are left out"):
    built, store = prepared(tmp_path, tmp_path / "s.h5", vocabulary)
  assert built == (3, 0, 0)
  assert store.clip_ids.tolist() == ["same", "same_50.000", "same_60.500"]
  assert store.folds.tolist() == ["bal_train", "bal_train", "eval"]
  for row, start in enumerate((30, 50, 60)):
    np.testing.assert_array_equal(store.log_mel[row], embeddings(start))


def packed(folder, path):
  """Write the archive of a folder, with a file that does not belong to it."""
  mode = "w:gz" if path.suffix == ".gz" else "w"
  with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as archive:
    archive.add(folder, "audioset_v1_embeddings")
    note = tarfile.TarInfo("../README")
    note.size = 4
    archive.addfile(note, io.BytesIO(b"text"))
  return path


@pytest.mark.parametrize("name", ["features.tar.gz", "features.tar"])
def test_an_archive(tmp_path, vocabulary, here, name):
  feature_files.release(tmp_path / "r", 3)
  (tmp_path / "r" / "eval" / "empty.tfrecord").touch()
  archive = packed(tmp_path / "r", tmp_path / name)
  built, store = prepared(archive, tmp_path / "a.h5", vocabulary)
  assert built == (18, 0, 1)
  assert report(tmp_path / "a.h5") == {"eval/empty.tfrecord": "the file is empty"}
  assert store.fingerprint == prepared(tmp_path / "r", tmp_path / "s.h5", vocabulary)[1].fingerprint
  assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
  assert not (tmp_path.parent / "README").exists()


def test_unpacking_resumes(tmp_path, vocabulary, here, monkeypatch):
  feature_files.release(tmp_path / "r", 2)
  archive, out = packed(tmp_path / "r", tmp_path / "f.tar.gz"), tmp_path / "s.h5"
  copy, written = feature_archive._copy, []

  def interrupted(tar, member, path):
    if len(written) == 3:
      raise KeyboardInterrupt
    written.append(path.name)
    copy(tar, member, path)

  with monkeypatch.context() as patch:
    patch.setattr(feature_archive, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
      prepared(archive, out, vocabulary)
  folder = tmp_path / ".s.h5.features"
  before = {path: path.stat().st_ino for path in folder.rglob("*.tfrecord")}
  assert len(before) == 3
  # The next call is interrupted after unpacking, and must not write these files again.
  with monkeypatch.context() as patch:
    patch.setattr(store_builder, "in_processes", stopped)
    with pytest.raises(KeyboardInterrupt):
      prepared(archive, out, vocabulary)
  after = {path: path.stat().st_ino for path in folder.rglob("*.tfrecord")}
  assert len(after) == 6
  assert before.items() <= after.items()
  # The complete folder is used without the archive being read.
  with monkeypatch.context() as patch:
    patch.setattr(feature_archive, "_copy_members", None)
    _, store = prepared(archive, out, vocabulary)
  assert store.fingerprint == prepared(tmp_path / "r", tmp_path / "w.h5", vocabulary)[1].fingerprint
  assert not folder.exists()


def stopped(work, chunks, processes):
  """Replacement of `in_processes` that stops before the first chunk."""
  raise KeyboardInterrupt
  yield


def test_another_archive_replaces_unpacked_files(tmp_path, vocabulary, here, monkeypatch):
  feature_files.release(tmp_path / "r", 2)
  archive, out = packed(tmp_path / "r", tmp_path / "f.tar.gz"), tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    patch.setattr(store_builder, "in_processes", stopped)
    with pytest.raises(KeyboardInterrupt):
      prepared(archive, out, vocabulary)
  unfinished_store = unfinished.partial_folder(out)
  assert unfinished_store.exists()
  feature_files.release(tmp_path / "other", 3, files=1)
  packed(tmp_path / "other", archive)
  with pytest.raises(UserError, match="contains an unfinished store of other files"):
    prepared(archive, out, vocabulary)
  assert len(list((tmp_path / ".s.h5.features").rglob("*.tfrecord"))) == 3


def test_a_second_process_is_refused(tmp_path, vocabulary, here):
  feature_files.release(tmp_path / "r", 1)
  archive = packed(tmp_path / "r", tmp_path / "f.tar.gz")
  with (
    feature_archive.unpacked_archive(archive, tmp_path / "s.h5"),
    pytest.raises(UserError, match="another process is writing it"),
  ):
    prepared(archive, tmp_path / "s.h5", vocabulary)


def test_a_warning_of_little_space(tmp_path, vocabulary, here, monkeypatch):
  feature_files.release(tmp_path / "r", 1)
  archive = packed(tmp_path / "r", tmp_path / "f.tar.gz")
  monkeypatch.setattr(feature_archive, "GROWTH", 1e12)
  with pytest.warns(UserWarning, match=r"unpacking needs about .* MB, but only .* MB are free"):
    prepared(archive, tmp_path / "s.h5", vocabulary)


def at_half(data):
  return data[: len(data) // 2]


def without_its_end(data):
  return data[: -(-len(data.rstrip(b"\0")) // 512) * 512]


def in_a_header(data):
  end = data.index(b"eval/e0")
  return data[:end] + b"?" + data[end + 1 :]


@pytest.mark.parametrize(
  ("name", "change", "part"),
  [
    ("f.tar.gz", at_half, "ended before"),
    ("f.tar.gz", lambda data: data[:-6], "ended before"),
    ("f.tar.gz", lambda data: data[:-8] + bytes(8), "CRC check failed"),
    ("f.tar.gz", lambda data: data[:3000] + b"\0" * 99 + data[3099:], ""),
    ("f.tar", at_half, "unexpected end"),
    ("f.tar", without_its_end, "ends too early"),
    ("f.tar", in_a_header, "a header is damaged"),
    ("f.tar", lambda data: b"no archive" * 200, "invalid header"),
    ("f.tar", lambda data: b"", "empty file"),
  ],
)
def test_a_damaged_archive(tmp_path, vocabulary, here, name, change, part):
  feature_files.release(tmp_path / "r", 3)
  archive = packed(tmp_path / "r", tmp_path / name)
  archive.write_bytes(change(archive.read_bytes()))
  with pytest.raises(UserError, match=r"not a complete archive .*; download it again") as error:
    prepared(archive, tmp_path / "s.h5", vocabulary)
  assert part in str(error.value)
  assert "\n" not in str(error.value)
  assert not [path for path in tmp_path.iterdir() if path.name.startswith(".s.h5")]


@pytest.mark.slow
def test_one_and_two_workers(tmp_path, vocabulary):
  feature_files.release(tmp_path / "r", 20)
  stores = [
    prepared(tmp_path / "r", tmp_path / f"{n}.h5", vocabulary, workers=n)[1] for n in (1, 2)
  ]
  assert stores[0].fingerprint == stores[1].fingerprint
  assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "2.h5").read_bytes()


KILLED = """
import os, signal, sys
from atgcn_jax import cli
from atgcn_jax.data.store import store_builder

def in_processes(work, chunks, processes):
  for number, chunk in enumerate(chunks):
    if number == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    yield work(chunk)

store_builder.in_processes = in_processes
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_killed_process_resumes(tmp_path, vocabulary, here, monkeypatch):
  feature_files.release(tmp_path / "r", 20)
  archive, out = packed(tmp_path / "r", tmp_path / "f.tar.gz"), tmp_path / "s.h5"
  command = ["prepare", "--layout", "audioset-features", "--audio", str(archive)]
  command += ["--vocabulary", str(vocabulary), "--out", str(out)]
  done = subprocess.run(
    [sys.executable, "-c", KILLED, *command],
    check=False,
    capture_output=True,
    cwd=runs_support.REPOSITORY,
  )
  assert done.returncode == -signal.SIGKILL
  journal = unfinished.partial_folder(out) / unfinished.JOURNAL
  assert len(journal.read_bytes().splitlines()) == 1 + 3
  loaded = []

  def in_processes(work, chunks, processes):
    for chunk in chunks:
      loaded.extend(chunk)
      yield work(chunk)

  monkeypatch.setattr(store_builder, "in_processes", in_processes)
  assert cli.main(command) == 0
  assert len(loaded) == 120 - 3 * store_builder.CHUNK
  prepared(tmp_path / "r", tmp_path / "whole.h5", vocabulary)
  # The bytes also have the folder that the clips were read from, as part of a hash.
  assert open_store(out).fingerprint == open_store(tmp_path / "whole.h5").fingerprint
  assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
  ("line", "part"),
  [
    ("--audio {r}", "--vocabulary: --layout audioset-features needs it"),
    ("--audio {r} --vocabulary {v} --labels {v}", "--labels: "),
    ("--audio {r} --vocabulary {v} --fold train", "--fold: "),
    ("--audio {r} --vocabulary {v} --segment", "--segment: "),
    ("--audio {r} {r} --vocabulary {v}", "accepts one path"),
    ("--audio {r} --vocabulary {v} --frontend talnet", "--frontend talnet: "),
    ("--audio {r} --vocabulary {v} --dtype float16", "--dtype float16: "),
    ("--audio {missing} --vocabulary {v}", "no such folder or archive"),
    ("--audio {v} --vocabulary {v}", "not a complete archive"),
    ("--audio {other} --vocabulary {v}", "contains no .tfrecord file in a folder bal_train"),
    ("--audio {empty} --vocabulary {v}", "the folder is empty"),
    ("--audio {broken} --vocabulary {v}", "a.tfrecord: the file is empty (none of the records"),
    (
      "--audio {r} --vocabulary {v} --layout list --labels {v} --frontend vggish-features",
      "VGGish",
    ),
  ],
)
def test_bad_input_ends_in_a_line(tmp_path, vocabulary, capsys, line, part):
  write(tmp_path / "r" / "eval" / "a.tfrecord", [example("a", [1], embeddings(0))])
  write(tmp_path / "other" / "test" / "a.tfrecord", [example("a", [1], embeddings(0))])
  (tmp_path / "empty").mkdir()
  (tmp_path / "broken" / "eval").mkdir(parents=True)
  (tmp_path / "broken" / "eval" / "a.tfrecord").touch()
  names = ("r", "other", "empty", "broken", "missing")
  places = {name: tmp_path / name for name in names} | {"v": vocabulary}
  command = ["prepare", "--layout", "audioset-features", "--out", str(tmp_path / "s.h5")]
  assert cli.main([*command, *line.format(**places).split()]) == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert part in error
  assert not [path for path in tmp_path.iterdir() if "s.h5" in path.name]


def test_files_outside_of_the_parts_are_counted(tmp_path, vocabulary, here):
  for part in ("eval", "test"):
    write(tmp_path / "r" / part / "a.tfrecord", [example(part, [1], embeddings(0))])
  with pytest.warns(UserWarning, match=r"1 \.tfrecord files outside of folders"):
    _, store = prepared(tmp_path / "r", tmp_path / "s.h5", vocabulary)
  assert store.clip_ids.tolist() == ["eval"]


def test_the_front_end():
  assert (VGGISH_FEATURES.frames, VGGISH_FEATURES.n_mels) == (10, 128)
  assert (VGGISH_FEATURES.seconds, VGGISH_FEATURES.uint8_range) == (10.0, 4.0)
  assert Frontend(**VGGISH_FEATURES.as_json()) == VGGISH_FEATURES
  with pytest.raises(ValueError, match="cannot be computed from a waveform"):
    log_mel(np.zeros(160_000, np.float32), VGGISH_FEATURES)


@pytest.mark.parametrize("name", ["talnet", "panns", "vggish"])
def test_front_ends_of_log_mels_have_the_fields_of_earlier_versions(name):
  """Otherwise the fingerprints of stores would change."""
  values = FRONTENDS[name].as_json()
  assert list(values)[-3:] == ["seconds", "mel_scale", "log_offset"]
  assert len(values) == 16
  assert Frontend(**values) == FRONTENDS[name]
  assert FRONTENDS[name].uint8_range == 80.0


def test_a_tfds_dataset_of_features(tmp_path, vocabulary, here):
  from atgcn_jax.data.open_clips import open_clips

  feature_files.release(tmp_path / "r", 2)
  _, store = prepared(tmp_path / "r", tmp_path / "s.h5", vocabulary)
  copy = open_clips(write_tfds(str(tmp_path / "t"), store=str(tmp_path / "s.h5")).path)
  assert copy.fingerprint == store.fingerprint
  assert copy.frontend == VGGISH_FEATURES
  rows = np.arange(len(store))
  np.testing.assert_array_equal(copy.log_mels(rows), store.log_mels(rows))
