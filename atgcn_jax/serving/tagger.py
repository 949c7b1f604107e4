"""The tagger: a trained run applied to sounds, as tags, timelines, embeddings and explanations."""

from __future__ import annotations

import copy
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.audio.inputs import name_of, rereadable
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import SoundWarning, UserError
from atgcn_jax.labels.added import AddedLabel, read_added_labels
from atgcn_jax.labels.summary import find_label
from atgcn_jax.pretrained.cache import pretrained_run
from atgcn_jax.pretrained.catalogue import DEFAULT
from atgcn_jax.runs.added_labels import added_to
from atgcn_jax.runs.added_weights import counts_at_hand
from atgcn_jax.runs.calibrations import DEFAULTS, Calibrations, read_calibrations
from atgcn_jax.runs.clip_embeddings import clip_embeddings
from atgcn_jax.runs.run import Run, check_front_end
from atgcn_jax.runs.safetensors_folder import load_either
from atgcn_jax.runs.scoring_identity import checkpoint_hash, identity
from atgcn_jax.runs.thresholds import Thresholds, read_thresholds
from atgcn_jax.runs.window_outputs import check_takes_sound, window_outputs
from atgcn_jax.serving import sources
from atgcn_jax.serving.explain import (
  Contribution,
  Explanation,
  VectorParts,
  head_inputs,
  vector_parts,
)
from atgcn_jax.serving.sound_scorer import Outcome, SoundScorer, windows_per_batch
from atgcn_jax.training import sharding
from atgcn_jax.training.finite import first_not_finite


class Tag(NamedTuple):
  """A label and its score in (0, 1)."""

  id: str
  name: str
  score: float


class Tagger(SoundScorer):
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
    super().__init__(run, variables, step, strict)
    self._thresholds, self._calibrations = thresholds, calibrations
    self._trained, self._added = variables, ""
    self._labels: tuple[AddedLabel, ...] = ()
    self._weights = np.zeros((0, len(run.vocabulary)))  # of added labels

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
      mirror: The address of a folder that has the file, or such a folder on disk, in place of the
        original one.
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
    scores of the known labels do not change. Labels that were added before stay.

    Args:
      labels: A file for `read_added_labels`, or the labels.

    Raises:
      UserError: If a label is known or cannot be related to known labels, or a file cannot be used.
      ValueError: If there is no label, or one was added before.
    """
    run = self.run
    if isinstance(labels, str | os.PathLike):
      labels = read_added_labels(labels, run.vocabulary)
    if not labels:
      raise ValueError("with_labels needs at least one label, got none")
    self._calibrations.check_checkpoint(self.step, self.checkpoint())
    counts = counts_at_hand(run, None)
    labels = (*self._labels, *labels)
    added = added_to(run, labels, counts, self._calibrations)
    tagger = copy.copy(self)
    tagger._labels = labels
    tagger.vocabulary = added.vocabulary
    tagger._variables = (added.run or run).for_inference()(self._trained)
    tagger._score = jax.jit(added.outputs(window_outputs, run))
    tagger._added, tagger._weights = added.identity(), added.weights
    return tagger

  @property
  def thresholds(self) -> np.ndarray | None:
    """The thresholds float64[K], or None if there are none.

    Added labels have 0.5, as their estimates are on the scale of probabilities. A label of the run
    without a threshold has NaN.
    """
    if self._thresholds is None:
      return None
    least = self._thresholds.of(self.vocabulary)
    least[len(self.run.vocabulary) :] = 0.5
    return least

  def check_thresholds(self) -> None:
    """Warn if the thresholds were tuned at another step."""
    if self._thresholds is not None:
      self._thresholds.check_step(self.step)

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
    return clip_embeddings(self.run, self._variables, store, windows_per_batch())

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
      source: The sound; see the class. Not a list or a folder. A pipe or a file object is read into
        memory, other files piece by piece.
      label: The id or the name of the label.
      rate: The sample rate of samples, in Hz.

    Raises:
      UserError: If the sound cannot be used, or there is no such label.
      ValueError: If the source is a list.
    """
    if isinstance(source, list | tuple):
      raise ValueError("explain takes one sound, got a list; call it for each sound")
    k = find_label(self.vocabulary, label, "--explain")
    source = rereadable(source)  # it is read up to three times
    scores = self.scores(source, rate)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SoundWarning)  # the first reading has warned
      return self._explanation(source, rate, k, scores)

  def _explanation(self, source: Any, rate: int | None, k: int, scores: np.ndarray) -> Explanation:
    """Return the explanation of the score of label k."""
    line = self.timeline(source, rate)
    names, known = self.vocabulary.names, len(self.run.vocabulary)
    log_odds, bias, values = None, 0.0, {}
    if k >= known:
      row = self._weights[k - known]
      values = {j: float(row[j] * scores[j] ** 0.5) for j in np.flatnonzero(row).tolist()}
    elif self._parts_of is not None:
      positions, vectors, bias = self._parts_of(k)
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
    tagger = copy.copy(self)
    tagger._score = self._inputs_of
    return tagger.embed(source, rate)

  @functools.cached_property
  def _parts_of(self) -> Callable[[int], VectorParts] | None:
    """The function from labels to the parts of their vectors."""
    return vector_parts(self.run, self._trained)

  @functools.cached_property
  def _inputs_of(self) -> Any:
    """The compiled `head_inputs`."""
    return jax.jit(head_inputs(self.run))

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
      self.check_thresholds()
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
    return checkpoint_hash(self.run, self._trained)

  def _answer(
    self,
    outcomes: Callable[..., Iterator[Outcome]],
    source: Any,
    rate: int | None,
    form: Callable,
  ) -> Any:
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
