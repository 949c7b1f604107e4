"""TFDS datasets: bits equal to those of the store, also in runs; all kinds of bad datasets."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import runs_support
import small_store
import soundfile
from runs_support import REPOSITORY

from atgcn_jax.cli import main
from atgcn_jax.data.layouts.listing import Clip, Row, load_file, make_listing
from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.pipeline import Share, batches, sequential
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.sampling.shard_order import shard_order
from atgcn_jax.data.store import store_builder
from atgcn_jax.data.store.clip_store import OPTIONAL, ClipStore, open_store
from atgcn_jax.data.tfds import record_files
from atgcn_jax.data.tfds.beam import list_sounds, load_remote
from atgcn_jax.data.tfds.write import FORMATS, write_tfds
from atgcn_jax.errors import UserError
from atgcn_jax.reports.data_card import data_card
from atgcn_jax.runs import scoring, training_loop

CLIPS, BATCH, SHARDS = 61, 8, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Return a folder with a store of each type, and a dataset of each type and file format."""
  path = tmp_path_factory.mktemp("tfds")
  for dtype in ("uint8", "float16"):
    small_store.make(path / f"{dtype}.h5", CLIPS, dtype)
    for file_format in FORMATS:
      made = write_tfds(
        str(path / file_format), file_format=file_format, shards=SHARDS, store=f"{path}/{dtype}.h5"
      )
      assert made.clips == CLIPS
      assert not made.unreadable
  return path


def dataset(folder, file_format, name="uint8"):
  return folder / file_format / "audioset_tfds" / name / "1.0.0"


@pytest.fixture(params=[(d, f) for d in ("uint8", "float16") for f in FORMATS])
def pair(request, folder):
  """Return a store and the dataset that was made from it."""
  dtype, file_format = request.param
  return open_store(folder / f"{dtype}.h5"), open_clips(dataset(folder, file_format, dtype))


def same(one, other):
  assert list(one) == list(other)
  for name, array in one.items():
    assert array.dtype == other[name].dtype, name
    np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_dataset_equals_its_store(pair):
  store, copy = pair
  assert len(copy) == CLIPS
  for field in dataclasses.fields(ClipStore):
    ours, theirs = getattr(store, field.name), getattr(copy, field.name)
    if field.name in ("path", "log_mel", "shard_starts", "fingerprint"):
      continue
    if isinstance(ours, np.ndarray):
      assert ours.dtype == theirs.dtype, field.name
      np.testing.assert_array_equal(ours, theirs)
    else:
      assert ours == theirs, field.name
  assert (copy.log_mel.shape, copy.log_mel.dtype) == (store.log_mel.shape, store.log_mel.dtype)


def test_selected_clips_equal_those_of_the_store(pair):
  store, copy = pair
  for clips in ([7, 2, 2, 60, 0], range(CLIPS), [], [CLIPS - 1]):
    clips = np.array(clips, np.int64)
    same(copy.read(clips), store.read(clips))
  with pytest.raises((IndexError, ValueError)):
    copy.read(np.array([CLIPS]))


def test_the_fingerprint_depends_on_shards_only_for_tfrecord(folder):
  store = open_store(folder / "uint8.h5")
  random, shards = (open_clips(dataset(folder, name)) for name in FORMATS)
  assert random.fingerprint == store.fingerprint
  assert random.shard_starts is None
  np.testing.assert_array_equal(shards.shard_starts, [0, 15, 30, 46, 61])
  made = write_tfds(str(folder / "five"), file_format="tfrecord", shards=5, store=store.path)
  prints = {store.fingerprint, shards.fingerprint, open_clips(made.path).fingerprint}
  assert len(prints) == 3


