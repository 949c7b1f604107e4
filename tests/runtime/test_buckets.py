"""Runs and data in a bucket: the real clients, with a local storage service."""

import gzip
import json
import os
import socket
import types

import numpy as np
import pytest
import soundfile
from fake_gcs import READ_ONLY, FakeGcs
from marks import slow
from runs_support import (
  VOCABULARY,
  make_store,
  newest_sound,
  same_bits,
  saved,
  tiny_config,
  waveforms,
  write_config,
)

from atgcn_jax import cli
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.vocabulary import read_vocabulary, write_vocabulary
from atgcn_jax.runs import folder_lock, growing_files, lock_holder, log, training_loop
from atgcn_jax.runs.added_weights import counts_at_hand
from atgcn_jax.runtime import buckets
from atgcn_jax.serving.tagger import Tagger
from atgcn_jax.training import saved_checkpoints, sharding

pytest.importorskip("google.cloud.storage", reason="buckets need google-cloud-storage")

OVERRIDES = ("data.sampling=shuffled", "checkpoint.every=100", "evaluation.every=100")
RUN = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
  """Start one service for all tests: TensorFlow caches proxy, certificate and credentials."""
  fake = FakeGcs(tmp_path_factory.mktemp("service"), "bucket")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in fake.environment().items():
      patch.setenv(name, value)
    yield fake
  fake.stop()


@pytest.fixture(autouse=True)
def _fresh(service):
  """Clear the cache of readable buckets before each test."""
  buckets._session.cache_clear()
  buckets._readable.clear()
  yield
  service.fail(False)
  buckets._session.cache_clear()
  buckets._readable.clear()


@pytest.fixture(scope="module")
def config_file(service, tmp_path_factory):
  """Return the config of a run on a dataset in the bucket."""
  folder = tmp_path_factory.mktemp("config")
  make_store(folder / "tiny.h5")
  command = ["tfds", "--store", folder / "tiny.h5", "--out", "gs://bucket/data"]
  assert cli.main([*map(str, command), "--file-format=tfrecord"]) == 0
  return write_config(folder / "config.py", "gs://bucket/data/audioset_tfds/tiny/1.0.0")


def train(config_file, workdir, steps, *overrides):
  command = ["train", "--config", str(config_file), "--workdir", str(workdir)]
  changes = [*OVERRIDES, f"optim.steps={steps}", *overrides]
  return cli.main(command + [f"--config.{change}" for change in changes])


@pytest.fixture(scope="module")
def run(config_file):
  """Return the address of a run that was trained and then resumed."""
  assert train(config_file, RUN, 3) == 0
  assert train(config_file, RUN, 5) == 0
  return RUN


def below(service, address):
  """Return {name: content} of all objects below an address."""
  bucket, name = buckets.bucket_and_name(address)
  objects = service.objects(bucket).items()
  return {key[len(name) + 1 :]: value for key, value in objects if key.startswith(name + "/")}


