"""Added labels of an evaluation, whose calibrations are fitted on the run's validation clips."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.added import read_added_labels
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import (
  Calibration,
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
from atgcn_jax.runs.folds import splits_of, warn_if_test_clips
from atgcn_jax.runs.run import Loaded, Run
from atgcn_jax.runs.run_store import trained_labels
from atgcn_jax.runs.scoring import opened_split, own_store, score_labels
from atgcn_jax.runs.scoring_identity import checkpoint_hash
from atgcn_jax.runtime.processes import first_only
from atgcn_jax.training import sharding


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
    opened = functools.cache(lambda: training_store(workdir, run))
    try:
      counts = counts_at_hand(run, opened())
    except UserError:  # the training store is elsewhere
      counts = counts_at_hand(run, None)
    return added_to(run, labels, counts, calibrated(workdir, loaded, opened, counts))

  return add


def training_store(workdir: str | os.PathLike, run: Run) -> ClipStore:
  """Return the store that a run was trained on.

  Raises:
    UserError: If the store cannot be used, or has other labels than the run.
  """
  store = own_store(run.config, workdir)
  if store.vocabulary.ids != run.vocabulary.ids:
    raise UserError(f"{store.path}: has other labels than the run {workdir}")
  return store


def calibrated(
  workdir: str | os.PathLike,
  loaded: Loaded,
  open_store: Callable[[], ClipStore],
  counts: Counts | None,
) -> Calibrations:
  """Return the calibrations of a checkpoint, and store them with the run if they are new.

  Args:
    workdir: The run directory.
    loaded: Its checkpoint.
    open_store: Returns the training store.
    counts: The counts of the run's labels; None if they are not at hand.
  """
  run, stored = loaded.run, read_calibrations(workdir)
  checkpoint = checkpoint_hash(run, loaded.state)
  if stored.fit(loaded.step, checkpoint):
    return stored
  try:
    opened = opened_split(workdir, loaded, open_store(), "validation")
    scored = score_labels(opened, run.vocabulary.ids, sharding.data_mesh(), "scoring")
    labels = trained_labels(run.config, run.vocabulary, scored.labels)
    if not labels.any() or labels.all():
      raise UserError(f"{opened.store.path}: no validation clip has a label, or all have all")
  except UserError as error:
    warnings.warn(f"estimates have the calibration of AudioSet's features ({error})", stacklevel=2)
    return DEFAULTS
  warn_if_test_clips(splits_of(run.config), "estimates are calibrated on the clips")
  by_kind = fit_calibrations(run, counts, scored.scores, labels)
  fitted = Calibrations(loaded.step, by_kind, checkpoint)

  def store() -> None:
    try:
      write_calibrations(workdir, fitted)
    except OSError as error:
      warnings.warn(f"{workdir}: calibrations are not stored ({error.strerror})", stacklevel=2)

  first_only(store)
  return fitted


def fit_calibrations(
  run: Run, counts: Counts | None, scores: np.ndarray, labels: np.ndarray
) -> dict[str, Calibration]:
  """Fit the calibrations on clips whose labels are known, each label left out in turn.

  Args:
    run: The run.
    counts: The counts of the run's labels; None if they are not at hand.
    scores: float[N, K], scores of clips that were not trained on.
    labels: [N, K], their labels.

  Returns:
    The calibration of each kind of estimate. A kind that the run's files do not allow keeps its
    default.
  """
  weights = {}
  if counts is not None:
    weights = {COUNTS: left_out_weights(counts), RELATIONS: conditional_weights(counts)}
  with contextlib.suppress(UserError):  # they are random, or their file is elsewhere
    vectors = embeddings_of(run, run.vocabulary)
    similar = word_weights(vectors, vectors) * (1 - np.eye(len(vectors)))
    weights[WORDS] = scaled_to_one(similar)
  fitted = {
    kind: fit_calibration(weighted_sums(scores, given), labels) for kind, given in weights.items()
  }
  return {**DEFAULTS.by_kind, **fitted}
