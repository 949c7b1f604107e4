"""Runs and data in a bucket, by the clients as they are, of a storage service on this machine."""

import pytest
from runs_support import (
  make_store,
  same_bits,
  saved,
  write_config,
)

from atgcn_jax import buckets, cli
from atgcn_jax.runs import log

pytest.importorskip("google.cloud.storage", reason="buckets need google-cloud-storage")
from fake_gcs import FakeGcs

OVERRIDES = ("data.sampling=shuffled", "checkpoint.every=100", "evaluation.every=100")
RUN = "gs://bucket/runs/one"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
  """One for all tests: TensorFlow keeps what it was told of proxy, certificate and credentials."""
  fake = FakeGcs(tmp_path_factory.mktemp("service"), "bucket")
  with pytest.MonkeyPatch.context() as patch:
    for name, value in fake.environment().items():
      patch.setenv(name, value)
    yield fake
  fake.stop()


@pytest.fixture(autouse=True)
def _fresh(service):
  """Each test asks anew for the buckets that it names."""
  for function in (buckets._session, buckets._check_bucket):
    function.cache_clear()
  yield
  service.fail(False)
  for function in (buckets._session, buckets._check_bucket):
    function.cache_clear()


@pytest.fixture(scope="module")
def config_file(service, tmp_path_factory):
  """The config of a run on a dataset in the bucket."""
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
  """The address of a run that was trained, and then resumed."""
  assert train(config_file, RUN, 3) == 0
  assert train(config_file, RUN, 5) == 0
  return RUN


def below(service, address):
  """{name: content} of what lies below an address."""
  bucket, name = buckets.bucket_and_name(address)
  objects = service.objects(bucket).items()
  return {key[len(name) + 1 :]: value for key, value in objects if key.startswith(name + "/")}


def test_a_run_in_a_bucket_is_the_run_on_a_disk(service, run, config_file, tmp_path):
  assert train(config_file, tmp_path / "run", 5) == 0
  one, other = saved(run), saved(tmp_path / "run")
  assert one.step == other.step == 5
  assert same_bits(one.state, other.state)
  assert one.history == other.history
  local = [record["step"] for record in log.read_records(tmp_path / "run")]
  assert [record["step"] for record in log.read_records(run)] == [1, 2, 3, 3, 4, 5, 5]
  assert local == [1, 2, 3, 4, 5, 5]
  files = below(service, run)
  assert {name.partition("/")[0] for name in files if name} >= {
    "checkpoints",
    "metrics.jsonl",
    "tensorboard",
  }
  events = [content for name, content in files.items() if "tfevents" in name]
  assert len(events) == 2
  assert all(b"train/loss" in content for content in events)