@pytest.mark.slow
def test_a_run_in_a_bucket_equals_the_run_on_a_disk(service, run, config_file, tmp_path):
  for steps in (3, 5):
    assert train(config_file, tmp_path / "run", steps) == 0
  one, other = saved(run), saved(tmp_path / "run")
  assert one.step == other.step == 5
  assert same_bits(one.state, other.state)
  assert one.history == other.history
  there, here = log.read_records(run), log.read_records(tmp_path / "run")
  assert [record["step"] for record in there] == [1, 2, 3, 3, 4, 5, 5]
  assert [record.get("loss") for record in there] == [record.get("loss") for record in here]
  files = below(service, run)
  assert {name.partition("/")[0] for name in files if name} >= {
    "checkpoints",
    "metrics.jsonl",
    "tensorboard",
  }
  events = [content for name, content in files.items() if "tfevents" in name]
  assert len(events) == 2
  assert all(b"train/loss" in content for content in events)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_evaluated_and_tags(service, run, capsys, tmp_path):
  assert cli.main(["evaluate", "--workdir", run, "--json"]) == 0
  reported = json.loads(capsys.readouterr().out.splitlines()[-1])
  files = below(service, run)
  assert json.loads(files["evaluation/test-5.json"]) == reported
  assert files["evaluation/test-5.csv"].count(b"\n") == len(VOCABULARY) + 1
  assert files["report.html"].startswith(b"<!DOCTYPE html>")
  soundfile.write(tmp_path / "a.wav", waveforms(1, seed=0)[0][0], 4000)
  buckets.path_of("gs://bucket/a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
  assert cli.main(["tag", "--workdir", run, "--json", "gs://bucket/a.wav"]) == 0
  tags = json.loads(capsys.readouterr().out.splitlines()[-1])["tags"]
  local = Tagger.restore(run).tag(tmp_path / "a.wav")
  assert [tag["id"] for tag in tags] == [tag.id for tag in local]


@pytest.mark.slow
@pytest.mark.slow  # A copy requests each of about 100 objects several times.
def test_unfinished_and_damaged_checkpoints_are_passed_over(service, run):
  copy = "gs://bucket/runs/damaged"
  for name, content in below(service, run).items():
    if name and not name.endswith("/"):
      buckets.path_of(f"{copy}/{name}").write_bytes(content)
  assert saved_checkpoints.saved_steps(copy) == [3, 5]
  buckets.path_of(f"{copy}/checkpoints/5/commit_success.txt").unlink()
  assert saved_checkpoints.saved_steps(copy) == [3]
  buckets.path_of(f"{copy}/checkpoints/5/commit_success.txt").write_text("again")
  buckets.path_of(f"{copy}/checkpoints/5/run/metadata").write_text("{")
  with pytest.warns(UserWarning, match="checkpoint 5 is damaged"):
    assert newest_sound(copy, sharding.Layout(sharding.data_mesh())).step == 3
  assert saved_checkpoints.saved_steps(copy) == [3]
  assert "run/metadata" in below(service, f"{copy}/damaged/5-0")


@pytest.mark.slow
def test_an_unreadable_checkpoint_is_not_damaged(service, run, monkeypatch):
  def lost(*_):
    service.fail(True)
    raise ValueError("no answer")

  monkeypatch.setattr(saved_checkpoints, "read_description", lost)
  with pytest.raises(UserError, match=f"^{run}: the storage service returned 503"):
    newest_sound(run, sharding.Layout(sharding.data_mesh()))
  service.fail(False)
  assert 5 in saved_checkpoints.saved_steps(run)


def test_a_bucket_that_becomes_unreachable_prints_one_line(
  service, config_file, monkeypatch, capsys
):
  def lost(*_, **__):
    service.fail(True)
    raise RuntimeError("UNAVAILABLE")

  monkeypatch.setattr(training_loop, "train", lost)
  assert train(config_file, RUN, 5) == 1
  message = capsys.readouterr().err.splitlines()
  assert len(message) == 1
  assert RUN in message[0]
  assert "503" in message[0]


def test_one_training_at_a_time_writes_into_a_bucket(service, monkeypatch, config_file, capsys):
  place, name = "gs://bucket/runs/held", lock_holder.NAME
  monkeypatch.setattr(folder_lock, "POLL_SECONDS", 0.01)
  with folder_lock.held(place):
    assert train(config_file, place, 1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{place}: process {os.getpid()} on " in line
    assert list(below(service, place)) == [name]
  assert below(service, place) == {}

  def leave(**changes):
    record = json.loads(lock_holder.own_record(has_system_lock=False)) | changes
    buckets.path_of(f"{place}/{name}").write_text(json.dumps(record))

  # The lock of a process that has ended, and that of a process on a machine that is gone.
  leave(started="1")
  folder_lock.FolderLock(place).release()
  monkeypatch.setattr(folder_lock, "DEAD_AFTER", 0.2)
  leave(machine=["another", "pid:[1]"], host="far", process=7)
  with pytest.warns(UserWarning, match=r"locked by process 7 on far"):
    lock = folder_lock.FolderLock(place)
  # It is renewed, even after a lost response, but not after another process has acquired it.
  monkeypatch.setattr(folder_lock, "BEAT_SECONDS", -1)
  for taken in (False, True):
    if taken:
      leave(host="far", process=7)
    else:
      buckets.path_of(f"{place}/{name}").write_bytes(below(service, place)[name])
    for _ in range(2):
      if taken:
        with pytest.raises(WorkFailed, match="process 7 on far took over the folder"):
          lock.check()
      else:
        lock.check()
  lock.release()
  assert json.loads(below(service, place)[name])["host"] == "far"


def test_label_files_are_read_from_a_bucket(service, tmp_path):
  write_vocabulary(tmp_path / "vocabulary.csv", VOCABULARY)
  text = (tmp_path / "vocabulary.csv").read_bytes()
  np.savez(tmp_path / "a.npz", a=np.arange(3))
  for name, content in (
    ("vocabulary.csv", text),
    ("vocabulary.csv.gz", gzip.compress(text)),
    ("a.npz", (tmp_path / "a.npz").read_bytes()),
  ):
    buckets.path_of(f"gs://bucket/labels/{name}").write_bytes(content)
  assert read_vocabulary("gs://bucket/labels/vocabulary.csv") == VOCABULARY
  assert read_vocabulary("gs://bucket/labels/vocabulary.csv.gz") == VOCABULARY
  assert read_arrays("gs://bucket/labels/a.npz")["a"].tolist() == [0, 1, 2]
  with pytest.raises(UserError, match=r"^gs://bucket/labels/none.csv: no such file"):
    read_vocabulary("gs://bucket/labels/none.csv")


def test_counts_for_added_labels_are_read_from_a_bucket(service, tmp_path):
  size = len(VOCABULARY)
  np.savez(
    tmp_path / "counts.npz",
    mids=VOCABULARY.ids,
    occurrences=np.full(size, 9),
    cooccurrences=np.ones((size, size), int) - np.eye(size, dtype=int),
  )
  address = "gs://bucket/labels/counts.npz"
  config = tiny_config(tmp_path, f"graph.source={address}")
  run = types.SimpleNamespace(config=config, vocabulary=VOCABULARY)
  assert counts_at_hand(run, None) is None
  buckets.path_of(address).write_bytes((tmp_path / "counts.npz").read_bytes())
  assert counts_at_hand(run, None).occurrences.tolist() == [9] * size


def test_a_growing_file_is_written_periodically(service, monkeypatch):
  path = buckets.path_of("gs://bucket/grown/lines")
  file = growing_files.growing_file(path, "a\n")
  assert path.read_text() == "a\n"
  file.write(b"b\n")
  assert path.read_text() == "a\n"
  file.flush()
  assert path.read_text() == "a\nb\n"
  monkeypatch.setattr(growing_files, "BUCKET_SECONDS", 0)
  file.write(b"c\n")
  assert path.read_text() == "a\nb\nc\n"
  file.close()


# Missing prerequisites.


def refused(capsys, *arguments):
  """Return the single line of a command that ends with status 2."""
  assert cli.main([*map(str, arguments)]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1, lines
  return lines[0]


def no_port():
  """Return a port at which nothing listens."""
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    return taken.getsockname()[1]


@pytest.mark.parametrize(
  "command", ["evaluate --workdir {}", slow("tag a.wav --workdir {}"), "train {}"]
)
@pytest.mark.parametrize(
  ("missing", "reported"),
  [
    ("credentials", "no credentials; run `gcloud auth application-default login`"),
    ("file", "no credentials in /nowhere.json"),
    ("network", "the storage service cannot be reached"),
    ("bucket", "no such bucket"),
    ("package", "google-cloud-storage is not installed; pip install 'atgcn_jax[gcs]'"),
    ("service", "the storage service cannot be reached"),
    ("scheme", "not a supported address"),
  ],
)
def test_missing_parts_are_named(
  service, command, missing, reported, tmp_path, monkeypatch, capsys
):
  address = "gs://none/run" if missing == "bucket" else "gs://bucket/none/run"
  if missing == "credentials":
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
  elif missing == "file":
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
  elif missing == "network":
    for name in ("https_proxy", "HTTPS_PROXY"):
      monkeypatch.setenv(name, f"http://127.0.0.1:{no_port()}")
  elif missing == "package":
    monkeypatch.setattr(buckets, "_is_installed", lambda name: name == "tensorflow")
  elif missing == "service":
    service.fail(True)
  elif missing == "scheme":
    address = "s3://bucket/run"
  if command == "train {}":
    config = write_config(tmp_path / "config.py", tmp_path / "none.h5")
    line = refused(capsys, "train", "--config", config, "--workdir", address)
  else:
    line = refused(capsys, *command.format(address).split())
  assert reported in line
  assert address in line
  service.fail(False)
  assert not any("none/run" in name for name in service.objects("bucket"))


def test_a_read_only_bucket_is_rejected_for_a_run(service, config_file, capsys):
  workdir = f"gs://{READ_ONLY}/run"
  command = ("train", "--config", config_file, "--workdir", workdir)
  line = refused(capsys, *command)
  assert workdir in line
  assert "do not permit to write" in line
  assert service.objects(READ_ONLY) == {}


def test_a_clip_store_in_a_bucket_is_rejected(service, tmp_path, capsys):
  config = write_config(tmp_path / "config.py", "gs://bucket/store.h5")
  line = refused(capsys, "train", "--config", config, "--workdir", tmp_path / "run")
  assert "gs://bucket/store.h5: a clip store must be on a disk" in line
  assert not (tmp_path / "run").exists()
