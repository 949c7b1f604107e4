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
from atgcn_jax.audio.spectrogram import (
  at_ends,
  checked_waveform,
  emphasised,
  hann,
  mel_spectrogram,
  spectrogram,
  to_decibels,
)

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
  waveform = checked_waveform(waveform)
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
      window=hann(frontend.win_length, frontend.window),
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
