"""The mel spectrogram in pieces that fit the caches of a CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

FRAMES, AT_ONCE = 128, 2  # maximum number of frames of a piece; number of pieces at a time


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
  """Return the mel spectrogram, float32[..., T, F], as in `frontend` but computed in pieces.

  Args:
    padded: float32[..., S], the padded waveform.
    frames: Number of frames T, at most (S - W) // hop + 1.
    window: float32[W], W at most `n_fft`.
    hop: Number of samples from one frame to the next.
    n_fft: Number of points of the Fourier transform.
    power: 1 for magnitudes, 2 for powers.
    bank: The mel filters, float32[F, n_fft // 2 + 1].
  """
  *axes, samples = padded.shape
  # Without the barrier, XLA recomputes the padding for every overlapping frame.
  clips = jax.lax.optimization_barrier(padded.reshape(-1, samples))
  pieces = -(-frames // FRAMES)
  rounds = -(-pieces // AT_ONCE)
  size = -(-frames // (rounds * AT_ONCE))

  def mel(clip, first):
    framed = jax.vmap(lambda frame: jax.lax.dynamic_slice(clip, (frame * hop,), window.shape))(
      first + jnp.arange(size)
    )
    total = jnp.zeros((size, len(bank)), jnp.float32)
    for real, imaginary, bins in transform(framed, window, n_fft):
      powers = jnp.square(real) + jnp.square(imaginary)
      values = powers if power == 2 else jnp.sqrt(powers)
      total += jnp.matmul(values, bank.T[bins], precision=jax.lax.Precision.HIGHEST)
    return total

  # A single transform does not use all cores; independent pieces do.
  firsts = np.arange(rounds * AT_ONCE).reshape(rounds, AT_ONCE) * size
  mels = jax.lax.map(
    lambda clip: jax.lax.map(lambda some: [mel(clip, some[i]) for i in range(AT_ONCE)], firsts),
    clips,
  )
  # The last piece may extend beyond the last frame.
  mels = jnp.stack(mels, axis=2).reshape(len(clips), firsts.size * size, len(bank))
  return mels[:, :frames].reshape(*axes, frames, len(bank))


def transform(
  framed: jax.Array, window: np.ndarray, n_fft: int
) -> list[tuple[jax.Array, jax.Array, np.ndarray]]:
  """Return the Fourier transform of real frames in parts.

  The zeros that pad a frame to `n_fft` are not computed. The odd bins are a transform with a
  quarter of the points, because the bins 4m + 1 and n_fft - 4m - 1 of a real frame are conjugate.
  The even bins are a transform with half of the points.

  Args:
    framed: float32[T, W], W at most `n_fft`.
    window: float32[W].
    n_fft: Number of points of the Fourier transform, even.

  Returns:
    For each part, the real part float32[T, n], the imaginary part float32[T, n] and the numbers of
    the n bins. A bin above n_fft / 2 is replaced by its mirror image, whose value is the conjugate.
    No bin occurs twice.
  """
  parts, points, samples = [], n_fft, np.arange(window.size)
  while points % 4 == 0 and points // 2 >= window.size and window.size % (points // 4) == 0:
    size = points // 4
    turned = window * np.exp(-2j * np.pi * samples / points)
    # Two real transforms instead of one complex: the bits of complex transforms depend on how XLA
    # distributes the frames over threads.
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
