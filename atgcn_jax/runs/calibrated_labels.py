"""Added labels of an evaluation, whose calibrations are fitted on the run's validation clips."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import read_added_labels
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import (
  conditional_weights,
  fit_calibration,
  left_out_weights,
  scaled_to_one,
  weighted_sums,
  word_weights,
)
from atgcn_jax.runs.added_labels import AddedLabels, added_to
from atgcn_jax.runs.added_weights import counts_at_hand, embeddings_of
from atgcn_jax.runs.calibrations import (
  COUNTS,
  DEFAULTS,
  RELATIONS,
  WORDS,
  Calibrations,
  read_calibrations,
  write_calibrations,
)
from atgcn_jax.runs.run import Loaded, Run
from atgcn_jax.runs.scoring import own_store, score_split
from atgcn_jax.runtime.processes import first_only


def labels_added(
  workdir: str | os.PathLike, path: str | os.PathLike
) -> Callable[[Loaded], AddedLabels]:
  """Return a function from a checkpoint to the labels in a file, added to its run.

  Args:
    workdir: The run directory, where the calibrations are stored.
    path: A file for `read_added_labels`.
  """

  def add(loaded: Loaded) -> AddedLabels:
    run = loaded.run
    labels = read_added_labels(path, run.vocabulary)
    try:
      counts = counts_at_hand(run, own_store(run.config, workdir))
    except UserError:  # the training store is elsewhere
      counts = counts_at_hand(run, None)
    return added_to(run, labels, counts, calibrated(workdir, loaded))

  return add


def calibrated(workdir: str | os.PathLike, loaded: Loaded) -> Calibrations:
  """Return the calibrations of a checkpoint, and store them with the run if they are new.

  Args:
    workdir: The run directory.
    loaded: Its checkpoint.
  """
  stored = read_calibrations(workdir)
  if stored.step == loaded.step:
    return stored
  run = loaded.run
  try:
    store = own_store(run.config, workdir)
    scored = score_split(workdir, str(loaded.step), None, "validation")
  except UserError as error:
    warnings.warn(f"estimates have the calibration of AudioSet's features ({error})", stacklevel=2)
    return DEFAULTS
  counts = counts_at_hand(run, store)
  fitted = fit_calibrations(run, counts, loaded.step, scored.scores, scored.labels)
  try:
    first_only(lambda: write_calibrations(workdir, fitted))
  except OSError as error:
    warnings.warn(f"{workdir}: calibrations are not stored ({error.strerror})", stacklevel=2)
  return fitted


def fit_calibrations(
  run: Run, counts: Counts | None, step: int, scores: np.ndarray, labels: np.ndarray
) -> Calibrations:
  """Fit the calibrations on clips whose labels are known, each label left out in turn.

  Args:
    run: The run.
    counts: The counts of the run's labels; None if they are not at hand.
    step: The step of the scores.
    scores: float[N, K], scores of clips that were not trained on.
    labels: [N, K], their labels.

  Returns:
    The calibrations. A kind of estimate that the run's files do not allow keeps its default.
  """
  weights = {}
  if counts is not None:
    weights = {COUNTS: left_out_weights(counts), RELATIONS: conditional_weights(counts)}
  if run.config.graph.embeddings not in ("random", "one_hot"):
    vectors = embeddings_of(run, run.vocabulary)
    similar = word_weights(vectors, vectors) * (1 - np.eye(len(vectors)))
    weights[WORDS] = scaled_to_one(similar)
  fitted = {
    kind: fit_calibration(weighted_sums(scores, given), labels) for kind, given in weights.items()
  }
  return Calibrations(step, {**DEFAULTS.by_kind, **fitted})
