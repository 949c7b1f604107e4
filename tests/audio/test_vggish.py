"""The front end `vggish` compared with an independent implementation of VGGish's log-mels."""

import numpy as np
import pytest
import soundfile

from atgcn_jax.audio.frontend import FRONTENDS, log_mel, mel_filterbank
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.models.google_cnn import patches

VGGISH = FRONTENDS["vggish"]


def by_definition(waveform):
  """Return VGGish's log-mels in float64: 25 ms per 10 ms, 64 HTK mel bands, log(mel + 0.01)."""
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  starts = range(0, len(waveform) - 400 + 1, 160)
  spectra = [np.abs(np.fft.rfft(waveform[s : s + 400] * window, 512)) for s in starts]

  def mel(hz):
    return 1127 * np.log(1 + hz / 700)

  edges = np.linspace(mel(125.0), mel(7500.0), 66)
  bins = mel(np.linspace(0, 8000, 257))
  weights = np.zeros((257, 64))
  for band in range(64):
    low, middle, high = edges[band : band + 3]
    for k in range(1, 257):  # without the bin of 0 Hz
      rising, falling = (bins[k] - low) / (middle - low), (high - bins[k]) / (high - middle)
      weights[k, band] = max(0.0, min(rising, falling))
  return np.log(np.array(spectra) @ weights + 0.01), weights


@pytest.fixture(scope="module")
def sound():
  random = np.random.default_rng(0)
  time = np.arange(16000 * 2) / 16000
  chirp = 0.3 * np.sin(2 * np.pi * (200 + 1500 * time) * time)
  return (chirp + 0.05 * random.standard_normal(time.size)).astype(np.float32)


def test_log_mels_agree_with_the_definition(sound):
  expected, _ = by_definition(sound.astype(np.float64))
  found = np.asarray(log_mel(sound, "vggish"))
  assert found.shape == expected.shape == (198, 64)
  assert np.abs(found - expected).max() < 1e-4


def test_the_filters_agree_with_the_definition():
  bank = mel_filterbank(
    sample_rate=16000, n_fft=512, n_mels=64, fmin=125.0, fmax=7500.0, mel_scale="htk"
  )
  _, weights = by_definition(np.zeros(400))
  assert np.abs(bank - weights.T).max() < 1e-6
  assert not bank[:, 0].any()
  assert (bank.max(axis=1) <= 1).all()


def test_ten_seconds_give_998_frames_and_ten_patches_of_96():
  assert VGGISH.frames == 998
  assert patches(np.zeros((2, 998, 64))).shape == (2, 10, 96, 64)
  assert patches(np.zeros((2, 400, 64))).shape == (2, 10, 40, 64)


def test_sound_shorter_than_a_window_is_one_frame():
  found = np.asarray(log_mel(np.ones(100, np.float32), "vggish"))
  padded = np.pad(np.ones(100), (0, 300))
  assert found.shape == (1, 64)
  assert np.abs(found - by_definition(padded)[0]).max() < 1e-4


def test_an_unknown_scale_is_refused():
  with pytest.raises(ValueError, match="mel scale 'bark'"):
    mel_filterbank(sample_rate=16000, n_fft=512, n_mels=8, fmin=0.0, fmax=8000.0, mel_scale="bark")


def test_a_store_contains_the_log_mels_as_float16(sound, tmp_path):
  soundfile.write(tmp_path / "a.wav", sound, 16000)
  (tmp_path / "labels.csv").write_text('filename,fold,positive_labels\na.wav,train,"x"\n')
  arguments = (tmp_path, tmp_path / "labels.csv", tmp_path / "s.h5")
  with pytest.raises(UserError, match="--dtype uint8: only for log-mels in dB"):
    prepare(*arguments, frontend_name="vggish", dtype="uint8", workers=1)
  assert not (tmp_path / "s.h5").exists()
  prepare(*arguments, frontend_name="vggish", workers=1)
  store = open_store(tmp_path / "s.h5")
  assert store.log_mel.dtype == np.float16
  expected, _ = by_definition(np.pad(sound.astype(np.float64), (0, 16000 * 8)))
  assert np.abs(store.log_mel[0] - expected).max() < 5e-3  # float16 near 4.6
