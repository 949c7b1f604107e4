"""Scores over time, from the scores of windows or of frames, and embeddings over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Timeline(NamedTuple):
  """Scores float32[N, K] of N spans of a sound.

  `start_s` and `end_s`, float64[N], are the bounds of the spans in seconds.
  """

  start_s: np.ndarray
  end_s: np.ndarray
  scores: np.ndarray


class WindowEmbeddings(NamedTuple):
  """Embeddings float32[N, C] of N windows of a sound.

  `start_s` and `end_s`, float64[N], are the bounds of the windows in seconds.
  """

  start_s: np.ndarray
  end_s: np.ndarray
  embeddings: np.ndarray


def nearest_spans(line: Timeline) -> tuple[np.ndarray, np.ndarray]:
  """Return starts and ends, in seconds, of the times that are nearest to the middle of each row."""
  middles = (line.start_s + line.end_s) / 2
  between = (middles[1:] + middles[:-1]) / 2
  return np.append(line.start_s[0], between), np.append(between, line.end_s[-1])


def embeddings_of_windows(spans: np.ndarray, embeddings: np.ndarray, rate: int) -> WindowEmbeddings:
  """Return one row per window. See `of_clip` for the arguments."""
  return WindowEmbeddings(spans[:, 0] / rate, spans[:, 1] / rate, embeddings)


def of_clip(spans: np.ndarray, scores: np.ndarray, rate: int) -> Timeline:
  """Return one row with the mean over the windows.

  Args:
    spans: int[N, 2], the start and the end of the sound in each window, in samples.
    scores: float32[N, K].
    rate: The sample rate, in Hz.
  """
  # The sum is in float64, because a sound of an hour has hundreds of windows.
  mean = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
  return Timeline(spans[:1, 0] / rate, spans[-1:, 1] / rate, mean[None])


def of_windows(spans: np.ndarray, scores: np.ndarray, rate: int) -> Timeline:
  """Return one row per window. See `of_clip` for the arguments."""
  return Timeline(spans[:, 0] / rate, spans[:, 1] / rate, scores)


def of_frames(spans: np.ndarray, scores: np.ndarray, step: int, hop: int, rate: int) -> Timeline:
  """Return one row per frame, up to the end of the sound.

  Args:
    spans: See `of_clip`.
    scores: float32[N, T, K], the scores of the frames of each window.
    step: The number of samples between frames.
    hop: The number of samples between windows. A frame ends at the next window at the latest.
    rate: The sample rate, in Hz.
  """
  starts = spans[:, :1] + step * np.arange(scores.shape[1])
  ends = np.minimum(np.minimum(starts + step, spans[:, :1] + hop), spans[-1, 1])
  sounds = starts < ends
  return Timeline(starts[sounds] / rate, ends[sounds] / rate, scores[sounds])
