"""Clips in device memory: batches equal those of the host, or come from each device's own part."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small_store
from flax import linen as nn
from marks import slow
from runs_support import contents, same_bits, saved, tiny_config, trained

from atgcn_jax import cli
from atgcn_jax.data.sampling import clip_order, device_shares
from atgcn_jax.errors import UserError
from atgcn_jax.plan.compiled_step import collectives, topology_devices
from atgcn_jax.runs import step_inputs, training_loop
from atgcn_jax.runs.config import default_config
from atgcn_jax.runs.parts import optimiser_of
from atgcn_jax.training import resident, sharding
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.state import start_state
from atgcn_jax.training.step import Normaliser, make_train_step

CLIPS, BATCH = 41, 8
CHOSEN = np.flatnonzero(np.arange(CLIPS) % 7 != 3)


@pytest.fixture(scope="module", params=["uint8", slow("float16")])
def store(request, tmp_path_factory):
  return small_store.make(tmp_path_factory.mktemp("feed") / "s.h5", CLIPS, request.param)


@pytest.fixture
def config():
  folder = trained().parent
  return lambda *overrides: tiny_config(folder, *overrides)


def mesh_of(devices):
  return sharding.data_mesh(jax.devices()[:devices])


def fed(make, store, devices, steps, *, balanced, seed=2):
  """Return the batches that a jitted step gets."""
  made = make(store, CHOSEN, mesh_of(devices), steps, BATCH, seed, balanced=balanced)
  return [jax.device_get(jax.jit(made.batch_of)(given)) for given in made.given]


def assert_same(batch, expected):
  assert set(batch) == set(expected)
  for name, array in expected.items():
    assert batch[name].dtype == array.dtype, name
    np.testing.assert_array_equal(batch[name], array, err_msg=name)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("steps", [range(12), range(600_000, 600_003)])
def test_one_device_has_the_batches_of_the_host(store, balanced, steps):
  pairs = [
    fed(make, store, 1, steps, balanced=balanced)
    for make in (step_inputs.host_feed, step_inputs.device_feed)
  ]
  assert len(pairs[0]) == len(steps)
  for expected, batch in zip(*pairs, strict=True):
    assert_same(batch, expected)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("devices", [2, 8])
def test_each_device_draws_its_share_from_its_own_clips(store, devices, balanced):
  steps, own_batch = range(5, 17), BATCH // devices
  got = fed(step_inputs.device_feed, store, devices, steps, balanced=balanced)
  offsets, labels = store.labels_of(CHOSEN)
  dealt = device_shares.deal(offsets, labels, devices, 2, balanced=balanced)
  share = clip_order.unlabelled_share(offsets)
  assert share > 0
  for part, own in enumerate(dealt):
    clips = CHOSEN[own]
    sampler = device_shares.part_sampler(
      store, clips, part, devices, 2, balanced=balanced, share=share
    )
    for step, batch in zip(steps, got, strict=True):
      expected = store.read(clips[clip_order.draw(sampler, step, own_batch)])
      mine = slice(part * own_batch, (part + 1) * own_batch)
      assert_same({name: array[mine] for name, array in batch.items()}, expected)


@pytest.mark.parametrize("make", [step_inputs.host_feed, step_inputs.device_feed])
@pytest.mark.parametrize("devices", [1, 8])
def test_clips_without_a_label_are_fed_with_their_share(store, make, devices):
  batches = fed(make, store, devices, range(80), balanced=True)
  unlabelled = np.concatenate([~batch["labels"].any(axis=1) for batch in batches])
  expected = float(clip_order.unlabelled_share(store.labels_of(CHOSEN)[0]))
  assert unlabelled.mean() == pytest.approx(expected, abs=0.03)
  # All of them are drawn.
  clips = CHOSEN[np.diff(store.labels_of(CHOSEN)[0]) == 0]
  seen = {peak for batch in batches for peak in batch["peak_db"].tolist()}
  assert set(store.peak_db[clips].tolist()) <= seen


def test_no_clip_leaves_its_device(store):
  mesh = mesh_of(8)
  made = step_inputs.device_feed(store, CHOSEN, mesh, range(1), BATCH, 0, balanced=True)
  given = next(made.given)
  dealt = device_shares.deal(*store.labels_of(CHOSEN), 8, 0, balanced=True)
  rows = max(map(len, dealt))
  for part, shard in enumerate(given["clips"]["log_mel"].addressable_shards):
    assert shard.data.shape == (rows, small_store.FRAMES * small_store.BANDS)
    assert shard.device == mesh.devices.flat[part]
    own = store.log_mel[CHOSEN[dealt[part]]].reshape(len(dealt[part]), -1)
    np.testing.assert_array_equal(np.asarray(shard.data)[: len(own)], own)
  program = jax.jit(made.batch_of).lower(given).compile().as_text()
  assert "gather" in program
  for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
    assert exchange not in program


@pytest.mark.slow
def test_memory_of_all_of_audioset_on_v5e_chips():
  pytest.importorskip("libtpu", reason="no libtpu: pip install 'atgcn_jax[tpu]'")
  mesh = sharding.data_mesh(topology_devices("v5e:4x4"))
  split, rows = sharding.split(mesh), 2_041_789 // 16 + 1
  like = resident.pack_clips(
    {
      "log_mel": np.zeros((1, 400, 64), np.uint8),
      "peak_db": np.zeros(1, np.float32),
      "labels": np.zeros((1, 527), np.uint8),
    }
  )
  clips = {
    name: jax.ShapeDtypeStruct((16 * rows, *x.shape[1:]), x.dtype) for name, x in like.items()
  }
  given = {"clips": clips, "rows": jax.ShapeDtypeStruct((16 * 64,), np.int32)}
  gather = resident.gathering(mesh, 400, 64, 527)
  compiled = jax.jit(gather, in_shardings=(split,), out_shardings=split).lower(given).compile()
  memory = compiled.memory_analysis()
  # Only the clips are in memory, without padding and without a copy.
  clip = sum(x.nbytes for x in like.values())
  assert memory.argument_size_in_bytes == pytest.approx(rows * clip, rel=0.001)
  assert memory.temp_size_in_bytes < 10e6
  assert collectives(compiled.as_text()) == []


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_memory_is_filled_chunk_by_chunk(monkeypatch, chunk):
  monkeypatch.setattr(resident, "CHUNK", chunk)
  whole = np.arange(8 * 13 * 3, dtype=np.uint8).reshape(8, 13, 3)
  asked = []

  def read(place, first, last):
    asked.append(last - first)
    return {"rows": whole[place, first:last], "sums": whole[place, first:last].sum(axis=1)}

  arrays = resident.resident(mesh_of(8), 13, read)
  np.testing.assert_array_equal(arrays["rows"], whole.reshape(-1, 3))
  np.testing.assert_array_equal(arrays["sums"], whole.reshape(-1, 3).sum(axis=1))
  assert set(asked) == {min(chunk, 13)}


class Small(nn.Module):
  """A minimal system for the training step."""

  @nn.compact
  def __call__(self, x, *, train, return_features=False, after_norm=None, placement=None):
    x = nn.BatchNorm(use_running_average=not train)(x)
    x = x if after_norm is None else after_norm(x)
    x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
    logits = nn.Dense(4)(nn.Dropout(0.2, deterministic=not train)(x))
    return {"logits": logits} if return_features else logits


@pytest.mark.parametrize("balanced", [True, slow(False)])
def test_on_one_device_training_gives_the_same_bits(store, balanced):
  mesh, config = mesh_of(1), default_config()
  config.augment.mixup_alpha = 0.0  # its distribution takes seconds to compile
  config.augment.time_width, config.augment.band_width = 4, 2
  normaliser = Normaliser(np.full(5, -40.0, "f"), np.linspace(10, 20, 5, dtype="f"))
  adam = optimiser_of(config.optim)

  @jax.jit
  def first_state():
    silence = np.zeros((1, *store.log_mel.shape[1:]), "f")
    return start_state(Small().init(jax.random.key(0), silence, train=False), adam)

  def trained_by(make):
    made = make(store, CHOSEN, mesh, range(20), BATCH, 2, balanced=balanced)
    step = make_train_step(
      Small(),
      adam,
      mesh,
      normaliser=normaliser,
      augmentation=Augmentation(**config.augment),
      seed=0,
      batch_of=made.batch_of,
    )
    state = jax.device_put(first_state(), sharding.replicated(mesh))
    for given in made.given:
      state, _ = step(state, given, 1.0)
    return state

  host, device = trained_by(step_inputs.host_feed), trained_by(step_inputs.device_feed)
  assert int(host.step) == 20
  assert same_bits(host, device)


# Complete runs.


def train_tiny(config, workdir, steps, placement):
  """Return the state of a run without validation."""
  overrides = f"optim.steps={steps}", f"data.placement={placement}", "data.validation_folds=()"
  return training_loop.train(config(*overrides), workdir)


@pytest.mark.slow
def test_on_one_device_a_run_ends_with_the_same_bits(tmp_path, config, monkeypatch):
  mesh = mesh_of(1)
  monkeypatch.setattr(sharding, "data_mesh", lambda devices=None, label_parts=1: mesh)
  host, device = (
    train_tiny(config, tmp_path / placement, 8, placement) for placement in step_inputs.PLACEMENTS
  )
  assert same_bits(host, device)


@pytest.mark.slow
def test_on_eight_devices_a_resumed_run_equals_an_undisturbed_one(tmp_path, config):
  undisturbed = train_tiny(config, tmp_path / "one", 8, "device")
  train_tiny(config, tmp_path / "two", 5, "device")
  assert same_bits(undisturbed, train_tiny(config, tmp_path / "two", 8, "device"))


@pytest.mark.slow
def test_a_run_can_resume_with_another_placement(tmp_path, config):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  assert (
    int(training_loop.train(config("optim.steps=32", "data.placement=device"), workdir).step) == 32
  )
  assert saved(workdir).run.config.data.placement == "device"


def test_the_log_has_the_input_wait():
  lines = map(json.loads, (trained() / "metrics.jsonl").read_text().splitlines())
  waits = [line["input_wait"] for line in lines if "loss" in line]
  assert len(waits) == 30
  assert all(0 <= wait <= 1 for wait in waits)
  assert any(0 < wait < 1 for wait in waits)


def test_a_finished_run_places_nothing(tmp_path, config, monkeypatch):
  monkeypatch.setattr(step_inputs, "place_clips", None)
  workdir = shutil.copytree(trained(), tmp_path / "run")
  assert int(training_loop.train(config("data.placement=device"), workdir).step) == 30


def test_clips_that_do_not_fit_are_refused_before_any_is_placed(
  tmp_path, config, monkeypatch, capsys
):
  monkeypatch.setattr(resident, "free_bytes", lambda device: 12_345)
  monkeypatch.setattr(step_inputs, "place_clips", None)
  file = trained().parent / "config.py"
  command = ["train", "--config", str(file), "--workdir", str(tmp_path / "run")]
  assert cli.main([*command, "--config.data.placement=device"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "data.placement" in line
  assert "store.h5" in line
  # Eight parts of up to 5 clips (32x16 values, a peak and 6 labels) share the host memory.
  assert f"{8 * 5 * (32 * 16 + 4 + 1):,} bytes" in line
  assert "12,345" in line
  assert contents(tmp_path) == {}


def test_an_accelerator_reports_its_own_memory(store):
  stats = {"bytes_limit": 1000, "bytes_in_use": 300}
  assert resident.free_bytes(SimpleNamespace(memory_stats=lambda: stats, platform="gpu")) == 700
  silent = SimpleNamespace(memory_stats=lambda: None, platform="tpu")
  assert resident.free_bytes(silent) is None
  here = resident.free_bytes(jax.devices("cpu")[0])
  assert here is None or here > 2**20


def test_each_accelerator_is_filled_separately(store, monkeypatch):
  device = SimpleNamespace(process_index=0, platform="gpu", device_kind="GPU")
  mesh = SimpleNamespace(devices=np.array([device] * 8))
  clip = store.log_mel[0].nbytes + 4 + 1
  monkeypatch.setattr(resident, "free_bytes", lambda device: 10 * clip)
  step_inputs.check_memory(store, 10, mesh)
  with pytest.raises(UserError, match=f"{11 * clip:,} bytes on GPU"):
    step_inputs.check_memory(store, 11, mesh)
  monkeypatch.setattr(resident, "free_bytes", lambda device: None)
  step_inputs.check_memory(store, 11, mesh)


def test_folds_without_a_label_cannot_be_balanced(store):
  unlabelled = np.flatnonzero(np.diff(store.label_offsets) == 0)
  for make in (step_inputs.host_feed, step_inputs.device_feed):
    with pytest.raises(ValueError, match="no clip"):
      make(store, unlabelled, mesh_of(2), range(1), BATCH, 0, balanced=True)
