"""Front ends from waveforms to log-mel spectrograms: pure functions of arrays, in float32."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.audio.mel import mel_filterbank
from atgcn_jax.audio.piecewise_mel import mel_spectrogram_in_pieces
from atgcn_jax.audio.quantisation import RANGE_DB

# Fields of later versions. They are stored only if they differ from their default, so that the
# fingerprints of stores and runs do not change.
LATER = ("pre_emphasis", "window", "centre", "spread", "value_limit")

# Settings that must be above 0, and their largest values, far above those of any front end in use.
LIMITS = {
  "sample_rate": 10_000_000,
  "n_fft": 2**20,
  "win_length": 2**24,
  "hop": 2**24,
  "n_mels": 2**14,
  "fmax": 5_000_000,
  "amin": 1,
  "top_db": 1000,
  "seconds": 86_400,
  "log_offset": 1e6,
  "value_limit": 1e6,
}
CHOICES = {
  "pad_mode": ("constant", "reflect", "none"),
  "power": (1, 2),
  "mel_scale": ("slaney", "htk"),
  "window": ("periodic", "symmetric"),
}


@dataclasses.dataclass(frozen=True)
class Frontend:
  """The settings of a log-mel spectrogram. Every field is a plain JSON value.

  Attributes:
    name: Name of the settings.
    sample_rate: Sample rate of the waveform, in Hz.
    n_fft: Number of points of the Fourier transform.
    win_length: Length of the Hann window in samples. The window is centred in `n_fft`.
    hop: Number of samples from one frame to the next.
    pad_mode: Padding at both ends of the waveform for centred frames: "constant" (zeros) or
      "reflect". With "none" frames are not centred, and the first frame starts at the first sample.
    power: 1 for magnitudes, 2 for powers.
    n_mels: Number of mel bands, F.
    fmin: Lower end of the lowest band, in Hz.
    fmax: Upper end of the highest band, in Hz.
    amin: Smallest value that enters the logarithm.
    top_db: Dynamic range below the peak of a clip, in dB. None for no limit.
    drop_last: Whether to drop the last centred frame, half of which is padding.
    seconds: Length of a clip, in seconds.
    mel_scale: "slaney" (triangles linear in Hz, with unit area) or "htk" (triangles linear in mel,
      with height 1).
    log_offset: Offset that is added before the natural logarithm. None for decibels.
    pre_emphasis: Weight p of the filter y[t] = x[t + 1] - p x[t] of the waveform. 0 for no filter.
    window: Form of the Hann window, "periodic" or "symmetric".
    centre: Value that is subtracted from the logarithms.
    spread: Value that the logarithms are divided by after that.
    value_limit: For embeddings of a network that this package does not have, the bound of their
      absolute values. `win_length`, `hop` and `n_mels` are then those of the embeddings: samples
      per embedding, samples between them, and their width. None for log-mels.

  Raises:
    ValueError: If a setting is out of range.
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
  pre_emphasis: float = 0.0
  window: str = "periodic"
  centre: float = 0.0
  spread: float = 1.0
  value_limit: float | None = None

  def __post_init__(self) -> None:
    for name, most in LIMITS.items():
      value = getattr(self, name)
      if value is not None and not 0 < value <= most:
        raise ValueError(
          f"the front end has {name} {value}, which must be above 0 and at most {most}"
        )
    for name, choices in CHOICES.items():
      if getattr(self, name) not in choices:
        named = ", ".join(map(str, choices))
        raise ValueError(f"the front end has {name} {getattr(self, name)!r}, not one of {named}")
    if not 0 <= self.fmin < self.fmax or not self.samples or self.spread == 0:
      raise ValueError("the front end has no bands, no samples or no spread")

  @property
  def uint8_range(self) -> float:
    """Return the range below `peak_db` of a clip that stored uint8 values span."""
    return RANGE_DB if self.value_limit is None else 2 * self.value_limit

  def as_json(self) -> dict[str, Any]:
    """Return the fields by name, those of LATER only if they differ from their default."""
    default = {field.name: field.default for field in dataclasses.fields(self)}
    values = dataclasses.asdict(self)
    return {k: v for k, v in values.items() if k not in LATER or v != default[k]}

  @property
  def samples(self) -> int:
    """Return the number of samples in a clip."""
    return round(self.seconds * self.sample_rate)

  @property
  def frames(self) -> int:
    """Return the number of frames in a clip."""
    return self.frame_count(self.samples)

  def frame_count(self, samples: int) -> int:
    """Return the number of frames T of a waveform with this number of samples, at least one."""
    if self.pre_emphasis:
      samples -= 1
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
  # Schmid et al., ICASSP 2023 (EfficientAT), in evaluation. Kaldi's mel bands are those of "htk".
  "efficientat": Frontend(
    name="efficientat",
    sample_rate=32000,
    n_fft=1024,
    win_length=800,
    hop=320,
    pad_mode="reflect",
    power=2,
    n_mels=128,
    fmin=0.0,
    fmax=15000.0,
    mel_scale="htk",
    log_offset=1e-5,
    pre_emphasis=0.97,
    window="symmetric",
    centre=-4.5,
    spread=5.0,
  ),
}

