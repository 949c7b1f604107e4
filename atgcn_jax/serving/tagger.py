"""A trained run as a tagger of sound."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.audio import windows
from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.inputs import name_of
from atgcn_jax.errors import SoundWarning, UserError, WorkFailed
from atgcn_jax.models import frames_pooled
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.safetensors_folder import load_either
from atgcn_jax.runs.scoring_identity import identity
from atgcn_jax.runs.thresholds import Thresholds, read_thresholds
from atgcn_jax.runs.window_outputs import window_outputs
from atgcn_jax.serving import batches, sources
from atgcn_jax.serving.timeline import of_clip, of_frames, of_windows
from atgcn_jax.training import sharding
from atgcn_jax.training.finite import first_not_finite

HOP_SECONDS = 1.0  # from window to window, of systems without frames
WINDOWS = {"cpu": 8}  # scored at a time, by the kind of device
MANY_WINDOWS = 64  # on others


class Tag(NamedTuple):
  """A label and its score in (0, 1)."""

  id: str
  name: str
  score: float


class Outcome(NamedTuple):
  """What came of one of many sounds: a value, or the reason why there is none.

  `findings` says what is wrong with a sound that was used: it is incomplete, silent, out of range
  or out of phase.
  """

  source: Any
  value: Any
  error: UserError | WorkFailed | None
  findings: Sequence[Finding] = ()


class Tagger:
  """Tags sound of any length with the labels of a trained run.

  Longer sound is cut into windows of the trained length whose scores are averaged; shorter sound
  is padded with silence, and so is the last window, which is left out if less than a tenth of it is
  sound. Long files are read piece by piece.

  A `source` is a path, the bytes of a sound file, a binary file object, samples [S] or
  [S, channels] with their `rate` in Hz (by default the front end's), or a folder, of which all
  sound files are taken; a warning names what is left out, such as files of other formats. A list
  of sources gives a list of answers, a folder a dict from path to answer; their windows share
  batches, and reading goes on while the device works. A file that cannot be used raises UserError,
  samples that cannot ValueError, and scores or an embedding that are not finite WorkFailed;
  `clips`, `embeddings` and `timelines` give an Outcome for each instead.

  Of a damaged file what decodes is used. That a part is missing, or that samples are silent, out of
  range or out of phase, is reported by a `SoundWarning` of Python's `warnings` (in `findings` of an
  Outcome); with `strict` a sound of which a part is missing raises UserError.
  """

  def __init__(
    self,
    run: Run,
    variables: Any,
    step: int = 0,
    thresholds: Thresholds | None = None,
    strict: bool = False,
  ):
    """A tagger with these variables; see `restore`.

    Raises:
      ValueError: If a variable is not finite.
    """
    if name := first_not_finite(variables):
      raise ValueError(f"{name} holds values that are NaN or infinite")
    self.run, self.step, self.strict = run, step, strict
    self._thresholds = thresholds
    self._variables = run.for_inference()(variables)
    self._score = jax.jit(window_outputs(run))

  @classmethod
  def restore(
    cls, workdir: str | os.PathLike, step: str = "latest", strict: bool = False
  ) -> Tagger:
    """The tagger of a run directory, or of a folder that `atgcn export --to huggingface` wrote.

    It has the thresholds that `atgcn thresholds` has kept with the run, if any.

    Args:
      step: A number, `latest` or `best`; an export has one step.
      strict: Refuse sounds of which a part is missing.

    Raises:
      UserError: If there is no such run or checkpoint.
    """
    loaded = load_either(workdir, step, sharding.data_mesh(jax.devices()[:1]))
    return cls(loaded.run, loaded.state, loaded.step, read_thresholds(workdir), strict)

  @property
  def thresholds(self) -> np.ndarray | None:
    """The score float64[K] from which each label is told, NaN where never; None without any."""
    if self._thresholds is None:
      return None
    return self._thresholds.of(self.run.vocabulary)

  def scores(self, source: Any, rate: int | None = None) -> Any:
    """Sigmoid scores float32[K] in (0, 1) of a sound, in the vocabulary's order."""
    return self._answer(self.clips, source, rate, lambda clip: clip.scores[0])

  def tag(
    self, source: Any, top: int = 5, rate: int | None = None, above_threshold: bool = False
  ) -> Any:
    """The `top` labels of a sound with the highest scores, list[Tag], best first.

    Args:
      above_threshold: Instead of the `top` labels all whose score reaches their threshold.

    Raises:
      UserError: Also if there are no thresholds.
    """
    chosen = self.choice(top, above_threshold)
    return self._answer(self.clips, source, rate, lambda clip: chosen(clip.scores[0]))

  def embed(self, source: Any, rate: int | None = None) -> Any:
    """The embedding float32[C] of a sound, the mean over its windows; C is 512 for CNN10."""
    return self._answer(self.embeddings, source, rate, lambda embedding: embedding)

  def timeline(self, source: Any, rate: int | None = None, hop_seconds: float | None = None) -> Any:
    """What sounds when: a `Timeline` of a sound.

    Its rows are the system's frames where it has any, and windows of the trained length otherwise,
    the last of which ends with the sound.

    Args:
      hop_seconds: From window to window (default 1 s); where given, windows are taken of any
        system.

    Raises:
      UserError: Also for a hop that is not above 0 and at most a window's length.
    """
    return self._answer(
      lambda given, rate: self.timelines(given, rate, hop_seconds), source, rate, lambda line: line
    )

  def choice(self, top: int = 5, above_threshold: bool = False) -> Callable[..., list[Tag]]:
    """What makes the tags, best first, of scores float32[K]; arguments are those of `tag`."""
    if top < 1:
      raise UserError(f"--top {top}: ask for at least one label")
    ids, names = self.run.vocabulary.ids, self.run.vocabulary.names
    least = None
    if above_threshold:
      if self._thresholds is None:
        raise UserError("--above-threshold: the run has none; make them with `atgcn thresholds`")
      self._thresholds.check_step(self.step)
      least = self.thresholds

    def chosen(scores: np.ndarray) -> list[Tag]:
      best = np.argsort(-scores, kind="stable")
      best = best[:top] if least is None else best[scores[best] >= least[best]]
      return [Tag(ids[k], names[k], float(scores[k])) for k in best]

    return chosen

  def identity(self) -> dict[str, Any]:
    """What decides the values of a sound, as JSON: checkpoint, device, versions."""
    return {"step": self.step} | identity(self.run, self._variables)

  # Of many sounds, in their order: an Outcome for each, also for those that cannot be used.
  # `alone=False`: the values are those that these sounds have among further ones, to the bit.

  def clips(
    self, given: Sequence[Any], rate: int | None = None, *, alone: bool = True
  ) -> Iterator[Outcome]:
    """The scores of whole sounds, each a `Timeline` of one row."""
    finish = functools.partial(of_clip, rate=self.run.frontend.sample_rate)
    return self._whole(given, rate, "clip", finish, alone)

  def embeddings(
    self, given: Sequence[Any], rate: int | None = None, *, alone: bool = True
  ) -> Iterator[Outcome]:
    """The embeddings of whole sounds, float32[C] each."""
    return self._whole(given, rate, "embedding", lambda spans, v: v.mean(axis=0), alone)

  def timelines(
    self,
    given: Sequence[Any],
    rate: int | None = None,
    hop_seconds: float | None = None,
    *,
    alone: bool = True,
  ) -> Iterator[Outcome]:
    """A `Timeline` each; arguments are those of `timeline`."""
    frontend = self.run.frontend
    size, hertz = frontend.samples, frontend.sample_rate
    pooled = frames_pooled(self.run.config.model.encoder, frontend.frames)
    if pooled is None or hop_seconds is not None:
      seconds = HOP_SECONDS if hop_seconds is None else hop_seconds
      hop = round(min(seconds, frontend.seconds) * hertz) if seconds == seconds else 0
      if hop < 1 or (hop_seconds is not None and seconds > frontend.seconds):
        raise UserError(
          f"--hop-seconds {seconds:g}: give more than 0 and at most {frontend.seconds:g}"
        )
      return self._outcomes(
        given, rate, "clip", hop, {"at_end": True}, functools.partial(of_windows, rate=hertz), alone
      )
    step = pooled * frontend.hop
    hop = min(size, self._shape("frames")[1] * step)
    finish = functools.partial(of_frames, step=step, hop=hop, rate=hertz)
    return self._outcomes(given, rate, "frames", hop, {}, finish, alone)

  def _shape(self, what: str) -> tuple[int, ...]:
    one = jax.ShapeDtypeStruct((1, self.run.frontend.samples), np.float32)
    return jax.eval_shape(self._score, self._variables, one)[what].shape

  def _whole(
    self, given, rate: int | None, what: str, finish: Callable, alone: bool
  ) -> Iterator[Outcome]:
    size = self.run.frontend.samples
    return self._outcomes(
      given, rate, what, size, {"shortest": windows.shortest_tail(size)}, finish, alone
    )

  def _outcomes(
    self,
    given,
    rate: int | None,
    what: str,
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
          yield batches.Piece(window, min(1.0, window.stop / sound.samples))
        yield from sound.findings

    def score(waveforms):
      return self._score(self._variables, waveforms)[what]

    size = WINDOWS.get(jax.default_backend(), MANY_WINDOWS)
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

  def _not_finite(self, source: Any, what: str) -> WorkFailed:
    values = "embedding is" if what == "embedding" else "scores are"
    return WorkFailed(
      f"{name_of(source)}: the {values} NaN or infinite at step {self.step} of the run; use "
      "another step"
    )

  def _answer(self, outcomes: Callable, source: Any, rate: int | None, form: Callable) -> Any:
    """The answers for a source, a list or a folder of them."""
    folder, many = sources.is_folder(source), isinstance(source, list | tuple)
    if folder:
      given, left_out = sources.sounds_in(source)
      for error in left_out:
        warnings.warn(str(error), stacklevel=3)
    else:
      given = list(source) if many else [source]
    found = []
    for outcome in outcomes(given, rate):
      if outcome.error is not None:
        raise outcome.error
      for finding in outcome.findings:
        text = f"{name_of(outcome.source)}: {finding.detail}"
        warnings.warn(text, SoundWarning, stacklevel=3)
      found.append(form(outcome.value))
    if folder:
      return dict(zip(given, found))
    return found if many else found[0]
