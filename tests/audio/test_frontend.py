"""The front ends compared with librosa, stage by stage, and under JAX transformations."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from marks import slow

from atgcn_jax.audio import sound_files
from atgcn_jax.audio.frontend import FRONTENDS, Frontend, log_mel, mel_filterbank
from atgcn_jax.audio.piecewise_mel import transform
from atgcn_jax.audio.spectrogram import mel_spectrogram, spectrogram, to_decibels

# The front ends as arguments of librosa.
LIBROSA = {
  "talnet": {
    "rate": 16000,
    "stft": {"n_fft": 4096, "win_length": 1024, "hop_length": 400, "pad_mode": "constant"},
    "power": 1,
    "mel": {"sr": 16000, "n_fft": 4096, "n_mels": 64},
    "top_db": 80.0,
    "frames": 400,
  },
  "panns": {
    "rate": 32000,
    "stft": {"n_fft": 1024, "hop_length": 320, "pad_mode": "reflect"},
    "power": 2,
    "mel": {"sr": 32000, "n_fft": 1024, "n_mels": 64, "fmin": 50, "fmax": 14000},
    "top_db": None,
    "frames": 1001,
  },
}
NAMES = sorted(LIBROSA)
STFT_FIELDS = ("n_fft", "win_length", "hop", "pad_mode", "power")
MEL_FIELDS = ("sample_rate", "n_fft", "n_mels", "fmin", "fmax")

jitted = jax.jit(log_mel, static_argnums=1)


def settings(name, fields):
  return {field: getattr(FRONTENDS[name], field) for field in fields}


def reference(waveform, name):
  """Return the spectrogram, mel spectrogram and log-mel spectrogram of librosa, frames first."""
  facts = LIBROSA[name]
  spectra = np.abs(librosa.stft(waveform, **facts["stft"])) ** facts["power"]
  bank = librosa.filters.mel(**facts["mel"])
  mel = (bank @ spectra)[:, : max(1, waveform.size // 400) if name == "talnet" else None]
  decibels = librosa.power_to_db(mel, amin=1e-10, top_db=facts["top_db"])
  return spectra.T, mel.T, decibels.T


def assert_agrees(waveform, name):
  spectra, mel, decibels = reference(waveform, name)
  got = np.asarray(spectrogram(waveform, **settings(name, STFT_FIELDS)))
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, spectra, rtol=1e-5, atol=1e-6 * spectra.max())
  got = np.asarray(mel_spectrogram(spectra, **settings(name, MEL_FIELDS)))[: len(mel)]
  np.testing.assert_allclose(got, mel, rtol=2e-6, atol=1e-30)
  got = np.asarray(to_decibels(mel, amin=1e-10, top_db=LIBROSA[name]["top_db"]))
  np.testing.assert_allclose(got, decibels, atol=5e-5)
  got = np.asarray(jitted(waveform, name))
  assert got.dtype == np.float32
  assert got.shape == decibels.shape
  assert np.mean(np.abs(got - decibels) <= 0.01) >= 0.999


def synthetic(kind, samples, rate):
  t = np.arange(samples) / rate
  waveform = {
    "noise": 0.1 * np.random.default_rng(0).standard_normal(samples),
    "sines": 0.3 * np.sin(2 * np.pi * 440 * t) + 0.01 * np.sin(2 * np.pi * 5000 * t + 1),
    "chirp": 0.5 * np.sin(2 * np.pi * (50 + 0.25 * rate / t[-1] * t) * t),
    "click": (np.arange(samples) == samples // 3) * 0.9,
  }[kind]
  # Without noise, some bands contain only float32 rounding errors, in which implementations differ.
  floor = 1e-3 * np.random.default_rng(1).standard_normal(samples)
  return (waveform + floor).astype(np.float32)


@pytest.mark.parametrize("clips", [2, slow(6)])
@pytest.mark.parametrize("name", NAMES)
def test_real_clips_agree_with_librosa(name, clips, shared):
  paths = sorted((shared / "data/esc10/audio").glob("*.ogg"))[::66][:clips]
  assert len(paths) == clips
  for path in paths:
    waveform = sound_files.load_waveform(path, LIBROSA[name]["rate"])
    waveform = np.pad(waveform, (0, FRONTENDS[name].samples - waveform.size))
    assert_agrees(waveform, name)
    assert jitted(waveform, name).shape == (LIBROSA[name]["frames"], 64)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["noise", "sines", "chirp", "click"])
def test_synthetic_sounds_agree_with_librosa(name, kind):
  assert_agrees(synthetic(kind, FRONTENDS[name].samples // 5 + 7, LIBROSA[name]["rate"]), name)


@pytest.mark.parametrize("name", NAMES)
def test_filters_agree_with_librosa(name):
  bank = mel_filterbank(**settings(name, MEL_FIELDS))
  expected = librosa.filters.mel(**LIBROSA[name]["mel"])
  assert bank.dtype == np.float32
  np.testing.assert_allclose(bank, expected, rtol=1e-5, atol=1e-8)
  with pytest.raises(ValueError, match="read-only"):
    bank[0, 0] = 1


@pytest.mark.parametrize("name", NAMES)
def test_silence_is_finite(name):
  got = np.asarray(jitted(np.zeros(FRONTENDS[name].samples, np.float32), name))
  assert got.shape == (LIBROSA[name]["frames"], 64)
  np.testing.assert_allclose(got, -100, atol=1e-4)


def test_a_sine_has_the_theoretical_peak():
  # The bin of a sine has half its amplitude times the sum of the window, which is 512.
  waveform = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)).astype(np.float32)
  magnitudes = spectrogram(waveform, **settings("talnet", STFT_FIELDS))
  np.testing.assert_allclose(magnitudes[20, 256], 128, rtol=1e-5)
  assert int(magnitudes[20].argmax()) == 256


# One hop is 320 samples of panns and 400 of talnet.
@pytest.mark.parametrize(
  "samples", [1, slow(2), slow(319), slow(320), slow(399), slow(400), 1025, 12345]
)
@pytest.mark.parametrize("name", NAMES)
def test_waveforms_of_any_length(name, samples):
  facts = LIBROSA[name]
  hop = facts["stft"]["hop_length"]
  waveform = synthetic("noise", samples, facts["rate"]) if samples > 1 else np.ones(1, "f4")
  got = np.asarray(jitted(waveform, name))
  frames = max(1, samples // hop) if name == "talnet" else samples // hop + 1
  assert got.shape == (frames, 64)
  assert FRONTENDS[name].frame_count(samples) == frames
  # NumPy can pad by more than the length of the waveform. librosa refuses this.
  half = facts["stft"]["n_fft"] // 2
  padded = np.pad(waveform, half, mode=facts["stft"]["pad_mode"])
  stft = {key: value for key, value in facts["stft"].items() if key != "pad_mode"}
  spectra = np.abs(librosa.stft(padded, **stft, center=False)) ** facts["power"]
  mel = librosa.filters.mel(**facts["mel"]) @ spectra
  expected = librosa.power_to_db(mel[:, :frames], amin=1e-10, top_db=facts["top_db"]).T
  np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_batches_vmap_and_jit_give_the_same_values(name):
  rate = LIBROSA[name]["rate"]
  clips = np.stack([synthetic(kind, rate, rate) for kind in ("noise", "sines", "chirp", "click")])
  clips *= np.array([[1.0], [1e-3], [0.1], [1.0]], np.float32)  # with different peaks
  alone = np.stack([jitted(clip, name) for clip in clips])
  grouped = clips.reshape(2, 2, -1)
  for got in (
    log_mel(clips, name),
    jitted(clips, name),
    jax.jit(jax.vmap(lambda clip: log_mel(clip, name)))(clips),
    jitted(grouped, name).reshape(alone.shape),
  ):
    np.testing.assert_allclose(got, alone, atol=2e-3)


def staged(waveform, frontend):
  """Return log-mels from the public stages, as computed on devices other than CPUs."""
  fields = dataclasses.asdict(frontend)
  spectra = spectrogram(waveform, **{field: fields[field] for field in STFT_FIELDS})
  spectra = spectra[..., : frontend.frame_count(waveform.shape[-1]), :]
  mel = mel_spectrogram(spectra, **{field: fields[field] for field in MEL_FIELDS})
  return to_decibels(mel, amin=frontend.amin, top_db=frontend.top_db)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    slow({"n_fft": 2048, "power": 2, "pad_mode": "reflect"}),
    slow({"n_fft": 1024, "drop_last": False}),
    {"n_fft": 1000, "win_length": 200, "hop": 77, "n_mels": 20},  # not a power of two
    slow({"n_fft": 510, "win_length": 100, "hop": 200, "n_mels": 20}),  # half of n_fft is odd
    slow({"n_fft": 512, "win_length": 400, "n_mels": 20}),  # no quarter of n_fft divides the window
  ],
)
def test_pieces_give_the_same_values_for_any_settings_and_leading_axes(changes):
  frontend = dataclasses.replace(FRONTENDS["talnet"], **changes)
  clips = np.stack([synthetic("noise", 4001, 16000) * scale for scale in (1, 1e-3, 0.1)] * 2)
  for shape in ((4001,), (2, 3, 4001), (2, 0, 4001)):
    waveform = np.resize(clips, shape)
    got = jitted(waveform, frontend)
    expected = jax.jit(staged, static_argnums=1)(waveform, frontend)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_those_of_the_stages(name):
  clips = np.stack([synthetic(kind, 4001, 16000) for kind in ("noise", "sines", "chirp")])
  shape = jax.eval_shape(lambda x: log_mel(x, name), clips).shape
  weights = np.random.default_rng(2).standard_normal(shape).astype("f")
  got, expected = (
    jax.jit(jax.grad(lambda x, f=f: (f(x) * weights).sum()))(clips)
    for f in (lambda x: log_mel(x, name), lambda x: staged(x, FRONTENDS[name]))
  )
  np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("n_fft", "size"), [(4096, 1024), (1024, 1024), (1000, 250), (96, 12)])
def test_the_transform_in_parts_is_as_exact_as_one_transform(n_fft, size):
  r = np.random.default_rng(5)
  framed, window = (r.standard_normal(shape).astype("f") for shape in ((50, size), (size,)))
  exact = np.fft.rfft(framed.astype(np.float64) * window.astype(np.float64), n_fft)
  parts = transform(jnp.asarray(framed), window, n_fft)
  bins = np.concatenate([bins for _, _, bins in parts])
  assert sorted(bins) == list(range(n_fft // 2 + 1))
  got = np.concatenate([np.hypot(real, imaginary) for real, imaginary, _ in parts], axis=1)
  whole = np.abs(jnp.fft.rfft(framed * window, n_fft))
  errors = [np.abs(a - np.abs(b)) for a, b in ((got, exact[:, bins]), (whole, exact))]
  assert errors[0].max() <= 2 * errors[1].max()
  assert np.square(errors[0]).mean() <= 2 * np.square(errors[1]).mean()


def test_the_bits_of_a_frame_do_not_depend_on_other_frames():
  # XLA distributes frames over threads and vector lanes in no fixed order.
  framed = np.random.default_rng(6).standard_normal((13, 1024)).astype("f")
  window = np.hanning(1024).astype("f")
  together = transform(jnp.asarray(framed), window, 4096)
  for i in (0, 5, 12):
    alone = transform(jnp.asarray(framed[i : i + 1]), window, 4096)
    for got, expected in zip(alone, together):
      for part in (0, 1):
        np.testing.assert_array_equal(got[part][0], expected[part][i])


def test_the_peak_is_per_clip_and_without_dropped_frames():
  quiet = synthetic("noise", 16000, 16000) * np.float32(3e-9)
  loud = synthetic("noise", 16000, 16000)
  pair = jitted(np.stack([quiet, loud]), "talnet")
  np.testing.assert_allclose(pair[0], jitted(quiet, "talnet"), atol=1e-4)
  assert pair[0].max() < pair[1].max() - 50
  # The peak of a click on the last sample is in the dropped frame.
  click = np.where(np.arange(16000) == 15999, 1, 1e-9 * loud).astype(np.float32)
  got = np.asarray(jitted(click, "talnet"))
  np.testing.assert_allclose(got, reference(click, "talnet")[2], atol=0.01)
  assert got.max() - got.min() == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_arithmetic_is_float32_for_any_input_type(name):
  waveform = synthetic("noise", 16000, 16000)
  expected = np.asarray(jitted(waveform, name))
  rounded = jnp.asarray(waveform, jnp.bfloat16)
  as_float = np.asarray(jitted(np.asarray(rounded, np.float32), name))
  np.testing.assert_allclose(jitted(rounded, name), as_float, atol=1e-4)
  with jax.enable_x64(True):
    got = jitted(waveform.astype(np.float64), name)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-4)
  with (
    jax.numpy_dtype_promotion("strict"),
    jax.numpy_rank_promotion("raise"),
    jax.default_matmul_precision("bfloat16"),
  ):
    np.testing.assert_allclose(jitted(waveform[None], name)[0], expected, atol=1e-4)
  assert "HIGHEST" in str(jax.make_jaxpr(lambda x: log_mel(x, name))(waveform))


def test_front_ends_round_trip_through_json():
  for name, frontend in FRONTENDS.items():
    assert frontend.name == name
    assert Frontend(**json.loads(json.dumps(dataclasses.asdict(frontend)))) == frontend
  for name, like in LIBROSA.items():
    assert FRONTENDS[name].samples == 10 * like["rate"]
    assert FRONTENDS[name].frames == like["frames"]


def test_invalid_arguments_are_refused():
  waveform = np.zeros(1000, np.float32)
  with pytest.raises(ValueError, match=r"panns.*talnet"):
    log_mel(waveform, "cochlea")
  with pytest.raises(ValueError, match="at least 1"):
    log_mel(waveform[:0], "talnet")
  with pytest.raises(TypeError, match="int16"):
    log_mel(waveform.astype(np.int16), "talnet")
  good = settings("talnet", STFT_FIELDS)
  for wrong in ({"pad_mode": "edge"}, {"power": 3}, {"win_length": 8192}, {"hop": 0}):
    with pytest.raises(ValueError, match=next(iter(wrong))):
      spectrogram(waveform, **{**good, **wrong})
