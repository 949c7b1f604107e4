"""A trained run as a tagger of sound."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.audio import files
from atgcn_jax.errors import UserError
from atgcn_jax.interop import huggingface
from atgcn_jax.runs.assemble import Run
from atgcn_jax.runs.restore import load
from atgcn_jax.runs.forward import window_scores
from atgcn_jax.training import sharding

WINDOWS = 8  # scored at a time, so that a long file needs no more memory than a short one


class Tag(NamedTuple):
  """A label and its score in (0, 1)."""

  id: str
  name: str
  score: float


class Tagger:
  """Tags sound of any length with the labels of a trained run.

  Longer sound is cut into windows of the trained length whose scores are averaged; shorter sound
  is padded with silence.
  """

  def __init__(self, run: Run, variables: Any):
    """A tagger with these variables; see `restore`."""
    self.run = run
    self._variables = run.for_inference()(variables)
    self._score = jax.jit(window_scores(run))

  @classmethod
  def restore(cls, workdir: str | os.PathLike, step: str = "latest") -> Tagger:
    """The tagger of a run directory, or of a folder that `atgcn export --to huggingface` wrote.

    Args:
      step: a number, `latest` or `best`; an export has one step.
    Raises:
      UserError: if there is no such run or checkpoint.
    """
    if huggingface.is_one(workdir):
      exported = huggingface.read(workdir)
      if step not in ("latest", "best", str(exported.step)):
        raise UserError(f"--step {step}: {workdir} is an export of step {exported.step} alone")
      return cls(exported.run, exported.state)
    loaded = load(workdir, step, sharding.data_mesh(jax.devices()[:1]))
    return cls(loaded.run, loaded.state)

  def scores(self, source: Any, sample_rate: int | None = None) -> np.ndarray:
    """Scores float32[K] in (0, 1) of one sound, in the vocabulary's order.

    Args:
      source: a path, the bytes of a sound file, or samples float[S] or [S, channels].
      sample_rate: of samples, in Hz; by default the front end's.
    Raises:
      UserError: for a file that is not sound.
      ValueError: for samples that are empty, not finite or of another shape.
    """
    frontend = self.run.frontend
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
      waveform = mono(np.asarray(source))
      waveform = files.resample(waveform, sample_rate or frontend.sample_rate, frontend.sample_rate)
    else:
      waveform = files.load(source, frontend.sample_rate)
    windows = files.windows(waveform, frontend.samples)
    total = np.zeros(len(self.run.vocabulary))
    for start in range(0, len(windows), WINDOWS):
      some = windows[start : start + WINDOWS]
      # A single window is the usual case: it gets a program of its own size.
      size = 1 if len(windows) == 1 else WINDOWS
      padded = np.pad(some, ((0, size - len(some)), (0, 0)))
      total += np.asarray(self._score(self._variables, padded))[: len(some)].sum(axis=0)
    return (total / len(windows)).astype(np.float32)

  def tag(self, source: Any, top: int = 5, sample_rate: int | None = None) -> list[Tag]:
    """The `top` labels with the highest scores, best first; `source` as for `scores`."""
    if top < 1:
      raise UserError(f"--top {top}: ask for at least one label")
    scores = self.scores(source, sample_rate)
    best = np.argsort(-scores, kind="stable")[:top]
    ids, names = self.run.vocabulary.ids, self.run.vocabulary.names
    return [Tag(ids[k], names[k], float(scores[k])) for k in best]


def mono(samples: np.ndarray) -> np.ndarray:
  """Samples [S] or [S, channels] as float32[S]; integers are taken for full-scale PCM.

  Raises:
    ValueError: for another shape, no samples, or samples that are not finite.
  """
  if samples.ndim not in (1, 2) or not samples.size:
    raise ValueError(f"expected samples [S] or [S, channels], got shape {samples.shape}")
  if np.issubdtype(samples.dtype, np.integer):
    info = np.iinfo(samples.dtype)
    middle = (info.max + info.min + 1) // 2  # 0, or half the range of an unsigned type
    samples = (samples - float(middle)) / (float(info.max) + 1 - middle)
  if not np.isfinite(samples).all():
    raise ValueError("the samples hold NaN or infinity")
  samples = samples.astype(np.float32)
  return samples if samples.ndim == 1 else samples.mean(axis=1)
