"""Sounds of animals, weather, traffic and the house.

They are built from the parts in `atgcn_jax.data.synthetic.instruments`. Each function is an
instrument as described there.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from atgcn_jax.data.synthetic.instruments import (
  Array,
  band,
  clock_of,
  drops,
  fade_and_normalise,
  impulses,
  lay,
  low_pass,
  noise,
  onsets,
  pitch,
  ring,
  swell,
  tone,
  wander,
)


def birdsong(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise phrases of short whistled sweeps: a few syllables repeated, with pauses."""
  sound, root = np.zeros(round(seconds * rate)), pitch(rng, 1900, 4200)
  syllables = []
  for _ in range(rng.integers(1, 4)):
    time = clock_of(rng.uniform(0.04, 0.13), rate)
    part = time / time[-1]
    bend = rng.uniform(-0.45, 0.6) * part + rng.uniform(-0.3, 0.3) * np.sin(np.pi * part)
    sweep = tone(root * rng.uniform(0.8, 1.4) * (1 + bend), (1, 0.1), rate)
    syllables.append(sweep * np.abs(np.sin(np.pi * part)) ** 0.7)
  start = 0.0
  while start < seconds - 0.1:
    for k in range(rng.integers(3, 10)):
      grain = syllables[k % len(syllables)]
      lay(sound, grain * rng.uniform(0.5, 1), min(start, seconds), rate)
      start += len(grain) / rate + rng.uniform(0.015, 0.05)
    start += rng.uniform(0.25, 0.8)
  return fade_and_normalise(sound, rate)


