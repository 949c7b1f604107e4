"""Sound synthesis from random numbers: building blocks, and musical instruments.

Each instrument is a function `(rng, seconds, rate) -> float32[S]`. `rng` is the NumPy generator
from which pitch, tempo and timbre are drawn, `seconds` is the length, `rate` is the sample rate in
Hz, and S is their product. The largest sample is 1 or -1. Instruments differ in their spectrum and
in their course over time. Their pitch ranges are wide and overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.signal import lfilter

Array = np.ndarray
TABLE = 4096
SCALE = (0, 2, 4, 7, 9, 12)


def pitch(rng: np.random.Generator, low: float, high: float) -> float:
  """Return a random number between `low` and `high`, uniform on the logarithmic scale."""
  return float(low * (high / low) ** rng.random())


def clock_of(seconds: float, rate: int) -> Array:
  """Return the time of each sample in seconds, float64[S]."""
  return np.arange(round(seconds * rate)) / rate


def tone(frequency: Array, amplitudes: Sequence[float] | Array, rate: int) -> Array:
  """Return a harmonic tone, read from a table of one period, float32[S].

  Args:
    frequency: float[S], the fundamental in Hz.
    amplitudes: Amplitudes of harmonics 1, 2, …; harmonics above half the rate are left out.
    rate: Sample rate in Hz.
  """
  audible = np.asarray(amplitudes[: max(1, int(rate / 2 / np.max(frequency)))], dtype=np.float64)
  spectrum = np.zeros(TABLE // 2 + 1, dtype=np.complex128)
  spectrum[1 : len(audible) + 1] = -0.5j * TABLE * audible
  table = np.fft.irfft(spectrum, TABLE).astype(np.float32)
  return table[(np.cumsum(frequency) * (TABLE / rate)).astype(np.int64) & (TABLE - 1)]


def noise(rng: np.random.Generator, samples: int) -> Array:
  """Return white noise with standard deviation 1, float32[samples]."""
  return rng.standard_normal(samples, dtype=np.float32)


def ring(
  x: Array, frequencies: Iterable[float], decays: Iterable[float], gains: Iterable[float], rate: int
) -> Array:
  """Return the sum of damped resonators driven by `x`, float32[S].

  The impulse response of a resonator is `gain * exp(-t / decay) * sin(2 pi frequency t)`.

  Args:
    x: float[S], excitation.
    frequencies: Frequencies in Hz; those above 0.48 of the rate are left out.
    decays: Time constants in seconds, after which the amplitude is 1/e.
    gains: Amplitudes.
    rate: Sample rate in Hz.
  """
  total = np.zeros(len(x))
  for frequency, decay, gain in zip(frequencies, decays, gains):
    if frequency < 0.48 * rate:
      radius, angle = np.exp(-1 / (decay * rate)), 2 * np.pi * frequency / rate
      forward = [0.0, gain * radius * np.sin(angle)]
      total += lfilter(forward, [1.0, -2 * radius * np.cos(angle), radius**2], x)
  return total.astype(np.float32)


def band(
  x: Array, frequencies: Sequence[float] | Array, widths: Sequence[float] | Array, rate: int
) -> Array:
  """Return `x` filtered by parallel band-pass filters of equal gain at their centres, float32[S].

  Args:
    x: float[S].
    frequencies: Centre frequencies in Hz.
    widths: Bandwidths in Hz.
    rate: Sample rate in Hz.
  """
  decays = [1 / (np.pi * width) for width in widths]
  return ring(x, frequencies, decays, [2 * np.pi * width / rate for width in widths], rate)


def low_pass(x: Array, frequency: float, rate: int) -> Array:
  """Return `x` filtered by a one-pole low-pass at `frequency` Hz, float32[S]."""
  keep = np.exp(-2 * np.pi * frequency / rate)
  return lfilter([1 - keep], [1.0, -keep], x).astype(np.float32)


def onsets(
  rng: np.random.Generator, seconds: float, gap: float, jitter: float = 0.0
) -> list[float]:
  """Return the onsets in seconds of events that are `gap` seconds apart, with random jitter.

  Args:
    rng: Random number generator.
    seconds: Length of the sound.
    gap: Mean gap between onsets.
    jitter: Maximum relative deviation of a gap.
  """
  steps = gap * (1 + jitter * rng.uniform(-1, 1, int(seconds / gap / max(0.1, 1 - jitter)) + 2))
  starts = np.cumsum(steps) - steps[0]
  return [float(start) for start in starts if start < max(seconds - 0.08, 0.01)]


def impulses(starts: Iterable[float], gains: Iterable[float], samples: int, rate: int) -> Array:
  """Return a signal with impulses of the given gains at `starts` in seconds, float32[samples]."""
  x = np.zeros(samples, dtype=np.float32)
  for start, gain in zip(starts, gains):
    x[min(int(start * rate), samples - 1)] += gain
  return x


def drops(rng: np.random.Generator, samples: int, per_second: float, rate: int) -> Array:
  """Return impulses at random times, most of them small, float32[samples]."""
  count = max(3, rng.poisson(per_second * samples / rate))
  x = np.zeros(samples, dtype=np.float32)
  x[rng.integers(0, samples, count)] = rng.random(count, dtype=np.float32) ** 3 + 0.05
  return x


def wander(rng: np.random.Generator, samples: int, per_second: float, rate: int) -> Array:
  """Return a smooth random curve between 0 and 1, float32[samples].

  Args:
    rng: Random number generator.
    samples: Number of samples.
    per_second: Number of random values per second, which are interpolated.
    rate: Sample rate in Hz.
  """
  knots = rng.random(max(3, int(samples / rate * per_second) + 2))
  at = np.linspace(0, len(knots) - 1.001, samples)
  part = 0.5 - 0.5 * np.cos(np.pi * (at % 1))
  first = at.astype(np.int64)
  return ((1 - part) * knots[first] + part * knots[first + 1]).astype(np.float32)


def lay(sound: Array, grain: Array, start: float, rate: int) -> None:
  """Add `grain` to `sound` in place, starting at `start` seconds, and cut it at the end."""
  first = int(start * rate)
  room = sound[first : first + len(grain)]
  room += grain[: len(room)]


def swell(samples: int, attack: float, release: float, rate: int) -> Array:
  """Return an envelope with linear attack and release, both in seconds, float32[samples]."""
  n = np.arange(samples, dtype=np.float32)
  rise = n / max(attack * rate, 1.0)
  return np.minimum(np.minimum(rise, (samples - n) / max(release * rate, 1.0)), 1.0)


def fade_and_normalise(sound: Array, rate: int) -> Array:
  """Return the sound with its end faded over 10 ms and its peak at 1, float32[S]."""
  sound = sound * swell(len(sound), 0.001, 0.01, rate)
  return (sound / max(float(np.max(np.abs(sound))), 1e-9)).astype(np.float32)


def plucked_string(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise plucks (Karplus and Strong): each period is the last one, averaged and damped."""
  sound, root = np.zeros(round(seconds * rate), dtype=np.float32), pitch(rng, 90, 330)
  damping = rng.uniform(0.35, 0.9)
  for start in onsets(rng, seconds, rng.uniform(0.22, 0.7), 0.1):
    period = round(rate / (root * 2 ** (rng.choice(SCALE) / 12)))
    rounds = max(2, int(min(seconds - start, 2.5) * rate / period))
    turn = 2 * np.pi * np.arange(period // 2 + 1) / period
    loss = np.log(np.maximum(np.cos(turn / 2), 1e-6)) - damping * 4 * period / rate
    spectrum = np.fft.rfft(noise(rng, period)) * (turn > 0)
    periods = spectrum * np.exp(np.arange(rounds)[:, None] * loss)
    lay(sound, np.fft.irfft(periods, period).ravel() * rng.uniform(0.5, 1), start, rate)
  return fade_and_normalise(sound, rate)


def bowed_string(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise long sawtooth notes with vibrato and slow attacks, through body resonances."""
  time = clock_of(seconds, rate)
  root, gap = pitch(rng, 110, 520), rng.uniform(0.9, 2.2)
  frequency, loudness = np.full(len(time), root), np.zeros(len(time), dtype=np.float32)
  for start in onsets(rng, seconds, gap, 0.2):
    first, last = int(start * rate), int((start + gap) * rate)
    frequency[first:] = root * 2 ** (rng.choice(SCALE) / 12)
    loudness[first:last] = swell(len(loudness[first:last]), 0.18, 0.12, rate)
  depth = rng.uniform(0.006, 0.016)
  frequency *= 1 + depth * np.sin(2 * np.pi * rng.uniform(4.8, 6.5) * time)
  x = tone(frequency, 1 / np.arange(1, 40), rate) * (0.15 + loudness)
  x += 0.03 * noise(rng, len(x)) * loudness
  return fade_and_normalise(
    0.3 * x + band(x, (290, 480, 1100, 2600), (90, 130, 400, 900), rate), rate
  )


def bass_drum(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise beats of a falling low sine with a short click."""
  sound, low, gap = np.zeros(round(seconds * rate)), pitch(rng, 42, 75), pitch(rng, 0.32, 0.8)
  time, decay, drop = clock_of(0.5, rate), rng.uniform(0.08, 0.16), rng.uniform(80, 180)
  body = np.sin(2 * np.pi * np.cumsum(low + drop * np.exp(-time / 0.03)) / rate)
  grain = body * np.exp(-time / decay) + 0.15 * noise(rng, len(time)) * np.exp(-time / 0.004)
  for start in onsets(rng, seconds, gap, 0.03):
    lay(sound, grain * rng.uniform(0.6, 1), start, rate)
  return fade_and_normalise(sound, rate)


def snare_drum(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise strokes and rolls: a short drum head of two tones under rattling noise."""
  gap = pitch(rng, 0.11, 0.5)
  starts = onsets(rng, seconds, gap, 0.06)
  hits = impulses(starts, rng.uniform(0.4, 1, len(starts)), round(seconds * rate), rate)
  head, decay = pitch(rng, 160, 300), rng.uniform(0.04, 0.09)
  rattle = noise(rng, len(hits)) * lfilter([1.0], [1.0, -np.exp(-1 / (decay * rate))], hits)
  skin = ring(hits, (head, 1.6 * head), (0.05, 0.035), (0.8, 0.5), rate)
  return fade_and_normalise(skin + 0.45 * (rattle - 0.7 * low_pass(rattle, 900, rate)), rate)


def cymbal(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise crashes that decay slowly: dense high partials without a common pitch."""
  starts = onsets(rng, seconds, rng.uniform(0.7, 2.4), 0.15)
  hits = impulses(starts, rng.uniform(0.6, 1, len(starts)), round(seconds * rate), rate)
  hiss = noise(rng, len(hits)) * (
    lfilter([1.0], [1.0, -np.exp(-1 / (rng.uniform(0.25, 0.8) * rate))], hits)
  )
  partials = rng.uniform(2500, 7500, 8)
  metal = ring(hits, partials, rng.uniform(0.2, 0.7, 8), rng.uniform(0.05, 0.2, 8), rate)
  return fade_and_normalise(metal + 0.5 * (hiss - low_pass(hiss, 4500, rate)), rate)


def xylophone(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise fast runs on wooden bars: the pitch and its 3.93 and 9.2 multiples, all short."""
  sound, root = np.zeros(round(seconds * rate)), pitch(rng, 260, 780)
  still = np.zeros(int(0.5 * rate))
  still[0] = 1
  for start in onsets(rng, seconds, rng.uniform(0.12, 0.3), 0.05):
    bar = root * 2 ** (rng.choice(SCALE) / 12)
    grain = ring(still, (bar, 3.93 * bar, 9.2 * bar), (0.11, 0.05, 0.02), (1, 0.45, 0.25), rate)
    lay(sound, grain * rng.uniform(0.5, 1), start, rate)
  return fade_and_normalise(sound, rate)


def flute(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise legato notes of few harmonics with breath noise and a slow tremolo."""
  time, root = clock_of(seconds, rate), pitch(rng, 260, 780)
  frequency, gap = np.full(len(time), root), rng.uniform(0.3, 0.8)
  loudness = np.ones(len(time), dtype=np.float32)
  for start in onsets(rng, seconds, gap, 0.2):
    frequency[int(start * rate) :] = root * 2 ** (rng.choice(SCALE) / 12)
    dip = loudness[int(start * rate) : int((start + 0.05) * rate)]
    dip *= np.linspace(0.25, 1, len(dip), dtype=np.float32)
  loudness *= 1 + 0.2 * np.sin(2 * np.pi * rng.uniform(4, 5.5) * time).astype(np.float32)
  breath = band(noise(rng, len(time)), (1.5 * root, 4.5 * root), (500, 1500), rate)
  return fade_and_normalise(
    (tone(frequency, (1, 0.35, 0.12, 0.04), rate) + 0.5 * breath) * loudness, rate
  )


def organ(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise steady chords of three notes with octave and fifth stops that change together."""
  time, root = clock_of(seconds, rate), pitch(rng, 100, 330)
  base, stops = (
    np.ones(len(time)),
    (1, 0.8, 0.5, 0.6, 0, 0.35, 0, 0.45, 0, 0, 0, 0.2, 0, 0, 0, 0.25),
  )
  loudness = np.ones(len(time), dtype=np.float32)
  for start in onsets(rng, seconds, rng.uniform(1.2, 2.5), 0.2):
    base[int(start * rate) :] = root * 2 ** (rng.choice(SCALE) / 12)
    dip = loudness[int(start * rate) : int((start + 0.04) * rate)]
    dip *= np.linspace(0, 1, len(dip), dtype=np.float32)
  chord = (0, rng.choice((3, 4, 5)), rng.choice((7, 9)))
  notes = [tone(base * 2 ** (step / 12) * rng.uniform(0.998, 1.002), stops, rate) for step in chord]
  return fade_and_normalise(sum(notes) * loudness, rate)


def church_bell(rng: np.random.Generator, seconds: float, rate: int) -> Array:
  """Synthesise slow bell strokes: hum, prime, minor third, fifth, octave and above, long decay."""
  starts = onsets(rng, seconds, rng.uniform(1.0, 2.4), 0.03)
  hits = impulses(starts, rng.uniform(0.7, 1, len(starts)), round(seconds * rate), rate)
  strike, life = pitch(rng, 180, 640), rng.uniform(0.7, 1.3)
  partials = strike * np.array([0.5, 1, 1.003, 1.19, 1.5, 2, 2.52, 3.01, 4.1, 5.4])
  decays = life * np.array([2.4, 1.5, 1.5, 1.2, 0.8, 0.9, 0.4, 0.35, 0.2, 0.12])
  gains = np.array([0.5, 0.4, 0.4, 0.6, 0.35, 1, 0.6, 0.6, 0.5, 0.4]) * rng.uniform(0.6, 1.2, 10)
  return fade_and_normalise(ring(hits, partials, decays, gains, rate), rate)
