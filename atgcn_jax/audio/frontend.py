"""Waveforms to log-mel spectrograms: pure functions of arrays, in float32 whatever comes in."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.audio.mel import mel_filterbank
from atgcn_jax.audio.piecewise_mel import mel_spectrogram_in_pieces


@dataclasses.dataclass(frozen=True)
class Frontend:
  """How a waveform becomes a log-mel spectrogram; every field is a plain JSON value.

  Attributes:
    name: what the settings are called.
    sample_rate: of the waveform, in Hz.
    n_fft: points of the Fourier transform.
    win_length: samples under the Hann window, which stands in the middle of `n_fft`.
    hop: samples from one frame to the next.
    pad_mode: what lies beyond the ends under the centred frames, "constant" (zeros) or "reflect";
      "none" where frames are not centred and the first begins with the first sample.
    power: 1 for magnitudes, 2 for powers.
    n_mels: mel bands, F.
    fmin: lower end of the lowest band, in Hz.
    fmax: upper end of the highest band, in Hz.
    amin: the smallest value that enters the logarithm.
    top_db: range kept below the peak of a clip, in dB; None keeps all.
    drop_last: whether the last centred frame, half of which is padding, is left out.
    seconds: length of a clip.
    mel_scale: "slaney", bands of unit area and slopes linear in Hz; or "htk", slopes of height 1,
      linear in mel.
    log_offset: where given, values are natural logarithms after adding it, in place of dB.
  """

  name: str
  sample_rate: int
  n_fft: int
  win_length: int
  hop: int
  pad_mode: str
  power: int
  n_mels: int
  fmin: float
  fmax: float
  amin: float = 1e-10
  top_db: float | None = None
  drop_last: bool = False
  seconds: float = 10.0
  mel_scale: str = "slaney"
  log_offset: float | None = None

  @property
  def samples(self) -> int:
    """Samples in a clip."""
    return round(self.seconds * self.sample_rate)

  @property
  def frames(self) -> int:
    """Frames in a clip."""
    return self.frame_count(self.samples)

  def frame_count(self, samples: int) -> int:
    """Returns the frames T that a waveform of so many samples gives, at least one."""
    if self.pad_mode == "none":
      return max(1, (samples - self.win_length) // self.hop + 1)
    return max(1, samples // self.hop + (not self.drop_last))


FRONTENDS: dict[str, Frontend] = {
  "talnet": Frontend(
    name="talnet",
    sample_rate=16000,
    n_fft=4096,
    win_length=1024,
    hop=400,
    pad_mode="constant",
    power=1,
    n_mels=64,
    fmin=0.0,
    fmax=8000.0,
    top_db=80.0,
    drop_last=True,
  ),
  "panns": Frontend(
    name="panns",
    sample_rate=32000,
    n_fft=1024,
    win_length=1024,
    hop=320,
    pad_mode="reflect",
    power=2,
    n_mels=64,
    fmin=50.0,
    fmax=14000.0,
  ),
  "vggish": Frontend(
    name="vggish",
    sample_rate=16000,
    n_fft=512,
    win_length=400,
    hop=160,
    pad_mode="none",
    power=1,
    n_mels=64,
    fmin=125.0,
    fmax=7500.0,
    mel_scale="htk",
    log_offset=0.01,
  ),
}


def log_mel(
  waveform: jax.Array | np.ndarray,
  frontend: Frontend | str,
  *,
  portable: bool = False,
  by_matrix: bool = False,
) -> jax.Array:
  """Returns the log-mel spectrogram, float32[..., T, F], T = `frontend.frame_count(S)`.

  It is in dB; with a `log_offset`, natural logarithms. Each clip keeps its own peak: clips of a
  batch do not change each other.

  Args:
    waveform: float[..., S] at the front end's sample rate, any leading axes, S at least 1.
    frontend: a `Frontend`, or the name of one in `FRONTENDS`.
    portable: in one form for all platforms, and for leading axes whose size is not known yet.
    by_matrix: of the portable form, as for `spectrogram`.

  Raises:
    ValueError: the name is not known, or the waveform has no samples.
    TypeError: the waveform holds integers.
  """
  if isinstance(frontend, str):
    if frontend not in FRONTENDS:
      raise ValueError(f"front end {frontend!r} is not known; choose one of {sorted(FRONTENDS)}")
    frontend = FRONTENDS[frontend]
  stft = {name: getattr(frontend, name) for name in ("n_fft", "hop", "pad_mode", "power")}
  filters = {
    name: getattr(frontend, name)
    for name in ("sample_rate", "n_fft", "n_mels", "fmin", "fmax", "mel_scale")
  }
  waveform = _checked(waveform)
  frames = frontend.frame_count(waveform.shape[-1])

  def together(waveform):
    spectra = spectrogram(waveform, win_length=frontend.win_length, by_matrix=by_matrix, **stft)
    return mel_spectrogram(spectra[..., :frames, :], **filters)

  def in_pieces(waveform):
    return mel_spectrogram_in_pieces(
      at_ends(waveform, frontend.win_length, frontend.pad_mode),
      frames=frames,
      window=_hann(frontend.win_length),
      hop=frontend.hop,
      n_fft=frontend.n_fft,
      power=frontend.power,
      bank=mel_filterbank(**filters),
    )

  # Frames are dropped before the peak is taken.
  if portable:
    mel = together(waveform)
  else:
    mel = jax.lax.platform_dependent(waveform, cpu=in_pieces, default=together)
  if frontend.log_offset is not None:
    return jnp.log(mel + frontend.log_offset)
  return to_decibels(mel, amin=frontend.amin, top_db=frontend.top_db)


def spectrogram(
  waveform: jax.Array | np.ndarray,
  *,
  n_fft: int,
  win_length: int,
  hop: int,
  pad_mode: str,
  power: int,
  by_matrix: bool = False,
) -> jax.Array:
  """Returns magnitudes or powers, float32[..., S // hop + 1, n_fft // 2 + 1], of centred frames.

  Frame t is centred on sample t * hop, under a periodic Hann window; without padding it begins
  there, and there are (S - win_length) // hop + 1 frames, at least one.

  Args:
    waveform: float[..., S], S at least 1.
    n_fft: points of the Fourier transform, even, at least `win_length`.
    win_length: samples under the window, even.
    hop: samples from one frame to the next.
    pad_mode: "constant" (zeros) or "reflect" at both ends, or "none".
    power: 1 for magnitudes, 2 for powers.
    by_matrix: the Fourier transform as a product of matrices, for where there is no other.

  Raises:
    ValueError: a setting is not one of those above, or the waveform has no samples.
    TypeError: the waveform holds integers, whose scale is not known here.

  Source: librosa.stft with center=True.
  """
  if win_length % 2 or n_fft % 2 or not 0 < win_length <= n_fft or hop < 1:
    raise ValueError(f"cannot frame with n_fft {n_fft}, win_length {win_length}, hop {hop}")
  if pad_mode not in ("constant", "reflect", "none") or power not in (1, 2):
    raise ValueError(f"pad_mode {pad_mode!r} or power {power!r} is not known")
  waveform = _checked(waveform)
  # Only what lies under the window is framed: zeros around it change phases, which are dropped,
  # and the Fourier transform appends as many. Frames are whole hops laid side by side, so that
  # framing is a few slices and no gather.
  hops, edge = -(-win_length // hop), [(0, 0)] * (waveform.ndim - 1)
  padded = at_ends(waveform, win_length, pad_mode)
  frames = (padded.shape[-1] - win_length) // hop + 1
  blocks = frames + hops - 1
  padded = jnp.pad(padded, [*edge, (0, max(0, blocks * hop - padded.shape[-1]))])
  rows = padded[..., : blocks * hop].reshape(*waveform.shape[:-1], blocks, hop)
  framed = jnp.concatenate([rows[..., k : k + frames, :] for k in range(hops)], axis=-1)
  framed = framed[..., :win_length] * jnp.broadcast_to(
    _hann(win_length), (*framed.shape[:-1], win_length)
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
  """The waveform as it is framed, float32[..., S']: with half a window at both ends, or as it is.

  Args:
    waveform: float32[..., S].
    win_length: samples under the window; where nothing is added there are at least as many.
    pad_mode: as for `spectrogram`.
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
  """Returns the spectra weighed by the mel bands, float32[..., T, F].

  Args:
    spectra: float[..., T, n_fft // 2 + 1], magnitudes or powers.
    sample_rate: as for `mel_filterbank`, and so are the rest.
    n_fft: points of the Fourier transform.
    n_mels: mel bands, F.
    fmin: lower end of the lowest band, in Hz.
    fmax: upper end of the highest band, in Hz.
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
  """Returns 10 log10 of the values, float32 of the same shape, in dB.

  Args:
    mel: float[..., T, F], magnitudes or powers: both are taken as they are.
    amin: smaller values are raised to this one.
    top_db: what lies further than this below the peak of its own clip [T, F] is raised to there.

  Source: librosa.power_to_db with ref=1.
  """
  decibels = 10 * jnp.log10(jnp.maximum(jnp.asarray(mel, jnp.float32), amin))
  if top_db is None:
    return decibels
  return jnp.maximum(decibels, decibels.max(axis=(-2, -1), keepdims=True) - top_db)


def _checked(waveform: jax.Array | np.ndarray) -> jax.Array:
  """Returns the waveform in float32; raises what is wrong with it."""
  if not jnp.issubdtype(waveform.dtype, jnp.floating):
    raise TypeError(f"expected a waveform of floats in [-1, 1], got {waveform.dtype}")
  if not waveform.ndim or not waveform.shape[-1]:
    raise ValueError(f"expected a waveform [..., S] with S at least 1, got {waveform.shape}")
  return jnp.asarray(waveform, jnp.float32)


def _hann(size: int) -> np.ndarray:
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)


def _fourier(size: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
  """The transform of `size` real samples to n_fft // 2 + 1 bins: float32[size, n]."""
  # Whole turns are taken off while the numbers are whole, so that no angle is rounded.
  turns = np.outer(np.arange(size), np.arange(n_fft // 2 + 1)) % n_fft
  turned = np.exp(-2j * np.pi * turns / n_fft)
  return turned.real.astype(np.float32), turned.imag.astype(np.float32)
