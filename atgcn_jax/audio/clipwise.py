"""The mel spectrogram a clip at a time: what a CPU does fastest, as a clip fits its caches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np


def mel_spectrogram_clipwise(
  waveform: jax.Array,
  *,
  frames: int,
  window: np.ndarray,
  hop: int,
  n_fft: int,
  pad_mode: str,
  power: int,
  bank: np.ndarray,
) -> jax.Array:
  """Returns what `spectrogram` and `mel_spectrogram` of the front end give, float32[..., T, F].

  Args:
    waveform: float32[..., S].
    frames: T, at most S // hop + 1.
    window: float32[W], W at most `n_fft`.
    hop: samples from one frame to the next.
    n_fft: points of the Fourier transform.
    pad_mode: "constant" (zeros) or "reflect" at both ends.
    power: 1 for magnitudes, 2 for powers.
    bank: float32[F, n_fft // 2 + 1], the mel filters.
  """
  *axes, samples = waveform.shape
  edge = ((0, 0), (window.size // 2, window.size // 2))
  # Without the barrier the padding is worked out anew for every overlapping frame.
  clips = jax.lax.optimization_barrier(jnp.pad(waveform.reshape(-1, samples), edge, mode=pad_mode))
  mel = functools.partial(
    _mel_of_clip, frames=frames, window=window, hop=hop, n_fft=n_fft, power=power, bank=bank
  )
  # Two clips that do not depend on each other keep two cores busy; one transform does not.
  half = len(clips) // 2
  halves = clips[:half], clips[half : 2 * half]
  found = jax.lax.map(lambda pair: tuple(map(mel, pair)), halves) if half else ()
  last = [mel(clip)[None] for clip in clips[2 * half :]]
  none = jnp.zeros((0, frames, len(bank)), jnp.float32)
  return jnp.concatenate([none, *found, *last]).reshape(*axes, frames, len(bank))


def _mel_of_clip(
  padded: jax.Array,
  *,
  frames: int,
  window: np.ndarray,
  hop: int,
  n_fft: int,
  power: int,
  bank: np.ndarray,
) -> jax.Array:
  framed = jax.vmap(lambda start: jax.lax.dynamic_slice(padded, (start,), window.shape))(
    jnp.arange(frames) * hop
  )
  mel = jnp.zeros((frames, len(bank)), jnp.float32)
  for spectrum, bins in transform(framed, window, n_fft):
    powers = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    values = powers if power == 2 else jnp.sqrt(powers)
    mel += jnp.matmul(values, bank.T[bins], precision=jax.lax.Precision.HIGHEST)
  return mel


def transform(
  framed: jax.Array, window: np.ndarray, n_fft: int
) -> list[tuple[jax.Array, np.ndarray]]:
  """Returns the Fourier transform of real frames in parts, each complex64[T, n] and its n bins.

  A bin above n_fft / 2 is given as its mirror image, whose value is the conjugate; no bin comes
  twice. The zeros that fill a frame up to `n_fft` are never touched: half of the bins, those of
  odd number, are one complex transform of a quarter of the points, since a real frame's bins
  4m + 1 and n_fft - 4m - 1 are conjugate; the even bins are the transform of half the size.

  Args:
    framed: float32[T, W], at most `n_fft` samples a frame.
    window: float32[W].
    n_fft: points of the Fourier transform, even.
  """
  parts, points = [], n_fft
  while points % 4 == 0 and points // 2 >= window.size and window.size % (points // 4) == 0:
    size = points // 4
    turns = np.arange(window.size)
    twiddled = window * np.exp(-2j * np.pi * turns / points)
    folded = [
      sum(framed[:, i : i + size] * factors[None, i : i + size] for i in turns[::size])
      for factors in (twiddled.real.astype(np.float32), twiddled.imag.astype(np.float32))
    ]
    bins = (4 * np.arange(size) + 1) * (n_fft // points)
    parts.append((jnp.fft.fft(jax.lax.complex(*folded)), np.minimum(bins, n_fft - bins)))
    points //= 2
  spectrum = jnp.fft.rfft(framed * window[None], n=points)
  return [*parts, (spectrum, np.arange(points // 2 + 1) * (n_fft // points))]
