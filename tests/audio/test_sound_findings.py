"""Usable sounds that look wrong: silent, in the range of int16, or out of phase."""

import numpy as np
import pytest
from test_audio_files import encode, noise

from atgcn_jax.audio import decoding, sound_files
from atgcn_jax.serving import sources

RATE = 16000


def kinds(samples, **options):
  data = encode(np.asarray(samples), RATE, "WAV", subtype="FLOAT", **options)
  return [found.kind for found in sound_files.decode(data).findings]


@pytest.mark.parametrize(
  ("samples", "expected"),
  [
    (noise(4000), []),
    (np.zeros(4000), ["silent"]),
    (np.full((4000, 2), 0.9e-4), ["silent"]),
    (np.full(4000, 1.1e-4), []),
    (7.9 * np.sign(noise(4000)), []),
    (8.1 * np.sign(noise(4000)), ["out of range"]),
    (np.round(32768 * noise((4000, 2))), ["out of range"]),
    (np.outer(noise(4000), [1, -1]), ["out of phase"]),
    (np.outer(noise(4000), [1, -0.9]), ["out of phase"]),
    (np.outer(noise(4000), [1, -0.5]), []),
    (np.outer(noise(4000), [1, 0]), []),
    (noise((4000, 2)), []),
    (np.outer(noise(4000), [1, 0, 0, 0, 0, 0]), []),
    (np.outer(32768 * noise(4000), [1, -1]), ["out of range", "out of phase"]),
  ],
)
def test_findings_on_samples(samples, expected):
  assert kinds(samples) == expected
  with sources.open_any_sound(samples.astype(np.float32), RATE) as sound:
    waveform = np.concatenate(list(sound.blocks))
  assert [found.kind for found in sound.findings] == expected
  mean = samples if samples.ndim == 1 else samples.mean(axis=1)
  np.testing.assert_allclose(waveform, mean, rtol=1e-5, atol=1e-6 * abs(samples).max())


def test_integers_are_not_out_of_range():
  with sources.open_any_sound(np.full(4000, 20000, np.int16), RATE) as sound:
    assert np.concatenate(list(sound.blocks)).max() == np.float32(20000 / 32768)
  assert sound.findings == []


def test_findings_cover_all_blocks(monkeypatch):
  monkeypatch.setattr(decoding, "_SIZES", (64, 16, 4))
  sound = np.zeros((4000, 2))
  sound[3000:] = np.outer(noise(1000), [1, -1])
  assert kinds(sound) == ["out of phase"]
