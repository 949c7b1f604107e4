"""The mel spectrogram piece by piece, as a CPU does it fastest: a piece fits its caches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

FRAMES, AT_ONCE = 128, 2  # the most frames of a piece, and pieces at a time


def mel_spectrogram_in_pieces(
  padded: jax.Array,
  *,
  frames: int,
  window: np.ndarray,
  hop: int,
  n_fft: int,
  power: int,
  bank: np.ndarray,
) -> jax.Array:
  """Returns what `spectrogram` and `mel_spectrogram` of the front end give, float32[..., T, F].

  Args:
    padded: float32[..., S], with what lies beyond the ends.
    frames: T, at most (S - W) // hop + 1.
    window: float32[W], W at most `n_fft`.
    hop: samples from one frame to the next.
    n_fft: points of the Fourier transform.
    power: 1 for magnitudes, 2 for powers.
    bank: float32[F, n_fft // 2 + 1], the mel filters.
  """
  *axes, samples = padded.shape
  # Without the barrier the padding is worked out anew for every overlapping frame.
  clips = jax.lax.optimization_barrier(padded.reshape(-1, samples))
  pieces = -(-frames // FRAMES)
  rounds = -(-pieces // AT_ONCE)
  size = -(-frames // (rounds * AT_ONCE))

  def mel(clip, first):
    framed = jax.vmap(lambda frame: jax.lax.dynamic_slice(clip, (frame * hop,), window.shape))(
      first + jnp.arange(size)
    )
    found = jnp.zeros((size, len(bank)), jnp.float32)
    for real, imaginary, bins in transform(framed, window, n_fft):
      powers = jnp.square(real) + jnp.square(imaginary)
      values = powers if power == 2 else jnp.sqrt(powers)
      found += jnp.matmul(values, bank.T[bins], precision=jax.lax.Precision.HIGHEST)
    return found

  # Pieces that do not depend on each other keep the cores busy, which one transform does not.
  firsts = np.arange(rounds * AT_ONCE).reshape(rounds, AT_ONCE) * size
  mels = jax.lax.map(
    lambda clip: jax.lax.map(lambda some: [mel(clip, some[i]) for i in range(AT_ONCE)], firsts),
    clips,
  )
  # The last piece may go on beyond the last frame.
  mels = jnp.stack(mels, axis=2).reshape(len(clips), firsts.size * size, len(bank))
  return mels[:, :frames].reshape(*axes, frames, len(bank))


def transform(
  framed: jax.Array, window: np.ndarray, n_fft: int
) -> list[tuple[jax.Array, jax.Array, np.ndarray]]:
  """Returns the Fourier transform of real frames in parts: real, imaginary float32[T, n], n bins.

  A bin above n_fft / 2 is given as its mirror image, whose value is the conjugate; no bin comes
  twice. The zeros that fill a frame up to `n_fft` are never touched: the bins of odd number are a
  transform of a quarter of the points, since a real frame's bins 4m + 1 and n_fft - 4m - 1 are
  conjugate; the even bins are a transform of half the points.

  Args:
    framed: float32[T, W], at most `n_fft` samples a frame.
    window: float32[W].
    n_fft: points of the Fourier transform, even.
  """
  parts, points, samples = [], n_fft, np.arange(window.size)
  while points % 4 == 0 and points // 2 >= window.size and window.size % (points // 4) == 0:
    size = points // 4
    turned = window * np.exp(-2j * np.pi * samples / points)
    # Two real transforms, not one complex: only of those are the bits the same however XLA deals
    # the frames out to threads.
    a, b = (
      jnp.fft.rfft(sum(framed[:, i : i + size] * part[None, i : i + size] for i in samples[::size]))
      for part in (turned.real.astype(np.float32), turned.imag.astype(np.float32))
    )
    m = np.arange(size)
    bins = (4 * m + 1) * (n_fft // points)
    bins = np.minimum(bins, n_fft - bins)
    half, mirrored = size // 2 + 1, slice(1, (size + 1) // 2)
    parts += [
      (a.real - b.imag, a.imag + b.real, bins[:half]),
      ((a.real + b.imag)[:, mirrored], (b.real - a.imag)[:, mirrored], bins[:0:-1][: size - half]),
    ]
    points //= 2
  spectrum = jnp.fft.rfft(framed * window[None], n=points)
  return [
    *parts,
    (spectrum.real, spectrum.imag, np.arange(points // 2 + 1) * (n_fft // points)),
  ]
