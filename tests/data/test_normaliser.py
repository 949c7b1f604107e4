"""Band statistics compared with plain NumPy in float64."""

import numpy as np
import pytest
import small_store

from atgcn_jax.audio.quantisation import RANGE_DB
from atgcn_jax.data import normaliser
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.training import step

CLIPS = 600  # more than two chunks


@pytest.fixture(scope="module", params=["uint8", "float16"])
def store(request, tmp_path_factory):
  log_mel = small_store.decibels(CLIPS)
  log_mel += np.array([30, -20, 0, 0, 5], np.float32)
  path = tmp_path_factory.mktemp("normaliser") / "s.h5"
  small_store.write(path, log_mel, request.param, chunk=CLIPS)
  return open_store(path)


def reference(store, clips):
  """Return mean and deviation float64[F] of the stored values, computed clip by clip."""
  frames = []
  for clip in clips:
    values = np.asarray(store.log_mel[clip], np.float64)
    if store.log_mel.dtype == np.uint8:
      values = float(store.peak_db[clip]) - (255 - values) * 80.0 / 255
    frames.append(values)
  frames = np.concatenate(frames)
  return frames.mean(axis=0), frames.std(axis=0)


@pytest.mark.parametrize("count", [1, 255, 256, 257, CLIPS])
def test_mean_and_deviation(store, count):
  clips = np.random.default_rng(count).permutation(CLIPS)[:count]
  mean, deviation = normaliser.band_statistics(store, clips)
  assert mean.dtype == deviation.dtype == np.float32
  expected = reference(store, clips)
  np.testing.assert_allclose(mean, expected[0], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(deviation, expected[1], rtol=1e-5)


def test_only_the_given_clips_count(store):
  some, others = np.arange(0, CLIPS, 2), np.arange(1, CLIPS, 2)
  assert (
    normaliser.band_statistics(store, some)[0] != normaliser.band_statistics(store, others)[0]
  ).all()


def test_decibels_equal_the_stored_values(store):
  clips = np.array([5, 3, 400])
  got = normaliser.decibels(store.log_mel[clips], store.peak_db[clips])
  assert got.dtype == np.float32
  wanted = small_store.decibels(CLIPS)[clips] + np.array([30, -20, 0, 0, 5], np.float32)
  if store.log_mel.dtype == np.uint8:
    wanted = np.maximum(wanted, wanted.max(axis=(1, 2), keepdims=True) - RANGE_DB)
  np.testing.assert_allclose(got, wanted, atol=0.16)


def test_a_constant_band_has_the_deviation_one(tmp_path):
  log_mel = small_store.decibels(20)
  log_mel[:, :, 1] = -63.0
  log_mel[:, :, 4] = 0.0
  small_store.write(tmp_path / "s.h5", log_mel, "float16")
  mean, deviation = normaliser.band_statistics(open_store(tmp_path / "s.h5"), np.arange(20))
  assert mean[[1, 4]].tolist() == [-63.0, 0.0]
  assert deviation[[1, 4]].tolist() == [1.0, 1.0]
  assert (deviation[[0, 2, 3]] > 5).all()


def test_no_clips(store):
  with pytest.raises(ValueError, match="no clips"):
    normaliser.band_statistics(store, np.zeros(0, np.int64))


def test_the_step_decodes_by_the_same_range(store):
  """The training step and the store must use the same range."""
  batch = {name: array for name, array in store.read(np.arange(7)).items() if name != "labels"}
  wanted = normaliser.decibels(batch["log_mel"], batch["peak_db"])
  got = step.normalised_log_mel(batch, step.Normaliser(np.float32(0), np.float32(1)))
  np.testing.assert_allclose(got, wanted, atol=1e-4)
