"""A clip store with a few tiny clips."""

import h5py
import numpy as np

from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.quantisation import quantise
from atgcn_jax.data.store import clip_store, store_writing
from atgcn_jax.labels.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("/m/a", "/m/b", "/m/c", "/m/d"), ("Äpfel", "Birds, many", "Cat", "Dog"))
FRONTEND = Frontend("tiny", 1000, 32, 32, 10, "constant", 1, 5, 0.0, 500.0, seconds=0.2)
FRAMES, BANDS = FRONTEND.frames, FRONTEND.n_mels


def decibels(clips, seed=0):
  """Return random log-mels float32[N, T, F] with different peaks and a range of 70 dB."""
  rng = np.random.default_rng(seed)
  peaks = rng.uniform(-60, 20, (clips, 1, 1))
  return (peaks - rng.uniform(0, 70, (clips, FRAMES, BANDS))).astype(np.float32)


def write(path, log_mel, dtype="uint8", chunk=4, **changes):
  """Write a store of these log-mels, and return the values of its other arrays."""
  clips = len(log_mel)
  parts = {
    "clip_ids": [f"clip {i} ü" for i in range(clips)],
    "folds": [("train", "validation", "test")[i % 3] for i in range(clips)],
    "labels": [[[0, 2], [], [3], [0, 1, 2, 3], [1]][i % 5] for i in range(clips)],
    "vocabulary": VOCABULARY,
    "frontend": FRONTEND,
  } | changes
  chunks = (quantise(log_mel[i : i + chunk], dtype) for i in range(0, clips, chunk))
  store_writing.write_store(path, chunks, dtype=dtype, **parts)
  return parts


def make(path, clips=11, dtype="uint8", **changes):
  """Make and open a store."""
  write(path, decibels(clips), dtype, **changes)
  return clip_store.open_store(path)


def spoil(path, clips, value=np.nan):
  """Store a value that is not finite in some clips: in float16 log-mels, or as uint8 peaks."""
  with h5py.File(path, "r+") as file:
    if file["log_mel"].dtype == np.uint8:
      file["peak_db"][clips] = value
    else:
      file["log_mel"][clips, 1, 1] = value
