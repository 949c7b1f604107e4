"""Scores over time, from those of windows or of the frames in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Timeline(NamedTuple):
  """Scores float32[N, K] from `start_s` to `end_s`, each float64[N], in seconds of the sound."""

  start_s: np.ndarray
  end_s: np.ndarray
  scores: np.ndarray


def of_clip(spans: np.ndarray, scores: np.ndarray, rate: int) -> Timeline:
  """One row with the mean over the windows.

  Args:
    spans: int[N, 2], where sound begins and ends in each window, in samples.
    scores: float32[N, K].
    rate: Samples a second.
  """
  # Added in float64, since an hour has hundreds of windows.
  mean = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
  return Timeline(spans[:1, 0] / rate, spans[-1:, 1] / rate, mean[None])


def of_windows(spans: np.ndarray, scores: np.ndarray, rate: int) -> Timeline:
  """A row a window; arguments are those of `of_clip`."""
  return Timeline(spans[:, 0] / rate, spans[:, 1] / rate, scores)


def of_frames(spans: np.ndarray, scores: np.ndarray, step: int, hop: int, rate: int) -> Timeline:
  """A row a frame, as far as there is sound.

  Args:
    spans: As for `of_clip`.
    scores: float32[N, T, K], of the frames of each window.
    step: Samples from frame to frame.
    hop: Samples from window to window, at which a frame ends at the latest.
    rate: Samples a second.
  """
  starts = spans[:, :1] + step * np.arange(scores.shape[1])
  ends = np.minimum(np.minimum(starts + step, spans[:, :1] + hop), spans[-1, 1])
  sounds = starts < ends
  return Timeline(starts[sounds] / rate, ends[sounds] / rate, scores[sounds])