def crickets(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise two to four chirps per second, each a high tone cut into three or four pulses."""
  time, carrier = clock_of(seconds, rate), pitch(rng, 3200, 6200)
  pulses, rhythm = rng.uniform(24, 40), rng.uniform(2, 4)
  open_share = rng.integers(3, 5) * rhythm / pulses
  gate = (time * rhythm % 1) < open_share
  shape = np.maximum(np.sin(2 * np.pi * pulses * (time * rhythm % 1) / rhythm), 0) * gate
  return fade_and_normalise(tone(np.full(len(time), carrier), (1,), rate) * shape, rate)


def frog(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise croaks: trains of 20 to 50 clicks per second in a hollow resonance."""
  samples, hollow = round(seconds * rate), pitch(rng, 350, 1100)
  click_gap, length = 1 / rng.uniform(22, 48), rng.uniform(0.25, 0.5)
  clicks: list[float] = []
  gains: list[float] = []
  for start in onsets(rng, seconds, length + rng.uniform(0.25, 0.8), 0.2):
    row = start + np.arange(0, length, click_gap)
    clicks.extend(row)
    gains.extend(np.sin(np.pi * (0.1 + 0.85 * (row - start) / length)))
  x = impulses(clicks, gains, samples, rate)
  return fade_and_normalise(
    ring(x, (hollow, 2.1 * hollow, 3.7 * hollow), (0.009, 0.006, 0.003), (1, 0.5, 0.2), rate), rate
  )


def dog(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise groups of barks: a hoarse tone that rises and falls within 0.2 s."""
  sound, root = np.zeros(round(seconds * rate)), pitch(rng, 180, 560)
  time = clock_of(rng.uniform(0.14, 0.24), rate)
  bow = np.abs(np.sin(np.pi * time / time[-1]))
  formants = rng.uniform((550, 1200, 2300), (900, 1700, 3000))
  start = 0.0
  while start < seconds - 0.1:
    for _ in range(rng.integers(1, 4)):
      hoarse = root * (0.75 + 0.5 * bow) * (1 + 0.06 * noise(rng, len(time)))
      source = tone(hoarse, np.arange(1.0, 30) ** -0.7, rate) + 0.4 * noise(rng, len(time))
      lay(sound, ring(source, formants, (0.002,) * 3, (1, 0.7, 0.35), rate) * bow**1.5, start, rate)
      start = min(start + rng.uniform(0.26, 0.4), seconds)
    start += rng.uniform(0.3, 0.9)
  return fade_and_normalise(sound, rate)


def rain(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise a steady bright hiss with many drops."""
  samples = round(seconds * rate)
  hiss = noise(rng, samples)
  hiss -= low_pass(hiss, pitch(rng, 800, 2500), rate)
  falls = drops(rng, samples, pitch(rng, 30, 150), rate)
  plink = ring(falls, rng.uniform(1500, 5500, 3), (0.003, 0.002, 0.002), (1, 1, 1), rate)
  return fade_and_normalise(hiss * (0.9 + 0.1 * wander(rng, samples, 1, rate)) + 3 * plink, rate)


def wind(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise gusts: noise in a resonance whose pitch and loudness rise together."""
  samples, low = round(seconds * rate), pitch(rng, 160, 420)
  gust, x = wander(rng, samples, rng.uniform(0.5, 1.2), rate), noise(rng, samples)
  lower = band(x, (low,), (0.35 * low,), rate) * (1 - gust)
  upper = band(x, (1.7 * low, 2.9 * low), (0.4 * low, 0.5 * low), rate) * gust
  return fade_and_normalise((lower + 1.6 * upper) * (0.15 + gust), rate)


def thunder(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise a crack, then a decaying rumble below 200 Hz."""
  samples = round(seconds * rate)
  time, x = clock_of(seconds, rate), noise(rng, samples)
  roll = np.exp(-time / (0.4 * seconds)) * (
    0.15 + wander(rng, samples, rng.uniform(3, 7), rate) ** 2
  )
  rumble = low_pass(low_pass(x, pitch(rng, 60, 150), rate), 180, rate)
  crack = low_pass(x, 1500, rate) * np.exp(-time / rng.uniform(0.08, 0.25))
  return fade_and_normalise(rumble * roll * swell(samples, 0.05, 0.3, rate) + 0.12 * crack, rate)


def fire(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise dry crackling: sparse, sharp clicks of different sizes over soft low noise."""
  samples = round(seconds * rate)
  sparks = drops(rng, samples, pitch(rng, 9, 30), rate)
  snap = lfilter([1.0], [1.0, -np.exp(-1 / (0.0016 * rate))], sparks) * noise(rng, samples)
  breath = low_pass(noise(rng, samples), pitch(rng, 150, 400), rate)
  return fade_and_normalise(snap + 0.12 * breath * (0.4 + wander(rng, samples, 4, rate)), rate)


def siren(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise a bright tone that wails up and down, yelps, or alternates between two notes."""
  time, low, way = clock_of(seconds, rate), pitch(rng, 420, 750), rng.integers(3)
  if way == 0:
    course = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(0.25, 0.5) * time)
  elif way == 1:
    course = time * rng.uniform(2, 4) % 1
  else:
    course = np.where(time * rng.uniform(0.8, 1.5) % 1 < 0.5, 0.45, 0.0)
  amplitudes = (1, 0.25, 0.6, 0.15, 0.4, 0.1, 0.25, 0.05, 0.15)
  x = tone(low * (1 + course * rng.uniform(0.9, 1.3)), amplitudes, rate)
  return fade_and_normalise(x + band(x, (1300,), (700,), rate), rate)


def engine(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise 25 to 90 firing strokes per second with varying speed, through a muffler."""
  samples = round(seconds * rate)
  course = wander(rng, samples, rng.uniform(0.4, 0.9), rate)
  frequency = pitch(rng, 25, 50) * (1 + rng.uniform(0.4, 1.0) * course)
  strokes = tone(frequency, np.arange(1.0, 60) ** -0.3, rate) / 8
  x = strokes + 0.25 * noise(rng, samples) * np.abs(strokes)
  muffler = band(x, (pitch(rng, 80, 130), pitch(rng, 250, 420), 1100), (60, 160, 700), rate)
  return fade_and_normalise(muffler * (0.6 + 0.4 * course) + 0.06 * x, rate)


def helicopter(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise rotor blades: 10 to 18 thuds of noise per second, and the whine of a turbine."""
  time, blades = clock_of(seconds, rate), rng.uniform(10, 18)
  near = swell(len(time), rng.uniform(0, 0.5) * seconds, rng.uniform(0, 0.5) * seconds, rate)
  thud = np.exp(-5 * (time * blades % 1)).astype(np.float32)
  x = noise(rng, len(time))
  rotor = band(x * thud, (95, 300, 750), (70, 250, 600), rate)
  whine = tone(np.full(len(time), pitch(rng, 1400, 3000)), (1, 0.4), rate)
  return fade_and_normalise((rotor + 0.02 * whine + 0.03 * x) * (0.25 + 0.75 * near), rate)


def car_horn(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise honks of two bright notes a third apart that start and stop together."""
  samples, low = round(seconds * rate), pitch(rng, 280, 560)
  amplitudes = np.array([0.5, 0.8, 1, 0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.2, 0.1, 0.1])
  chord = tone(np.full(samples, low), amplitudes, rate)
  chord += tone(np.full(samples, 1.26 * low), amplitudes, rate)
  gate, start = np.zeros(samples, dtype=np.float32), 0.0
  while start < seconds - 0.1:
    length = pitch(rng, 0.15, 1.2)
    honk = gate[int(start * rate) : int((start + length) * rate)]
    honk[:] = swell(len(honk), 0.012, 0.02, rate)
    start += length + pitch(rng, 0.1, 0.6)
  return fade_and_normalise(chord * gate, rate)


def clock(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise regular dry ticks and tocks; the tock is slightly lower than the tick."""
  gap = 1 / rng.choice((2.0, 2.5, 3.0, 4.0, 5.0))
  starts, samples = onsets(rng, seconds, gap), round(seconds * rate)
  ticks = impulses(starts[::2], rng.uniform(0.9, 1, len(starts[::2])), samples, rate)
  tocks = impulses(starts[1::2], rng.uniform(0.6, 0.8, len(starts[1::2])), samples, rate)
  case = pitch(rng, 1500, 3200)
  modes, decays, gains = np.array([1, 1.73, 2.4]), (0.006, 0.004, 0.003), (1, 0.8, 0.6)
  sound = ring(ticks, case * modes, decays, gains, rate)
  return fade_and_normalise(sound + ring(tocks, 0.83 * case * modes, decays, gains, rate), rate)


def telephone(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise two small bells struck 17 to 25 times per second, with alternating pauses."""
  samples, beat, bell = round(seconds * rate), 1 / rng.uniform(17, 25), pitch(rng, 900, 2000)
  on, off = rng.uniform(0.5, 1.5), rng.uniform(0.4, 1.2)
  starts = [s for s in np.arange(0, seconds, beat) if s % (on + off) < on]
  hits = impulses(starts, rng.uniform(0.7, 1, len(starts)), samples, rate)
  modes = np.array([1, 1.21, 2.4, 2.9, 3.9]) * bell
  decays = rng.uniform(0.06, 0.14) * np.array([1.4, 1.4, 0.8, 0.8, 0.5])
  return fade_and_normalise(ring(hits, modes, decays, (1, 0.9, 0.8, 0.7, 0.5), rate), rate)
