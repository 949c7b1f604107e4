"""Human sounds, built from the parts in `atgcn_jax.data.synthetic.instruments`.

Each public function is an instrument as described there.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from atgcn_jax.data.synthetic.instruments import (
  SCALE,
  Array,
  band,
  clock_of,
  drops,
  fade_and_normalise,
  impulses,
  lay,
  noise,
  onsets,
  pitch,
  ring,
  swell,
  tone,
)

# First three formants in Hz of the vowels a, i, u, e, o, and relative amplitudes of the formants.
VOWELS = (
  (730, 1090, 2440),
  (270, 2290, 3010),
  (300, 870, 2240),
  (530, 1840, 2480),
  (570, 840, 2410),
)
SHARES = (1.0, 0.5, 0.25)


def _vowel(rng: np.random.Generator, source: Array, size: float, rate: int) -> Array:
  formants = np.array(VOWELS[rng.integers(len(VOWELS))]) * size
  return np.asarray(ring(source, formants, (0.0045, 0.0035, 0.0025), SHARES, rate))


def singing(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise long vowels with vibrato, one per note: a glottal tone through formants."""
  root, size, gap = pitch(rng, 110, 440), rng.uniform(0.95, 1.2), rng.uniform(0.7, 1.6)
  sound, swing, depth = (
    np.zeros(round(seconds * rate)),
    rng.uniform(5, 6.5),
    rng.uniform(0.015, 0.03),
  )
  for start in onsets(rng, seconds, gap, 0.25):
    time = clock_of(min(gap, seconds - start), rate)
    frequency = (
      root * 2 ** (rng.choice(SCALE) / 12) * (1 + depth * np.sin(2 * np.pi * swing * time))
    )
    voice = tone(frequency, np.arange(1.0, 40) ** -1.3, rate) + 0.01 * noise(rng, len(time))
    lay(sound, _vowel(rng, voice, size, rate) * swell(len(time), 0.08, 0.1, rate), start, rate)
  return fade_and_normalise(sound, rate)


def speech(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise 3 to 5 syllables per second: consonant noise, short vowel, falling pitch, pauses."""
  root, size, gap = pitch(rng, 90, 260), rng.uniform(0.9, 1.2), rng.uniform(0.19, 0.3)
  sound = np.zeros(round(seconds * rate))
  for start in onsets(rng, seconds, gap, 0.35):
    if rng.random() < 0.15:
      continue
    time = clock_of(rng.uniform(0.55, 0.9) * gap, rate)
    frequency = root * rng.uniform(0.85, 1.3) * (1 - 0.9 * rng.random() * time)
    voice = tone(frequency, np.arange(1.0, 40) ** -1.1, rate)
    lay(sound, _vowel(rng, voice, size, rate) * swell(len(time), 0.03, 0.06, rate), start, rate)
    hush = noise(rng, int(rng.uniform(0.03, 0.09) * rate))
    hiss = band(hush, (pitch(rng, 1800, 6000),), (1500,), rate) * swell(len(hush), 0.01, 0.02, rate)
    lay(sound, 2.5 * rng.random() * hiss, max(0.0, start - 0.05), rate)
  return fade_and_normalise(sound, rate)


def whistling(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise a nearly pure tone that glides from note to note."""
  samples, root = round(seconds * rate), pitch(rng, 600, 1500)
  steps = np.full(samples, float(rng.choice(SCALE)))
  for start in onsets(rng, seconds, rng.uniform(0.25, 0.7), 0.3):
    steps[int(start * rate) :] = rng.choice(SCALE)
  glide = lfilter([1.0], [1.0, -np.exp(-1 / (0.045 * rate))], steps - steps[0]) / (0.045 * rate)
  frequency = root * 2 ** ((steps[0] + glide) / 12)
  quiver = 1 + 0.008 * np.sin(2 * np.pi * rng.uniform(5, 7) * clock_of(seconds, rate))
  air = 0.03 * band(noise(rng, samples), (1.5 * root,), (root,), rate)
  return fade_and_normalise(
    (tone(frequency * quiver, (1, 0.03), rate) + air) * swell(samples, 0.06, 0.1, rate), rate
  )


def footsteps(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise steps at a walking pace: a dull heel, and a brighter sole about 0.1 s later."""
  starts = onsets(rng, seconds, rng.uniform(0.42, 0.7), 0.05)
  heels = impulses(starts, rng.uniform(0.7, 1, len(starts)), round(seconds * rate), rate)
  lag = int(rng.uniform(0.08, 0.13) * rate)
  soles = np.roll(heels, lag) * rng.uniform(0.25, 0.5)
  floor = pitch(rng, 90, 190)
  thump = ring(heels, (floor, 2.3 * floor), (0.03, 0.018), (1, 0.6), rate)
  crush = lfilter([1.0], [1.0, -np.exp(-1 / (0.012 * rate))], 0.35 * heels + soles)
  return fade_and_normalise(
    thump + band(noise(rng, len(heels)) * crush, (1400, 420), (1600, 300), rate), rate
  )


def applause(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise hundreds of hand claps at random times, fading in and out."""
  samples = round(seconds * rate)
  claps = drops(rng, samples, pitch(rng, 40, 160), rate)
  grains = noise(rng, samples) * lfilter([1.0], [1.0, -np.exp(-1 / (0.006 * rate))], claps)
  crowd = band(grains, rng.uniform((900, 1800), (1400, 2800)), (900, 1500), rate)
  return fade_and_normalise(crowd * swell(samples, 0.15 * seconds, 0.3 * seconds, rate), rate)