@pytest.mark.parametrize("file_format", FORMATS)
def test_optional_arrays_are_kept(tmp_path, monkeypatch, file_format):
  def in_processes(work, chunks, processes):
    yield from map(work, chunks)

  monkeypatch.setattr(store_builder, "in_processes", in_processes)
  rows = [Row(f"clip {i}", "train", str(i), small_store.VOCABULARY.ids[:i], "") for i in range(4)]
  clips = [Clip(np.ones(9, np.float32), 0.1 * i, 1000 * i) for i in range(3)]
  clips.append(Clip(np.zeros((small_store.FRAMES, small_store.BANDS), np.float32)))
  listing = make_listing(rows, small_store.VOCABULARY, lambda source: clips[int(source)], "made up")
  normaliser = np.arange(2 * small_store.BANDS, dtype=np.float32).reshape(2, -1)
  listing = dataclasses.replace(listing, normaliser=normaliser)
  path = tmp_path / "s.h5"
  store_builder.build_store(path, listing, small_store.FRONTEND, "uint8", workers=1)
  copy = open_clips(write_tfds(str(tmp_path), file_format=file_format, store=str(path)).path)
  if file_format == "array_record":
    assert copy.fingerprint == open_store(path).fingerprint
  assert (copy.seconds.dtype, copy.rate_hz.dtype) == (np.float32, np.int32)
  np.testing.assert_array_equal(copy.seconds, np.array([0, 0.1, 0.2, np.nan], np.float32))
  np.testing.assert_array_equal(copy.rate_hz, [0, 1000, 2000, 0])
  np.testing.assert_array_equal(copy.normaliser, normaliser)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_data_card_of_a_dataset_equals_that_of_its_store(folder, file_format):
  card = data_card(dataset(folder, file_format))
  expected = data_card(folder / "uint8.h5")
  differing = {name for name in expected if card[name] != expected[name]}
  assert differing <= {"store", "content_sha256"}


def test_a_sound_in_a_bucket_equals_that_in_a_folder(tmp_path):
  sound = np.random.default_rng(0).uniform(-0.5, 0.5, 900)
  soundfile.write(tmp_path / "a.wav", sound, 3000)
  ours, theirs = (
    load(str(tmp_path), small_store.FRONTEND, "a.wav") for load in (load_file, load_remote)
  )
  np.testing.assert_array_equal(theirs.sound, ours.sound)
  assert (theirs.seconds, theirs.rate_hz) == (ours.seconds, ours.rate_hz) == (0.3, 3000)
  with pytest.raises(UserError, match="no such file"):
    load_remote(str(tmp_path), small_store.FRONTEND, "b.wav")


def test_the_listing_of_a_bucket_equals_that_of_a_folder(tmp_path):
  labels = tmp_path / "l.csv"
  labels.write_text('filename,fold,positive_labels\na.wav,1,"/m/d,/m/a"\nb.wav,2,\n')
  bucket, local = (
    list_sounds(audio, str(labels), small_store.FRONTEND, small_store.VOCABULARY)
    for audio in ("gs://bucket/sounds", str(tmp_path))
  )
  assert (bucket.root, local.root) == ("gs://bucket/sounds", str(tmp_path))
  assert bucket.sources == bucket.clip_ids == local.clip_ids == ["a.wav", "b.wav"]
  assert bucket.label_indices.tolist() == local.label_indices.tolist() == [3, 0]


def test_tfds_reads_the_dataset(folder):
  import tensorflow_datasets as tfds

  store = open_store(folder / "float16.h5")
  builder = tfds.builder_from_directory(dataset(folder, "array_record", "float16"))
  clip = builder.as_data_source("clips")[3]
  np.testing.assert_array_equal(clip["log_mel"], store.log_mel[3])
  assert clip["peak_db"] == store.peak_db[3]
  assert list(clip["labels"]) == [0, 1, 2, 3]
  assert clip["clip_id"].decode() == "clip 3 ü"
  assert clip["fold"] == b"train"
  assert builder.info.features["labels"].feature.names == list(small_store.VOCABULARY.ids)
  for i, clip in enumerate(
    tfds.load("audioset_tfds/uint8", split="clips", data_dir=folder / "tfrecord")
  ):
    assert clip["clip_id"].numpy().decode() == f"clip {i} ü"
  assert i == CLIPS - 1


@pytest.mark.parametrize("start", [0, 1, 600_000])
def test_batches_equal_those_of_the_store(folder, start):
  store, copy = open_store(folder / "uint8.h5"), open_clips(dataset(folder, "array_record"))
  clips = np.arange(CLIPS)
  sampler = clip_order.balanced_sampler(clips, *store.labels_of(clips), 3)
  clips_of = functools.partial(clip_order.draw, sampler, batch=BATCH)
  ours, theirs = (list(batches(each, clips_of, start, start + 9)) for each in (store, copy))
  assert len(ours) == 9
  for one, other in zip(ours, theirs, strict=True):
    same(one, other)


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(record_files, "BLOCK", 4)
  monkeypatch.setattr(record_files, "BLOCKS_KEPT", 3)