# AudioSet's published features: outputs of Google's VGGish network, one per second, after PCA,
# whitening and clipping to [-2, 2].
VGGISH_FEATURES = dataclasses.replace(
  FRONTENDS["vggish"],
  name="vggish-features",
  win_length=15360,
  hop=16000,
  n_mels=128,
  value_limit=2.0,
)


def log_mel(
  waveform: jax.Array | np.ndarray,
  frontend: Frontend | str,
  *,
  portable: bool = False,
  by_matrix: bool = False,
) -> jax.Array:
  """Return the log-mel spectrogram of a waveform.

  Values are in dB, or natural logarithms if the front end has a `log_offset`; then they are shifted
  and scaled as the front end says. The peak is taken per clip, so the clips of a batch do not
  influence each other.

  Args:
    waveform: float[..., S] at the sample rate of the front end, S at least 1.
    frontend: A `Frontend`, or the name of one in `FRONTENDS`.
    portable: Whether to use one form for all platforms, which also allows leading axes of unknown
      size.
    by_matrix: Whether the portable form computes the Fourier transform as a matrix product, as for
      `spectrogram`.

  Returns:
    float32[..., T, F], T = `frontend.frame_count(S)`.

  Raises:
    ValueError: The name is unknown, the front end is a network that this package does not have, or
      the waveform has no samples.
    TypeError: The waveform contains integers.
  """
  if isinstance(frontend, str):
    if frontend not in FRONTENDS:
      raise ValueError(f"unknown front end {frontend!r}; choose one of {sorted(FRONTENDS)}")
    frontend = FRONTENDS[frontend]
  if frontend.value_limit is not None:
    raise ValueError(f"{frontend.name} cannot be computed from a waveform without its network")
  stft = {name: getattr(frontend, name) for name in ("n_fft", "hop", "pad_mode", "power", "window")}
  filters = {
    name: getattr(frontend, name)
    for name in ("sample_rate", "n_fft", "n_mels", "fmin", "fmax", "mel_scale")
  }
  waveform = _checked(waveform)
  frames = frontend.frame_count(waveform.shape[-1])
  if frontend.pre_emphasis:
    waveform = emphasised(waveform, frontend.pre_emphasis)

  def together(waveform):
    spectra = spectrogram(waveform, win_length=frontend.win_length, by_matrix=by_matrix, **stft)
    return mel_spectrogram(spectra[..., :frames, :], **filters)

  def in_pieces(waveform):
    return mel_spectrogram_in_pieces(
      at_ends(waveform, frontend.win_length, frontend.pad_mode),
      frames=frames,
      window=_hann(frontend.win_length, frontend.window),
      hop=frontend.hop,
      n_fft=frontend.n_fft,
      power=frontend.power,
      bank=mel_filterbank(**filters),
    )

  # The last frame is dropped before the peak is taken.
  if portable:
    mel = together(waveform)
  else:
    mel = jax.lax.platform_dependent(waveform, cpu=in_pieces, default=together)
  if frontend.log_offset is not None:
    logs = jnp.log(mel + frontend.log_offset)
  else:
    logs = to_decibels(mel, amin=frontend.amin, top_db=frontend.top_db)
  if (frontend.centre, frontend.spread) == (0.0, 1.0):
    return logs
  return (logs - frontend.centre) / frontend.spread


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
  waveform = _checked(waveform)
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
    _hann(win_length, window), (*framed.shape[:-1], win_length)
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


def _checked(waveform: jax.Array | np.ndarray) -> jax.Array:
  """Return the waveform in float32, or raise if it is not a waveform of floats."""
  if not jnp.issubdtype(waveform.dtype, jnp.floating):
    raise TypeError(f"expected a waveform of floats in [-1, 1], got {waveform.dtype}")
  if not waveform.ndim or not waveform.shape[-1]:
    raise ValueError(f"expected a waveform [..., S] with S at least 1, got {waveform.shape}")
  return jnp.asarray(waveform, jnp.float32)


def _hann(size: int, form: str) -> np.ndarray:
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
