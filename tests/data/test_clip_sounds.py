"""The sounds of the clips of a store."""

import numpy as np
import pytest
from runs_support import FRONTEND, wav

from atgcn_jax.data.clip_sounds import sounds_in_folder, soundscape_sounds
from atgcn_jax.data.synthetic.soundscapes import render
from atgcn_jax.errors import UserError


def test_sounds_of_a_folder(tmp_path):
  samples = np.linspace(-0.5, 0.5, 10_000, dtype=np.float32)
  wav(tmp_path / "clips" / "long.wav", samples)
  wav(tmp_path / "secret.wav", samples)
  sound_of = sounds_in_folder(tmp_path / "clips", FRONTEND)
  for clip_id, start in (("long.wav", 0), ("long.wav@000001.000", 4000)):
    np.testing.assert_array_equal(sound_of(clip_id), samples[start : start + 4000])
  np.testing.assert_array_equal(sound_of("long.wav@000002.000"), samples[8000:])
  assert sound_of("other.wav") is None
  assert sound_of("../secret.wav") is None
  assert sound_of(str(tmp_path / "secret.wav")) is None
  with pytest.raises(UserError, match="no such folder"):
    sounds_in_folder(tmp_path / "missing", FRONTEND)


def test_sounds_of_the_soundscapes():
  np.testing.assert_array_equal(soundscape_sounds()("000007"), render(0, 7)[0])
