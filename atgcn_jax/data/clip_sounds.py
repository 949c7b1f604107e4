"""The sounds of the clips of a store, which itself only has their log-mels."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.layouts.listing import check_audio_folder
from atgcn_jax.data.store.long_files import load_cut
from atgcn_jax.errors import UserError

SoundOf = Callable[[str], "np.ndarray | None"]  # from a clip id to a waveform


def sounds_in_folder(folder: str | os.PathLike, settings: Frontend) -> SoundOf:
  """Return a function from clip ids to waveforms float32[S] of the front end's sample rate.

  It returns None for ids that are not the path of a readable sound in the folder, perhaps with
  `@SECONDS`: those of the layouts `segments`, `panns` and `talnet`, for example, are not.

  Args:
    folder: The folder that `atgcn prepare` was given as `--audio`.
    settings: The front end of the store.

  Raises:
    UserError: The folder does not exist, cannot be read or is empty.
  """
  root = os.path.abspath(check_audio_folder(folder))

  def sound_of(clip_id: str) -> np.ndarray | None:
    path = os.path.abspath(os.path.join(root, clip_id))
    if os.path.commonpath([root, path]) != root:
      return None
    try:
      return load_cut(root, settings, clip_id).sound[: settings.samples]
    except UserError:
      return None

  return sound_of


def soundscape_sounds(seed: int = 0) -> SoundOf:
  """Return a function from the clip ids of the built-in soundscapes to waveforms, at 16 kHz."""
  from atgcn_jax.data.synthetic.soundscapes import render  # takes a second

  return lambda clip_id: render(seed, int(clip_id))[0]
