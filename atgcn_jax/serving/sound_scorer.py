"""Scoring and embedding of many sounds in shared batches: the base class of `Tagger`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.audio import windows
from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.inputs import name_of
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models import frames_pooled
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.window_outputs import window_outputs
from atgcn_jax.serving import batches, sources
from atgcn_jax.serving.timeline import embeddings_of_windows, of_clip, of_frames, of_windows

HOP_SECONDS = 1.0  # default hop between windows, for systems without frames
WINDOWS_CPU, WINDOWS = 8, 64  # number of windows per batch, on a CPU and on other devices


class Outcome(NamedTuple):
  """The outcome of one of many sounds: a value or an error.

  Attributes:
    source: The source of the sound.
    value: The value, or None.
    error: The reason why there is no value, or None.
    findings: Problems of a sound that was used: it is incomplete, silent, out of range or out of
      phase.
  """

  source: Any
  value: Any
  error: UserError | WorkFailed | None
  findings: Sequence[Finding] = ()


def windows_per_batch() -> int:
  """Return the number of windows per batch on the devices of this process."""
  return WINDOWS_CPU if jax.default_backend() == "cpu" else WINDOWS


class SoundScorer:
  """The part of `Tagger` that scores many sounds.

  Its methods yield an Outcome for each sound, in order, including sounds that cannot be used. With
  `alone=False`, the values have the same bits as among other sounds.
  """

  def __init__(self, run: Run, variables: Any, step: int, strict: bool):
    """Make a scorer from a run and its variables. See `Tagger` for the arguments."""
    self.run, self.step, self.strict = run, step, strict
    self.vocabulary: Vocabulary = run.vocabulary
    self._variables = run.for_inference()(variables)
    self._score = jax.jit(window_outputs(run))

  def clips(
    self, given: Sequence[Any], rate: int | None = None, *, alone: bool = True
  ) -> Iterator[Outcome]:
    """Yield the scores of complete sounds, each as a `Timeline` with one row."""
    finish = functools.partial(of_clip, rate=self.run.frontend.sample_rate)
    return self._whole(given, rate, "clip", finish, alone)

  def embeddings(
    self, given: Sequence[Any], rate: int | None = None, *, alone: bool = True
  ) -> Iterator[Outcome]:
    """Yield the embeddings of complete sounds, float32[C] each."""
    return self._whole(given, rate, "embedding", lambda spans, v: v.mean(axis=0), alone)

  def window_embeddings(
    self,
    given: Sequence[Any],
    rate: int | None = None,
    hop_seconds: float | None = None,
    *,
    alone: bool = True,
  ) -> Iterator[Outcome]:
    """Yield the `WindowEmbeddings` of each sound. See `timeline` for the arguments."""
    hertz, cutting = self.run.frontend.sample_rate, {"at_end": True}
    finish = functools.partial(embeddings_of_windows, rate=hertz)
    return self._outcomes(given, rate, "embedding", self._hop(hop_seconds), cutting, finish, alone)

  def scores_and_embeddings(
    self, given: Sequence[Any], rate: int | None = None, *, alone: bool = True
  ) -> Iterator[Outcome]:
    """Yield the scores float32[K] and the embedding float32[C] of complete sounds, as a pair."""
    K = len(self.vocabulary)

    def finish(spans: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
      return mean[:K], mean[K:]

    return self._whole(given, rate, ("clip", "embedding"), finish, alone)

  def timelines(
    self,
    given: Sequence[Any],
    rate: int | None = None,
    hop_seconds: float | None = None,
    *,
    alone: bool = True,
  ) -> Iterator[Outcome]:
    """Yield the `Timeline` of each sound. See `timeline` for the arguments."""
    frontend = self.run.frontend
    size, hertz = frontend.samples, frontend.sample_rate
    pooled = frames_pooled(self.run.config.model.encoder, frontend.frames)
    if pooled is None or hop_seconds is not None:
      hop, finish = self._hop(hop_seconds), functools.partial(of_windows, rate=hertz)
      return self._outcomes(given, rate, "clip", hop, {"at_end": True}, finish, alone)
    step = pooled * frontend.hop
    hop = min(size, self._shape("frames")[1] * step)
    finish = functools.partial(of_frames, step=step, hop=hop, rate=hertz)
    return self._outcomes(given, rate, "frames", hop, {}, finish, alone)

  def _hop(self, hop_seconds: float | None) -> int:
    """Return the hop between windows, in samples.

    Raises:
      UserError: If it is not above 0 and at most the length of a window.
    """
    frontend = self.run.frontend
    seconds = HOP_SECONDS if hop_seconds is None else hop_seconds
    longest = frontend.seconds
    hop = round(min(seconds, longest) * frontend.sample_rate) if seconds == seconds else 0
    if hop < 1 or (hop_seconds is not None and seconds > longest):
      raise UserError(f"--hop-seconds {seconds:g}: must be above 0 and at most {longest:g}")
    return hop

  def _shape(self, what: str) -> tuple[int, ...]:
    one = jax.ShapeDtypeStruct((1, self.run.frontend.samples), np.float32)
    return jax.eval_shape(self._score, self._variables, one)[what].shape

  def _whole(
    self, given, rate: int | None, what: str | tuple[str, ...], finish: Callable, alone: bool
  ) -> Iterator[Outcome]:
    size = self.run.frontend.samples
    return self._outcomes(
      given, rate, what, size, {"shortest": windows.shortest_tail(size)}, finish, alone
    )

  def _outcomes(
    self,
    given,
    rate: int | None,
    what: str | tuple[str, ...],
    hop: int,
    cutting: dict[str, Any],
    finish: Callable,
    alone: bool,
  ) -> Iterator[Outcome]:
    frontend = self.run.frontend

    def pieces_of(source):
      own_rate = frontend.sample_rate if rate is None else rate
      with sources.open_any_sound(source, own_rate, strict=self.strict) as read:
        sound = windows.resampled(read, frontend.sample_rate)
        for window in windows.cut(sound.blocks, frontend.samples, hop, **cutting):
          window = windows.shortened(window, self.run.length_step)
          yield batches.Piece(window, min(1.0, window.stop / sound.samples))
        yield from sound.findings

    def score(waveforms):
      outputs = self._score(self._variables, waveforms)
      if isinstance(what, str):
        return outputs[what]
      return jnp.concatenate([outputs[name] for name in what], axis=-1)

    size = windows_per_batch()
    for scored in batches.scored(given, pieces_of, score, size, alone=alone):
      if scored.error is not None:
        yield Outcome(scored.source, None, scored.error)
        continue
      values = np.array(scored.values)
      if not np.isfinite(values).all():
        yield Outcome(scored.source, None, self._not_finite(scored.source, what))
        continue
      value = finish(np.array(scored.spans), values)
      yield Outcome(scored.source, value, None, scored.findings)

  def _not_finite(self, source: Any, what: Any) -> WorkFailed:
    values = "embedding is" if what == "embedding" else "scores are"
    return WorkFailed(
      f"{name_of(source)}: the {values} NaN or infinite at step {self.step} of the run; use "
      "another step"
    )
