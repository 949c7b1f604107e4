"""Pictures and sounds of clips that are part of a page, as `data:` addresses."""

from __future__ import annotations

import base64
import io

import matplotlib.image
import numpy as np
import soundfile

from atgcn_jax.audio.sound_files import resample
from atgcn_jax.data.store.clip_store import ClipStore

COLUMNS = 240  # maximum number of columns of a picture
LEVELS = 32  # number of colours of a picture, which keeps it small
SHOWN_DB = 60.0  # range of a picture below its peak
MP3_RATES = (8000, 16_000, 32_000)  # sample rates of sounds, of which the next higher one is used


def spectrogram_address(store: ClipStore, clip: int) -> str:
  """Return a picture of the log-mel of a clip, low bands at the bottom; empty for embeddings.

  Args:
    store: The store.
    clip: The number of the clip.
  """
  if store.frontend.value_limit is not None:
    return ""
  values = store.log_mels(np.array([clip]))[0].astype(np.float32)
  if store.log_mel.dtype == np.uint8:
    values *= store.frontend.uint8_range / 255
  parts = np.array_split(values, min(COLUMNS, len(values)))
  picture = np.stack([part.mean(axis=0) for part in parts]).T
  top = picture.max()
  low = max(picture.min(), top - SHOWN_DB)
  share = (picture - low).clip(0) / max(top - low, 1e-6)
  buffer = io.BytesIO()
  levels = np.rint(share * (LEVELS - 1)) / (LEVELS - 1)
  matplotlib.image.imsave(
    buffer, levels, vmin=0, vmax=1, cmap="magma", format="png", origin="lower"
  )
  return _data("image/png", buffer)


def sound_address(waveform: np.ndarray, rate: int) -> str:
  """Return a sound as MP3.

  Args:
    waveform: float32[S], within [-1, 1]. Louder sounds are scaled.
    rate: The sample rate, in Hz.
  """
  target = next((one for one in MP3_RATES if one >= rate), MP3_RATES[-1])
  waveform = resample(waveform, rate, target)
  waveform = waveform / max(1.0, float(np.abs(waveform).max()))
  buffer = io.BytesIO()
  soundfile.write(buffer, waveform, target, format="MP3")
  return _data("audio/mpeg", buffer)


def _data(kind: str, buffer: io.BytesIO) -> str:
  return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
