"""Spectrograms, mel bands and decibels of waveforms: pure functions of arrays, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.audio.mel import mel_filterbank


def emphasised(waveform: jax.Array, weight: float) -> jax.Array:
  """Return the pre-emphasised waveform x[t + 1] - weight * x[t], float32[..., S - 1].

  Args:
    waveform: float32[..., S]. A single sample is followed by silence.
    weight: Weight of the previous sample.
  """
  if waveform.shape[-1] == 1:
    waveform = jnp.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, 1)])
  later = jax.lax.slice_in_dim(waveform, 1, None, axis=-1)
  return later - weight * jax.lax.slice_in_dim(waveform, 0, -1, axis=-1)


def spectrogram(
  waveform: jax.Array | np.ndarray,
  *,
  n_fft: int,
  win_length: int,
  hop: int,
  pad_mode: str,
  power: int,
  window: str = "periodic",
  by_matrix: bool = False,
) -> jax.Array:
  """Return the magnitude or power spectrogram under a Hann window.

  Frame t is centred on sample t * hop. With `pad_mode="none"` it starts at this sample.

  Args:
    waveform: float[..., S], S at least 1.
    n_fft: Number of points of the Fourier transform, even, at least `win_length`.
    win_length: Length of the window in samples, even.
    hop: Number of samples from one frame to the next.
    pad_mode: Padding at both ends: "constant" (zeros), "reflect" or "none".
    power: 1 for magnitudes, 2 for powers.
    window: Form of the Hann window, "periodic" or "symmetric".
    by_matrix: Whether to compute the Fourier transform as a matrix product, for platforms without
      an FFT.

  Returns:
    float32[..., T, n_fft // 2 + 1], T = S // hop + 1; without padding T = (S - win_length) // hop +
    1, at least one.

  Raises:
    ValueError: A setting is out of range, or the waveform has no samples.
    TypeError: The waveform contains integers, whose scale is unknown.

  Source:
    librosa.stft with center=True.
  """
  if win_length % 2 or n_fft % 2 or not 0 < win_length <= n_fft or hop < 1:
    raise ValueError(
      "n_fft and win_length must be even, win_length at most n_fft and hop at least 1, got "
      f"{n_fft}, {win_length} and {hop}"
    )
  if pad_mode not in ("constant", "reflect", "none") or power not in (1, 2):
    raise ValueError(
      f"pad_mode must be constant, reflect or none and power 1 or 2, got {pad_mode!r} and {power!r}"
    )
  waveform = checked_waveform(waveform)
  # Frames contain only the samples under the window. Zeros around the window would change only
  # phases, which are dropped, and the Fourier transform appends the same number of zeros. A frame
  # is a concatenation of whole hops, so that framing is a few slices and no gather.
  hops, edge = -(-win_length // hop), [(0, 0)] * (waveform.ndim - 1)
  padded = at_ends(waveform, win_length, pad_mode)
  frames = (padded.shape[-1] - win_length) // hop + 1
  blocks = frames + hops - 1
  padded = jnp.pad(padded, [*edge, (0, max(0, blocks * hop - padded.shape[-1]))])
  # lax slices, unlike indices, remain slices where lengths are unknown, as converters require.
  part = jax.lax.slice_in_dim
  rows = part(padded, 0, blocks * hop, axis=-1).reshape(*waveform.shape[:-1], blocks, hop)
  framed = jnp.concatenate([part(rows, k, k + frames, axis=-2) for k in range(hops)], axis=-1)
  framed = part(framed, 0, win_length, axis=-1) * jnp.broadcast_to(
    hann(win_length, window), (*framed.shape[:-1], win_length)
  )
  if by_matrix:
    real, imaginary = (
      jnp.matmul(framed, part, precision=jax.lax.Precision.HIGHEST)
      for part in _fourier(win_length, n_fft)
    )
  else:
    spectrum = jnp.fft.rfft(framed, n=n_fft, axis=-1)
    real, imaginary = spectrum.real, spectrum.imag
  powers = jnp.square(real) + jnp.square(imaginary)
  return powers if power == 2 else jnp.sqrt(powers)


def at_ends(waveform: jax.Array, win_length: int, pad_mode: str) -> jax.Array:
  """Return the padded waveform, float32[..., S'].

  Half a window is added at both ends. With `pad_mode="none"` zeros are added at the end only if the
  waveform is shorter than a window.

  Args:
    waveform: float32[..., S].
    win_length: Length of the window in samples.
    pad_mode: As for `spectrogram`.
  """
  edge = [(0, 0)] * (waveform.ndim - 1)
  if pad_mode == "none":
    return jnp.pad(waveform, [*edge, (0, max(0, win_length - waveform.shape[-1]))])
  return jnp.pad(waveform, [*edge, (win_length // 2, win_length // 2)], mode=pad_mode)


def mel_spectrogram(
  spectra: jax.Array | np.ndarray,
  *,
  sample_rate: int,
  n_fft: int,
  n_mels: int,
  fmin: float,
  fmax: float,
  mel_scale: str = "slaney",
) -> jax.Array:
  """Return the mel spectrogram, float32[..., T, F].

  Args:
    spectra: float[..., T, n_fft // 2 + 1], magnitudes or powers.
    sample_rate: Sample rate of the waveform, in Hz.
    n_fft: Number of points of the Fourier transform.
    n_mels: Number of mel bands, F.
    fmin: Lower end of the lowest band, in Hz.
    fmax: Upper end of the highest band, in Hz.
    mel_scale: "slaney" or "htk".
  """
  bank = mel_filterbank(
    sample_rate=sample_rate,
    n_fft=n_fft,
    n_mels=n_mels,
    fmin=fmin,
    fmax=fmax,
    mel_scale=mel_scale,
  )
  return jnp.matmul(jnp.asarray(spectra, jnp.float32), bank.T, precision=jax.lax.Precision.HIGHEST)


def to_decibels(
  mel: jax.Array | np.ndarray, *, amin: float = 1e-10, top_db: float | None = None
) -> jax.Array:
  """Return 10 log10 of the values in dB, float32 of the same shape.

  Args:
    mel: float[..., T, F]. Magnitudes and powers are treated alike.
    amin: Lower limit of the values.
    top_db: Lower limit relative to the peak of the same clip [T, F], in dB. None for no limit.

  Source:
    librosa.power_to_db with ref=1.
  """
  decibels = 10 * jnp.log10(jnp.maximum(jnp.asarray(mel, jnp.float32), amin))
  if top_db is None:
    return decibels
  return jnp.maximum(decibels, decibels.max(axis=(-2, -1), keepdims=True) - top_db)


def checked_waveform(waveform: jax.Array | np.ndarray) -> jax.Array:
  """Return the waveform in float32, or raise if it is not a waveform of floats."""
  if not jnp.issubdtype(waveform.dtype, jnp.floating):
    raise TypeError(f"expected a waveform of floats in [-1, 1], got {waveform.dtype}")
  if not waveform.ndim or not waveform.shape[-1]:
    raise ValueError(f"expected a waveform [..., S] with S at least 1, got {waveform.shape}")
  return jnp.asarray(waveform, jnp.float32)


def hann(size: int, form: str) -> np.ndarray:
  """Return the Hann window, float32[size]. The symmetric form ends with zero, as it begins."""
  if form not in ("periodic", "symmetric"):
    raise ValueError(f"window must be periodic or symmetric, got {form!r}")
  period = size if form == "periodic" else size - 1
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / period)).astype(np.float32)


def _fourier(size: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the real and imaginary parts of the Fourier matrix, float32[size, n_fft // 2 + 1]."""
  # Whole turns are removed in integer arithmetic, so that no angle is rounded.
  turns = np.outer(np.arange(size), np.arange(n_fft // 2 + 1)) % n_fft
  matrix = np.exp(-2j * np.pi * turns / n_fft)
  return matrix.real.astype(np.float32), matrix.imag.astype(np.float32)