@pytest.mark.usefixtures("small_blocks")
def test_shards_are_read_from_any_step(folder):
  store, copy = open_store(folder / "uint8.h5"), open_clips(dataset(folder, "tfrecord"))
  clips_of = shard_order(np.arange(CLIPS), copy.shard_starts, 5, BATCH)
  whole = list(batches(copy, clips_of, 0, 20))
  for step, batch in enumerate(whole):
    same(batch, store.read(clips_of(step)))
  for start in range(20):
    for batch, expected in zip(batches(copy, clips_of, start, 20), whole[start:], strict=True):
      same(batch, expected)


@pytest.mark.usefixtures("small_blocks")
def test_two_processes_partition_a_batch_of_shards(folder):
  copy = open_clips(dataset(folder, "tfrecord"))
  clips_of = shard_order(np.arange(CLIPS), copy.shard_starts, 5, BATCH)
  parts = [batches(copy, clips_of, 3, 9, Share(index, 2)) for index in range(2)]
  for step, pieces in enumerate(zip(*parts, strict=True), 3):
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    same(joined, copy.read(clips_of(step)))


def test_a_pass_in_shard_order_reads_each_block_once(folder, monkeypatch):
  monkeypatch.setattr(record_files, "BLOCK", 4)
  monkeypatch.setattr(record_files, "BLOCKS_KEPT", 8)
  copy = open_clips(dataset(folder, "tfrecord"))
  read = []
  whole = record_files.SequentialRecords._read
  monkeypatch.setattr(
    record_files.SequentialRecords,
    "_read",
    lambda self, *key: read.append(key) or whole(self, *key),
  )
  clips_of, steps = sequential(np.arange(CLIPS), BATCH)
  assert len(list(batches(copy, clips_of, 0, steps))) == steps
  assert len(read) == len(set(read)) == 4 * 4


def trained_on(path, workdir, steps, *overrides):
  every = ("evaluation.every=8", "checkpoint.every=8", f"optim.steps={steps}")
  config = runs_support.tiny_config(workdir.parent, f"data.store={path}", *every, *overrides)
  training_loop.train(config, workdir)
  return runs_support.saved(workdir).state


@pytest.fixture(scope="module")
def of_runs(tmp_path_factory):
  """Return a folder with datasets of the store that the tiny runs train on."""
  path = tmp_path_factory.mktemp("runs")
  runs_support.make_store(path / "store.h5")
  for file_format in FORMATS:
    write_tfds(str(path / file_format), file_format=file_format, shards=3, store=f"{path}/store.h5")
  return path


@pytest.mark.slow
def test_a_run_on_array_record_equals_that_on_the_store(of_runs, tmp_path):
  store, copy = of_runs / "store.h5", dataset(of_runs, "array_record", "store")
  expected = trained_on(store, tmp_path / "store", 8)
  whole = trained_on(copy, tmp_path / "copy", 8)
  trained_on(store, tmp_path / "moved", 3)
  moved = trained_on(copy, tmp_path / "moved", 8)
  assert runs_support.same_bits(whole, expected)
  assert runs_support.same_bits(moved, expected)
  ours = scoring.score_split(tmp_path / "copy", "latest", None, "test")
  theirs = scoring.score_split(tmp_path / "store", "latest", str(copy), "test")
  assert ours.scores.tobytes() == theirs.scores.tobytes()
  assert ours.clip_ids.tolist() == theirs.clip_ids.tolist()


@pytest.mark.slow
def test_a_run_on_tfrecord_is_resumed_exactly(of_runs, tmp_path):
  path, shuffled = dataset(of_runs, "tfrecord", "store"), "data.sampling=shuffled"
  whole = trained_on(path, tmp_path / "whole", 8, shuffled)
  trained_on(path, tmp_path / "parts", 5, shuffled)
  assert runs_support.same_bits(trained_on(path, tmp_path / "parts", 8, shuffled), whole)
  with pytest.raises(UserError, match="not the clip store"):  # because its order differs
    trained_on(of_runs / "store.h5", tmp_path / "parts", 9, shuffled)


