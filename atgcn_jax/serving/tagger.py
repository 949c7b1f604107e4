"""The tagger: a trained run applied to sounds."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.audio import windows
from atgcn_jax.audio.findings import Finding
from atgcn_jax.audio.inputs import name_of
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import SoundWarning, UserError, WorkFailed
from atgcn_jax.labels.added import AddedLabel, read_added_labels
from atgcn_jax.labels.summary import find_label
from atgcn_jax.models import frames_pooled
from atgcn_jax.pretrained.cache import pretrained_run
from atgcn_jax.pretrained.catalogue import DEFAULT
from atgcn_jax.runs.added_labels import (
  DEFAULTS,
  Calibrations,
  added_to,
  counts_at_hand,
  read_calibrations,
)
from atgcn_jax.runs.clip_embeddings import clip_embeddings
from atgcn_jax.runs.run import Run, check_front_end
from atgcn_jax.runs.safetensors_folder import load_either
from atgcn_jax.runs.scoring_identity import identity
from atgcn_jax.runs.thresholds import Thresholds, read_thresholds
from atgcn_jax.runs.window_outputs import check_takes_sound, window_features, window_outputs
from atgcn_jax.serving import batches, sources
from atgcn_jax.serving.explain import Contribution, Explanation, vector_parts
from atgcn_jax.serving.timeline import embeddings_of_windows, of_clip, of_frames, of_windows
from atgcn_jax.training import sharding
from atgcn_jax.training.finite import first_not_finite

HOP_SECONDS = 1.0  # default hop between windows, for systems without frames
WINDOWS = {"cpu": 8}  # number of windows per batch, by the kind of device
MANY_WINDOWS = 64  # number of windows per batch on other devices


class Tag(NamedTuple):
  """A label and its score in (0, 1)."""

  id: str
  name: str
  score: float


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


class Tagger:
  """A tagger of sounds of any length with the labels of a trained run.

  Long sounds are cut into windows of the trained length, and the scores of the windows are
  averaged. The last window is padded with silence, or dropped if less than a tenth of it is sound.
  Long files are read piece by piece. Short sounds are padded with silence too, like the clips of a
  store. Only imported weights of encoders for any length score them at their own length, rounded up
  to whole seconds.

  A `source` is a path, the bytes of a sound file, a binary file object, samples [S] or
  [S, channels] with their `rate` in Hz (by default that of the front end), or a folder. For a
  folder, all sound files are used, and a warning lists the files that are ignored, such as files of
  other formats. A list of sources returns a list of results. A folder returns a dict from paths to
  results. The windows of all sounds share batches, and files are read while the device computes.

  A file that cannot be used raises UserError. Invalid samples raise ValueError. Scores or
  embeddings that are not finite raise WorkFailed. The methods `clips`, `embeddings` and `timelines`
  return an Outcome for each sound instead.

  The readable part of a damaged file is used. A `SoundWarning` reports incomplete, silent,
  out-of-range and out-of-phase sounds; an Outcome has them in `findings`. With `strict`, an
  incomplete sound raises UserError.
  """

  def __init__(
    self,
    run: Run,
    variables: Any,
    step: int = 0,
    thresholds: Thresholds | None = None,
    strict: bool = False,
    calibrations: Calibrations = DEFAULTS,
  ):
    """Make a tagger from a run and its variables. See `restore` for saved runs.

    Args:
      run: The run.
      variables: The variables of the model.
      step: The step of the variables.
      thresholds: The thresholds of the labels, or None.
      strict: Whether to refuse incomplete sounds.
      calibrations: The calibrations of `with_labels`.

    Raises:
      ValueError: If a variable is not finite.
    """
    if name := first_not_finite(variables):
      raise ValueError(f"{name} holds values that are NaN or infinite")
    self.run, self.step, self.strict = run, step, strict
    self.vocabulary = run.vocabulary
    self._thresholds, self._calibrations = thresholds, calibrations
    self._trained, self._added = variables, ""
    self._weights = np.zeros((0, len(run.vocabulary)))  # of added labels
    self._variables = run.for_inference()(variables)
    self._score = jax.jit(window_outputs(run))

  @classmethod
  def restore(
    cls, workdir: str | os.PathLike, step: str = "latest", strict: bool = False
  ) -> Tagger:
    """Return the tagger of a run directory or of an export to `huggingface`.

    The thresholds that `atgcn thresholds` stored with the run are loaded, if there are any.

    Args:
      workdir: The run directory or the folder of the export.
      step: A number, `latest` or `best`. An export has only one step.
      strict: Whether to refuse incomplete sounds.

    Raises:
      UserError: If there is no such run or checkpoint, or its inputs cannot be computed from sound.
    """
    loaded = load_either(workdir, step, sharding.data_mesh(jax.devices()[:1]))
    check_takes_sound(loaded.run, workdir)
    return cls(
      loaded.run,
      loaded.state,
      loaded.step,
      read_thresholds(workdir),
      strict,
      read_calibrations(workdir),
    )

  @classmethod
  def load(
    cls,
    name: str = DEFAULT,
    *,
    offline: bool = False,
    mirror: str | None = None,
    strict: bool = False,
  ) -> Tagger:
    """Return the tagger of a pretrained network.

    The first call for a network fetches its weights and converts them to a run in the cache folder.

    Args:
      name: The name of the network, as `atgcn models` lists them.
      offline: Whether to use only what the cache has.
      mirror: The address of a folder that has the file, in place of the original one.
      strict: Whether to refuse incomplete sounds.

    Raises:
      UserError: If the name is unknown, the weights cannot be fetched or are not those of the
        network, the cache cannot be written, or the network is not in the cache and `offline` is
        set.
    """
    return cls.restore(pretrained_run(name, offline=offline, mirror=mirror), strict=strict)

  def with_labels(self, labels: str | os.PathLike | Sequence[AddedLabel]) -> Tagger:
    """Return a tagger that also estimates labels which the run was not trained on.

    An estimate comes from the scores of the known labels, carried along the relations of the added
    label, and with a label graph also from the label's own vector. Estimates are calibrated as
    `atgcn evaluate --add-labels` has stored with the run. Their names end in " (estimated)". The
    scores of the known labels do not change.

    Args:
      labels: A file for `read_added_labels`, or the labels.

    Raises:
      UserError: If a label is known or cannot be related to known labels, or a file cannot be used.
    """
    run = self.run
    if isinstance(labels, str | os.PathLike):
      labels = read_added_labels(labels, run.vocabulary)
    counts = counts_at_hand(run, None)
    added = added_to(run, labels, counts, self._calibrations)
    tagger = copy.copy(self)
    tagger.vocabulary = added.vocabulary
    tagger._variables = (added.run or run).for_inference()(self._trained)
    tagger._score = jax.jit(added.outputs(window_outputs, run))
    tagger._added, tagger._weights = added.identity(), added.weights
    return tagger

  @property
  def thresholds(self) -> np.ndarray | None:
    """The thresholds float64[K], NaN for labels without one, or None if there are none."""
    if self._thresholds is None:
      return None
    return self._thresholds.of(self.vocabulary)

  def scores(self, source: Any, rate: int | None = None) -> Any:
    """Return the sigmoid scores float32[K] in (0, 1) of a sound, in the order of the vocabulary."""
    return self._answer(self.clips, source, rate, lambda clip: clip.scores[0])

  def tag(
    self, source: Any, top: int = 5, rate: int | None = None, above_threshold: bool = False
  ) -> Any:
    """Return the labels of a sound with the highest scores, list[Tag], best first.

    Args:
      source: The sound; see the class.
      top: The number of labels.
      rate: The sample rate of samples, in Hz.
      above_threshold: Whether to return all labels whose score reaches their threshold instead.

    Raises:
      UserError: If the sound cannot be used, or there are no thresholds.
    """
    chosen = self.choice(top, above_threshold)
    return self._answer(self.clips, source, rate, lambda clip: chosen(clip.scores[0]))

  def embed(self, source: Any, rate: int | None = None) -> Any:
    """Return the embedding float32[C] of a sound, the mean over its windows.

    CNN10 has C = 512, mn04 384.
    """
    return self._answer(self.embeddings, source, rate, lambda embedding: embedding)

  def embed_clips(self, store: ClipStore) -> np.ndarray:
    """Return the embeddings float32[N, C] of the clips of a store, which needs no sound files.

    Raises:
      UserError: If the store has another front end, or a clip cannot be read.
      WorkFailed: If an embedding is not finite.
    """
    check_front_end(self.run, store, "the run")
    size = WINDOWS.get(jax.default_backend(), MANY_WINDOWS)
    return clip_embeddings(self.run, self._variables, store, size)

  def timeline(self, source: Any, rate: int | None = None, hop_seconds: float | None = None) -> Any:
    """Return the scores of a sound over time, as a `Timeline`.

    The rows are the frames of the system. If it has no frames, the rows are windows of the trained
    length, and the last window ends with the sound.

    Args:
      source: The sound; see the class.
      rate: The sample rate of samples, in Hz.
      hop_seconds: The hop between windows, in seconds (default 1). If given, the rows are windows
        for any system.

    Raises:
      UserError: If the sound cannot be used, or the hop is not above 0 and at most the length of a
        window.
    """
    return self._answer(
      lambda given, rate: self.timelines(given, rate, hop_seconds), source, rate, lambda line: line
    )

  def embed_windows(
    self, source: Any, rate: int | None = None, hop_seconds: float | None = None
  ) -> Any:
    """Return the embeddings of the windows of a sound, as `WindowEmbeddings`.

    The last window ends with the sound. See `timeline` for the arguments and errors.
    """
    return self._answer(
      lambda given, rate: self.window_embeddings(given, rate, hop_seconds),
      source,
      rate,
      lambda windows: windows,
    )

  def explain(self, source: Any, label: str, rate: int | None = None) -> Explanation:
    """Return why a label has its score in one sound.

    Args:
      source: The sound; see the class. Not a list or a folder.
      label: The id or the name of the label.
      rate: The sample rate of samples, in Hz.

    Raises:
      UserError: If the sound cannot be used, or there is no such label.
    """
    k = find_label(self.vocabulary, label, "--explain")
    scores, line = self.scores(source, rate), self.timeline(source, rate)
    names, known = self.vocabulary.names, len(self.run.vocabulary)
    log_odds, bias, values = None, 0.0, {}
    if k >= known:
      row = self._weights[k - known]
      values = {j: float(row[j] * scores[j] ** 0.5) for j in np.flatnonzero(row).tolist()}
    elif (parts := vector_parts(self.run, self._trained, k)) is not None:
      positions, vectors, bias = parts
      inputs = self._head_inputs(source, rate)
      values = dict(zip(positions, (vectors @ inputs).tolist()))
      log_odds = bias + sum(values.values())
    parts_found = [Contribution(names[j], value, float(scores[j])) for j, value in values.items()]
    return Explanation(
      label=names[k],
      score=float(scores[k]),
      log_odds=log_odds,
      bias=bias,
      contributions=sorted(parts_found, key=lambda part: -part.log_odds),
      start_s=line.start_s,
      end_s=line.end_s,
      scores=line.scores[:, k],
    )

  def _head_inputs(self, source: Any, rate: int | None) -> np.ndarray:
    """Return the vector that the head takes, the mean over the windows of a sound."""
    features_of = window_features(self.run)

    def inputs(variables: Any, waveforms: Any) -> dict[str, Any]:
      features = features_of(variables, waveforms)
      return {"embedding": features.get("hidden", features["embedding"])}

    tagger = copy.copy(self)
    tagger._score = jax.jit(inputs)
    return tagger.embed(source, rate)

  def choice(self, top: int = 5, above_threshold: bool = False) -> Callable[..., list[Tag]]:
    """Return a function from scores float32[K] to tags, best first. See `tag` for the arguments."""
    if top < 1:
      raise UserError(f"--top {top}: must be at least 1")
    ids, names = self.vocabulary.ids, self.vocabulary.names
    least = None
    if above_threshold:
      if self._thresholds is None:
        raise UserError(
          "--above-threshold: the run has no thresholds; make them with `atgcn thresholds`"
        )
      self._thresholds.check_step(self.step)
      least = self.thresholds

    def chosen(scores: np.ndarray) -> list[Tag]:
      best = np.argsort(-scores, kind="stable")
      best = best[:top] if least is None else best[scores[best] >= least[best]]
      return [Tag(ids[k], names[k], float(scores[k])) for k in best]

    return chosen

  def identity(self) -> dict[str, Any]:
    """Return the values that determine the results, as JSON: checkpoint, devices, versions."""
    return {"step": self.step, "added": self._added} | identity(self.run, self._variables)

  def checkpoint(self) -> str:
    """Return a hash of the system and its weights, equal on all devices."""
    return identity(self.run, self._trained)["checkpoint"]

  # The following methods yield an Outcome for each of many sounds, in order, including sounds that
  # cannot be used. With `alone=False`, the values have the same bits as among other sounds.

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

  def _not_finite(self, source: Any, what: Any) -> WorkFailed:
    values = "embedding is" if what == "embedding" else "scores are"
    return WorkFailed(
      f"{name_of(source)}: the {values} NaN or infinite at step {self.step} of the run; use "
      "another step"
    )

  def _answer(self, outcomes: Callable, source: Any, rate: int | None, form: Callable) -> Any:
    """Return the result for a source, or the results for a list or a folder."""
    folder, many = sources.is_folder(source), isinstance(source, list | tuple)
    if folder:
      sounds, left_out = sources.sounds_in(source)
      for error in left_out:
        warnings.warn(str(error), stacklevel=3)
    else:
      sounds = list(source) if many else [source]
    results = []
    for outcome in outcomes(sounds, rate):
      if outcome.error is not None:
        raise outcome.error
      for finding in outcome.findings:
        text = f"{name_of(outcome.source)}: {finding.detail}"
        warnings.warn(text, SoundWarning, stacklevel=3)
      results.append(form(outcome.value))
    if folder:
      return dict(zip(sounds, results))
    return results if many else results[0]
