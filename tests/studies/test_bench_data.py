"""Tests of the benchmarks that move clips to the device, on small stores."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from atgcn_jax import cli
from atgcn_jax.bench import data as bench_data
from atgcn_jax.bench import feed as bench_feed
from atgcn_jax.bench import steps
from atgcn_jax.errors import UserError

TWIN = """
import argparse, json
import h5py

options = argparse.ArgumentParser()
for name in ("--file", "--dataset", "--batch"):
  options.add_argument(name)
given = options.parse_args()
with h5py.File(given.file) as file:
  print(json.dumps({"clips_per_second": file[given.dataset].shape[0] * int(given.batch)}))
"""


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(bench_data, "ROUNDS", 2)
  monkeypatch.setattr(bench_data, "BATCHES", 4)
  monkeypatch.setattr(bench_data, "AUDIOSET", 5000)
  monkeypatch.setattr(bench_feed, "ROUNDS", 2)


def left_behind(tmp_path):
  return [path.name for path in tmp_path.rglob("*") if "bench" in path.name]


def test_data_with_a_twin(tmp_path, monkeypatch, capsys):
  script = tmp_path / "twin.py"
  script.write_text(TWIN)
  found = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *at: found(name, *at) or (name == "torch" or None)
  )
  command = f"bench data --clips 48 --batch 16 --json --twin {script}"
  assert cli.main(command.split()) == 0
  result = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert result["twin_clips_per_second"] == 48 * 16
  assert result["ratio"] == pytest.approx(result["clips_per_second"] / (48 * 16))
  assert result["clips_per_second"] == pytest.approx(16 / result["seconds_per_step"])
  assert min(result["gather_clips_per_second"], result["peak_bytes"]) > 0
  for name in ("resident_bytes", "own_bytes"):
    assert list(result[name]) == ["2", "4", "6", "8"]
  # Two labels per clip, of 4 bytes each, and the start of each class.
  assert result["sampler_bytes"] == pytest.approx(5000 * 2 * 4 + 528 * 8, rel=0.05)
  assert result["sampler_peak_bytes"] > result["sampler_bytes"]
  assert not left_behind(tmp_path)


def test_data_without_a_twin():
  result = bench_data.bench_data(48, 8)
  assert result["ratio"] is None
  assert result["twin_clips_per_second"] is None


def test_a_twin_must_exist(monkeypatch, tmp_path):
  with pytest.raises(UserError, match="no such file"):
    bench_data.check_twin(str(tmp_path / "twin.py"))
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  script = tmp_path / "twin.py"
  script.write_text(TWIN)
  with pytest.raises(UserError, match="needs torch"):
    bench_data.check_twin(str(script))


def test_the_store_is_random_and_temporary(tmp_path):
  with bench_data.made_up_store(2100) as store:
    path = pathlib.Path(store.path)
    assert len(store) == 2100
    assert store.log_mel.shape[1:] == (400, 64)
    assert 120 < store.log_mel[::50].mean() < 135
    assert (store.log_mel[0] != store.log_mel[2000]).any()  # the first of two chunks
    assert np.diff(store.label_offsets).mean() == pytest.approx(2, abs=0.1)
  assert not path.exists()
  assert not left_behind(tmp_path)


def test_the_store_is_removed_after_an_interrupt(tmp_path):
  def stopped():
    with bench_data.made_up_store(3):
      assert left_behind(tmp_path)
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    stopped()
  assert not left_behind(tmp_path)


def test_memory_now():
  reported = bench_data.memory_now("VmRSS:")
  assert reported == 0 or reported > 2**20
  assert bench_data.memory_now("NoSuch:") == 0


@pytest.mark.slow
def test_feed(tmp_path, monkeypatch):
  full = steps.model_section

  def narrow(model_name, dtype):
    section = full(model_name, dtype)
    section.width = 1 / 32
    return section

  monkeypatch.setattr(steps, "model_section", narrow)
  result = bench_feed.bench_feed(40, "cnn10", 8, 2, "float32")
  assert result["clips_per_second"] == pytest.approx(8 / result["seconds_per_step"])
  for name in ("host", "device"):
    slowdown = result[f"{name}_seconds"] / result["constant_seconds"] - 1
    assert result[f"{name}_slowdown"] == pytest.approx(slowdown)
    assert 0 < result[f"{name}_wait"] < 1
  assert not left_behind(tmp_path)