@pytest.mark.slow
def test_balanced_sampling_needs_random_access(of_runs, tmp_path):
  path, on_device = dataset(of_runs, "tfrecord", "store"), "data.placement=device"
  with pytest.raises(UserError, match=r"data.sampling 'balanced'.*array_record"):
    trained_on(path, tmp_path / "run", 8)
  expected = trained_on(of_runs / "store.h5", tmp_path / "store", 4, on_device)
  assert runs_support.same_bits(trained_on(path, tmp_path / "run", 4, on_device), expected)


def failing(command, capsys):
  """Return the single line that a command with status 2 prints."""
  assert main([*map(str, command)]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1, lines
  return lines[0]


def damaged_copy(folder, tmp_path, file_format):
  copy = tmp_path / "copy"
  shutil.copytree(dataset(folder, file_format), copy)
  return copy


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("fault", ["missing", "cut short"])
def test_an_incomplete_shard_is_named(folder, tmp_path, file_format, fault):
  copy = damaged_copy(folder, tmp_path, file_format)
  shard = next(copy.glob("*-00002-of-*"))
  if fault == "missing":
    shard.unlink()
  else:
    shard.write_bytes(shard.read_bytes()[:-5])
  with pytest.raises(UserError) as caught:
    open_clips(copy)
  assert str(caught.value).startswith(f"{shard}: this shard ")
  assert "\n" not in str(caught.value)


def test_a_shard_that_is_damaged_during_reading_is_named(folder, tmp_path):
  copy = damaged_copy(folder, tmp_path, "tfrecord")
  opened = open_clips(copy)
  shard = next(copy.glob("*-00001-of-*"))
  content = shard.read_bytes()
  for left in (content[: len(content) // 2], content[3:], b""):
    shard.write_bytes(left)
    with pytest.raises(UserError, match=str(shard)):
      opened.log_mel[np.arange(20, 30)]
    opened.log_mel.blocks.clear()


def changed_metadata(copy, **changes):
  file = copy / "metadata.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda copy: changed_metadata(copy, format="atgcn_jax TFDS clips 99"), "of this version"),
    (lambda copy: changed_metadata(copy, shard_bytes={}), "list different shards"),
    (lambda copy: (copy / "metadata.json").write_text("{"), "cannot be read as a TFDS dataset"),
    (lambda copy: (copy / "metadata.json").unlink(), "but not of clips"),
    (lambda copy: (copy / "clips.npz").unlink(), "but not of clips"),
    (lambda copy: (copy / "clips.npz").write_bytes(b"PK"), "cannot be read as a TFDS dataset"),
    (lambda copy: (copy / "dataset_info.json").write_text("{}"), "cannot be read as a TFDS"),
    (lambda copy: (copy / "dataset_info.json").unlink(), "neither a clip store nor"),
    (lambda copy: (copy / "features.json").unlink(), "cannot be read as a TFDS dataset"),
  ],
)
def test_a_folder_that_is_not_a_dataset_of_clips_is_named(folder, tmp_path, change, words):
  copy = damaged_copy(folder, tmp_path, "array_record")
  change(copy)
  with pytest.raises(UserError) as caught:
    open_clips(copy)
  assert str(caught.value).startswith(f"{copy}: ")
  assert words in str(caught.value)
  assert "\n" not in str(caught.value)


def test_the_error_for_a_parent_folder_names_the_dataset(folder):
  with pytest.raises(UserError, match=str(dataset(folder, "tfrecord", "float16"))):
    open_clips(folder / "tfrecord")


def test_training_without_a_dataset_prints_one_line(folder, tmp_path, capsys):
  config = runs_support.write_config(tmp_path / "config.py", tmp_path)
  command = ["train", "--config", config, "--workdir", tmp_path / "run"]
  assert str(tmp_path) in failing(command, capsys)
  balanced = [*command, f"--config.data.store={dataset(folder, 'tfrecord')}"]
  assert "data.sampling" in failing(balanced, capsys)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py"]


def test_the_same_command_twice_and_other_content(folder, tmp_path, capsys):
  command = ["tfds", "--store", folder / "uint8.h5", "--out", tmp_path / "out", "--shards", 2]
  command = [*map(str, command)]
  path = dataset(tmp_path, "out")
  for _ in range(2):
    assert main(command) == 0
    assert capsys.readouterr().out == f"{path}: {CLIPS} clips\n"
  before = runs_support.contents(tmp_path)
  assert any(name.endswith("unnamed") for name in before) is False
  assert str(path) in failing([*command, "--file-format", "tfrecord"], capsys)
  other = tmp_path / "other" / "uint8.h5"
  small_store.make(other, 5)
  assert str(path) in failing(["tfds", "--store", other, "--out", tmp_path / "out"], capsys)
  other.unlink()
  other.parent.rmdir()
  assert runs_support.contents(tmp_path) == before


@pytest.mark.parametrize("text", ["{", "[]"])
def test_an_existing_dataset_that_is_damaged_is_refused(folder, tmp_path, capsys, text):
  path = dataset(tmp_path, "out")
  shutil.copytree(dataset(folder, "tfrecord"), path)
  (path / "metadata.json").write_text(text)
  command = ["tfds", "--store", folder / "uint8.h5", "--out", tmp_path / "out"]
  assert f"{path}: already exists" in failing(command, capsys)


def test_readers_of_records_are_closed(folder, monkeypatch):
  from array_record.python import array_record_module

  closed = []

  class Reader(array_record_module.ArrayRecordReader):
    def close(self):
      closed.append(self)
      super().close()

  monkeypatch.setattr(array_record_module, "ArrayRecordReader", Reader)
  (path, *_) = sorted(dataset(folder, "array_record").glob("*.array_record*"))
  records = record_files.every_record(str(path), "array_record")
  assert next(records)
  records.close()
  assert closed


def test_a_dataset_can_be_made_from_a_dataset(folder, tmp_path):
  made = write_tfds(
    str(tmp_path), file_format="array_record", store=str(dataset(folder, "tfrecord"))
  )
  assert open_clips(made.path).fingerprint == open_store(folder / "uint8.h5").fingerprint


BAD = {
  "--store {missing}": "missing.h5",
  "--store {text}": "text.h5",
  "--store {store} --shards 0": "--shards",
  "--store {store} --shards 999": "--shards",
  "--store {store} --labels {text}": "--labels",
  "--store {store} --beam_pipeline_options runner=X": "--beam-pipeline-options",
  "--store {store} --out gs://bucket": "gs://bucket",
  "--audio {folder}": "--labels",
  "--audio {folder} --labels {text}": "--audio",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments_print_one_line(folder, tmp_path, arguments, capsys):
  (tmp_path / "text.h5").write_text("words")
  names = {
    "missing": tmp_path / "missing.h5",
    "text": tmp_path / "text.h5",
    "store": folder / "uint8.h5",
    "folder": tmp_path / "sounds",
  }
  command = ["tfds", "--out", tmp_path / "out", *arguments.format(**names).split()]
  assert BAD[arguments] in failing(command, capsys)
  assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["text.h5"]


def test_an_unwritable_path(folder, tmp_path, capsys):
  (tmp_path / "file").touch()
  out = tmp_path / "file" / "out"
  assert str(out) in failing(["tfds", "--store", folder / "uint8.h5", "--out", out], capsys)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_an_error_midway_leaves_nothing(folder, tmp_path, monkeypatch, error):
  def failing_records(path, file_format):
    raise error("midway")
    yield

  monkeypatch.setattr("atgcn_jax.data.tfds.description.every_record", failing_records)
  expected = UserError if error is OSError else error
  with pytest.raises(expected):
    write_tfds(str(tmp_path / "out"), store=str(folder / "uint8.h5"))
  assert not [
    path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != ".config"
  ]


def test_paths_in_a_bucket_are_complete():
  from atgcn_jax.runs.config import data_path

  assert data_path("data", "gs://bucket/clips") == "gs://bucket/clips"
  assert data_path("data", "clips") == str(pathlib.Path("data/clips"))


def test_an_unreachable_bucket_is_named(monkeypatch):
  import tensorflow as tf
  from etils import epath

  def unreachable(path):
    raise tf.errors.PermissionDeniedError(None, None, "no\ncredentials")

  monkeypatch.setattr("atgcn_jax.runtime.buckets._check_once", lambda place: None)
  monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", unreachable)
  with pytest.raises(UserError, match=r"^gs://bucket/clips: .*no credentials"):
    open_clips("gs://bucket/clips")


def test_without_beam_the_error_says_how_to_install_it(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
  command = ["tfds", "--audio", tmp_path, "--labels", tmp_path / "l.csv", "--out", tmp_path / "o"]
  assert "atgcn_jax[beam]" in failing(command, capsys)


@pytest.fixture(scope="module")
def beam_python(tmp_path_factory):
  """Return a Python with the extra `beam`: ATGCN_BEAM_PYTHON, or that of a new environment."""
  if given := os.environ.get("ATGCN_BEAM_PYTHON"):
    return given
  path = tmp_path_factory.mktemp("beam")
  for name in ("atgcn_jax", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
    whole = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
    whole(REPOSITORY / name, path / name)
  subprocess.run([sys.executable, "-m", "venv", path / "venv"], check=True)
  python = path / "venv" / "bin" / "python"
  subprocess.run([python, "-m", "pip", "install", "-q", f"{path}[beam]"], check=True)
  return str(python)


def ended(command):
  """Run a command that imports this checkout and return the finished process."""
  env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
  return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
  "options", ["", "direct_running_mode=multi_processing,direct_num_workers=2"]
)
def test_beam_writes_the_same_bytes_as_a_store(shared, beam_python, tmp_path, options):
  rows = (shared / "data/esc10/labels.csv").read_text().splitlines()[:25]
  audio = tmp_path / "audio"
  audio.mkdir()
  for row in rows[1:]:
    name = row.partition(",")[0]
    shutil.copy(shared / "data/esc10/audio" / name, audio / name)
  (tmp_path / "good.csv").write_text("\n".join(rows))
  (audio / "text.wav").write_text("words")
  bad = ['text.wav,1,"/m/068hy"', 'none.wav,1,"/m/068hy"']
  (tmp_path / "all.csv").write_text("\n".join([rows[0], bad[0], *rows[1:9], bad[1], *rows[9:]]))
  vocabulary = shared / "data/audioset/class_labels_indices.csv"
  prepare(audio, tmp_path / "good.csv", tmp_path / "s.h5", vocabulary=vocabulary, workers=1)
  command = [beam_python, "-m", "atgcn_jax", "tfds", "--audio", audio]
  command += ["--labels", tmp_path / "all.csv", "--vocabulary", vocabulary, "--shards", "3"]
  command += ["--out", tmp_path / "out", "--beam-pipeline-options", options]
  done = ended(command)
  assert done.returncode == 1, done.stderr  # two files are bad
  path = dataset(tmp_path, "out", "all")
  assert done.stdout.splitlines()[-1] == f"{path}: 24 clips"
  for name in ("text.wav", "none.wav"):
    assert f"atgcn tfds: left out {name} (" in done.stderr
    assert name in (path / "unreadable.csv").read_text()
  store, copy = open_store(tmp_path / "s.h5"), open_clips(path)
  assert copy.fingerprint == store.fingerprint
  same(copy.read(np.arange(24)), store.read(np.arange(24)))
  for name in OPTIONAL:
    np.testing.assert_array_equal(getattr(copy, name), getattr(store, name))
  assert len(list(path.glob("*.array_record-*-of-00003"))) == 3
  assert not [*path.glob("rows-*"), *path.glob("unreadable-*")]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["runner=Nonsense", "direct_num_workers=x"])
def test_bad_beam_options_print_one_line(beam_python, tmp_path, options):
  (tmp_path / "l.csv").write_text('filename,fold,positive_labels\na.wav,1,"x"\n')
  command = [beam_python, "-m", "atgcn_jax", "tfds", "--audio", tmp_path, "--labels"]
  command += [tmp_path / "l.csv", "--out", tmp_path / "out", "--beam-pipeline-options", options]
  done = ended(command)
  assert done.returncode == 2
  ours = [line for line in done.stderr.splitlines() if not line.startswith("WARNING:root:")]
  assert len(ours) == 1, ours
  assert options in ours[0]
  assert not (tmp_path / "out").exists()
