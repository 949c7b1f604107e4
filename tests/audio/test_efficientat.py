"""The front end `efficientat` compared with its definition and with EfficientAT's own log-mels."""

import dataclasses

import jax
import numpy as np
import pytest
import soundfile

from atgcn_jax.audio.frontend import FRONTENDS, Frontend, log_mel
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError

EFFICIENTAT = FRONTENDS["efficientat"]
# The forms for a CPU, for any platform, and for platforms without an FFT.
FORMS = ({}, {"portable": True}, {"portable": True, "by_matrix": True})
jitted = jax.jit(log_mel, static_argnames=("frontend", "portable", "by_matrix"))


def by_definition(waveform):
  """Return EfficientAT's log-mels in float64, frames first."""
  emphasised = waveform[1:] - 0.97 * waveform[:-1]
  window = np.zeros(1024)
  window[112:912] = np.hanning(800)
  padded = np.pad(emphasised, 512, mode="reflect")
  starts = range(0, len(emphasised) + 1, 320)
  powers = np.array([np.abs(np.fft.rfft(padded[s : s + 1024] * window)) ** 2 for s in starts])

  def mel(hz):
    return 1127 * np.log(1 + hz / 700)

  edges = np.linspace(mel(0), mel(15000), 130)
  weights = np.zeros((513, 128))
  for band in range(128):
    low, middle, high = edges[band : band + 3]
    for k in range(512):  # without the bin at half the sample rate
      at = mel(k * 32000 / 1024)
      weights[k, band] = max(0.0, min((at - low) / (middle - low), (high - at) / (high - middle)))
  return (np.log(powers @ weights + 1e-5) + 4.5) / 5


@pytest.fixture(scope="module")
def sound():
  random = np.random.default_rng(0)
  time = np.arange(32000) / 32000
  chirp = 0.3 * np.sin(2 * np.pi * (200 + 5000 * time) * time)
  return (chirp + 0.05 * random.standard_normal(time.size)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_log_mels_agree_with_the_definition(sound, form):
  expected = by_definition(sound.astype(np.float64))
  found = jitted(np.stack([sound, sound[::-1]]), frontend=EFFICIENTAT, **form)
  assert found.shape == (2, *expected.shape) == (2, 100, 128)
  # A matrix product rounds more than an FFT does, beside loud bands.
  assert np.abs(found[0] - expected).max() < (1e-3 if form.get("by_matrix") else 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_log_mels_agree_with_efficientats_code(shared, form):
  golden = np.load(shared / "golden/mn04.npz")
  waveforms = (golden["waveform"] / 32768).astype(np.float32)
  found = jitted(waveforms, frontend=EFFICIENTAT, **form)
  np.testing.assert_allclose(found, golden["log_mel"].transpose(0, 2, 1), rtol=0, atol=1e-4)


def test_the_filter_shortens_the_waveform_by_a_sample():
  assert EFFICIENTAT.frames == 1000
  for samples, frames in ((1, 1), (2, 1), (320, 1), (321, 2), (160_000, 500), (160_001, 501)):
    assert EFFICIENTAT.frame_count(samples) == frames
    assert jax.eval_shape(
      lambda n=samples: log_mel(np.zeros(n, np.float32), EFFICIENTAT)
    ).shape == (frames, 128)
  # A single sample is followed by silence.
  np.testing.assert_allclose(
    log_mel(np.ones(1, "f"), EFFICIENTAT), log_mel(np.array([1, 0], "f"), EFFICIENTAT)
  )


def test_silence_is_finite():
  found = np.asarray(jitted(np.zeros(4000, np.float32), frontend=EFFICIENTAT))
  np.testing.assert_allclose(found, (np.log(1e-5) + 4.5) / 5, rtol=1e-6)


def test_an_unknown_window_is_refused():
  with pytest.raises(ValueError, match="window 'flat', not one of periodic, symmetric"):
    log_mel(np.zeros(2000, "f"), dataclasses.replace(EFFICIENTAT, window="flat"))


def test_the_stored_form_of_earlier_front_ends_is_as_it_was():
  # Fingerprints of stores are hashes of these fields.
  fields = "name sample_rate n_fft win_length hop pad_mode power n_mels fmin fmax amin top_db"
  fields += " drop_last seconds mel_scale log_offset"
  for name in ("talnet", "panns", "vggish"):
    stored = FRONTENDS[name].as_json()
    assert list(stored) == fields.split()
    assert Frontend(**stored) == FRONTENDS[name]
  stored = EFFICIENTAT.as_json()
  assert stored["pre_emphasis"] == 0.97
  assert Frontend(**stored) == EFFICIENTAT


def test_a_store_contains_the_log_mels_as_float16(sound, tmp_path):
  soundfile.write(tmp_path / "a.wav", sound, 32000, subtype="FLOAT")
  (tmp_path / "labels.csv").write_text('filename,fold,positive_labels\na.wav,train,"x"\n')
  arguments = (tmp_path, tmp_path / "labels.csv", tmp_path / "s.h5")
  with pytest.raises(UserError, match="--dtype uint8: only for log-mels in dB"):
    prepare(*arguments, frontend_name="efficientat", dtype="uint8", workers=1)
  prepare(*arguments, frontend_name="efficientat", workers=1)
  store = open_store(tmp_path / "s.h5")
  assert store.log_mel.dtype == np.float16
  assert store.frontend == EFFICIENTAT
  expected = by_definition(np.pad(sound.astype(np.float64), (0, 32000 * 9)))
  assert np.abs(store.log_mel[0] - expected).max() < 2e-3  # float16 near 2
