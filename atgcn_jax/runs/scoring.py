"""Scores of a checkpoint for the clips of a split, in any store that fits the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.pipeline import Share, batches, sequential
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.vocabulary import Vocabulary, read_label_ids
from atgcn_jax.runs.added_labels import AddedLabels
from atgcn_jax.runs.config import data_path
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.resumable_scores import Keep, finished_batches, scores_identity
from atgcn_jax.runs.run import Loaded, check_front_end
from atgcn_jax.runs.run_store import store_of, whole_store_of
from atgcn_jax.runtime import signals
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.processes import first_only, raise_if_any_stopped, whole
from atgcn_jax.runtime.tensorflow import has_tensorflow, import_tensorflow
from atgcn_jax.training import sharding
from atgcn_jax.training.step import make_score_step


def score_clips(
  score_step: Callable,
  variables: Any,
  store: ClipStore,
  clips: np.ndarray,
  batch: int,
  mesh: jax.sharding.Mesh,
  *,
  before_batch: Callable[[], object] = lambda: None,
  after_batch: Callable[[int, np.ndarray], object] = lambda number, scores: None,
  finished: Sequence[np.ndarray] = (),
  title: str = "",
) -> tuple[np.ndarray, np.ndarray]:
  """Return the scores and labels of clips, in their order, in every process.

  Args:
    score_step: The compiled scoring step.
    variables: The variables of the model.
    store: The store.
    clips: int64[N], the clip numbers.
    batch: The number of clips per batch.
    mesh: The device mesh.
    before_batch: Called before each batch. It may raise to stop the scoring.
    after_batch: Called with the number of each batch and its scores float32[batch, K].
    finished: The known scores of the first batches.
    title: The title of a progress bar. If empty, no bar is shown.

  Returns:
    Scores float32[N, K] and labels uint8[N, K].
  """
  clips_of, count = sequential(clips, batch)
  share = Share(jax.process_index(), jax.process_count())
  scores = list(finished)
  hidden = None if title else True  # None shows the bar only on a terminal
  known = min(len(scores) * batch, len(clips))
  with tqdm(total=len(clips), initial=known, unit="clip", desc=title, disable=hidden) as bar:
    for loaded in batches(store, clips_of, len(scores), count, share):
      before_batch()
      inputs = {name: loaded[name] for name in ("log_mel", "peak_db")}
      scored = score_step(variables, sharding.place(inputs, mesh))
      scores.append(np.asarray(whole(scored)))
      after_batch(len(scores) - 1, scores[-1])
      bar.update(min(batch, len(clips) - bar.n))
  return np.concatenate(scores)[: len(clips)], store.labels(clips)


class Opened(NamedTuple):
  """A checkpoint, and the clips int64[N] of a store to score."""

  loaded: Loaded
  store: ClipStore
  clips: np.ndarray


class ScoredSplit(NamedTuple):
  """The scores of a checkpoint for N clips and K labels.

  Attributes:
    loaded: The checkpoint.
    store: The store of the clips.
    clips: int64[N], the numbers of the clips in the store.
    clip_ids: str[N].
    folds: str[N].
    vocabulary: The K labels, all or some of the labels of the run and those added to it, in their
      order.
    columns: int64[K], the positions of the labels in the vocabulary of the run with added labels.
    scores: float32[N, K].
    labels: uint8[N, K].
  """

  loaded: Loaded
  store: ClipStore
  clips: np.ndarray
  clip_ids: np.ndarray
  folds: np.ndarray
  vocabulary: Vocabulary
  columns: np.ndarray
  scores: np.ndarray
  labels: np.ndarray


def score_split(
  workdir: str | os.PathLike,
  step: str,
  store_path: str | None,
  split: str,
  labels_path: str | None = None,
  keep: Keep | None = None,
  add: Callable[[Loaded], AddedLabels] | None = None,
) -> ScoredSplit:
  """Return the scores of a checkpoint for a split.

  The errors are those of `evaluate`.

  Args:
    workdir: Directory of the run.
    step: As for `evaluate`.
    store_path: As for `evaluate`.
    split: As for `evaluate`.
    labels_path: As for `evaluate`.
    keep: A function from `kept_scores`.
    add: A function from the checkpoint to labels that are added to it.
  """
  mesh = sharding.data_mesh()
  opened = open_split(workdir, step, store_path, split, mesh, all_labels=add is not None)
  added = add(opened.loaded) if add else None
  vocabulary, store = (added or opened.loaded.run).vocabulary, opened.store
  if not labels_path:
    check_vocabulary(vocabulary, store)
  ids = chosen_labels((vocabulary, store.vocabulary), labels_path)
  return score_labels(opened, ids, mesh, "scoring", keep, added)


def open_split(
  workdir: str | os.PathLike,
  step: str,
  store_path: str | None,
  split: str,
  mesh: jax.sharding.Mesh,
  *,
  all_labels: bool = False,
) -> Opened:
  """Return a checkpoint and the clips to score. The arguments are those of `evaluate`.

  The labels of the store are not checked. With `all_labels`, the run's own store has all its labels
  instead of those of the run.

  Raises:
    UserError: If the run, step, store or split cannot be used.
  """
  loaded = load_run(workdir, step, mesh)
  config = loaded.run.config
  store = open_clips(store_path) if store_path else own_store(config, workdir, all_labels)
  return opened_split(workdir, loaded, store, split)


def opened_split(
  workdir: str | os.PathLike, loaded: Loaded, store: ClipStore, split: str
) -> Opened:
  """Return a checkpoint and the clips of a store to score.

  Raises:
    UserError: If the store or the split cannot be used.
  """
  run = loaded.run
  check_front_end(run, store, f"the run {workdir}")
  clips = split_clips(store, splits_of(run.config), split)
  if not len(clips):
    raise UserError(f"--split {split}: {store.path} has no clip in this split; name another split")
  return Opened(loaded, store, clips)


def own_store(config, workdir: str | os.PathLike, all_labels: bool = False) -> ClipStore:
  """Return the store that a run was trained on, with the labels of the run or with all its labels.

  Raises:
    UserError: If the store is not at the path in the config, or cannot be used.
  """
  path = data_path(config.data.root, config.data.store)
  if config.data.store != SOUNDSCAPES and not in_bucket(path) and not os.path.exists(path):
    relative = "" if os.path.isabs(path) else ", relative to the folder where training ran"
    raise UserError(
      f"{path}: not found; the run {workdir} was trained on a store of that name{relative}; give "
      "its current path with --store"
    )
  return whole_store_of(config) if all_labels else store_of(config)


def check_vocabulary(vocabulary: Vocabulary, store: ClipStore) -> None:
  """Refuse a store with labels that the run does not have.

  Raises:
    UserError: If there are such labels. The message names the first one.
  """
  for label_id, name in zip(store.vocabulary.ids, store.vocabulary.names):
    if label_id not in vocabulary.index:
      raise UserError(
        f"{store.path}: has another vocabulary (its label {label_id}, {name}, is not one of the "
        f"run's {len(vocabulary)} labels); prepare the store with labels of the run, or name "
        "the labels to score in --labels"
      )


def chosen_labels(vocabularies: Sequence[Vocabulary], labels_path: str | None) -> list[str]:
  """Return the ids of the labels that all vocabularies have, in the order of the first vocabulary.

  Args:
    vocabularies: The vocabularies.
    labels_path: A file for `read_label_ids`. If given, only the labels in it are returned.

  Raises:
    UserError: If the file cannot be used, or one of the vocabularies lacks a label in the file.
  """
  shared = set.intersection(*(set(vocabulary.ids) for vocabulary in vocabularies))
  if labels_path:
    wanted = read_label_ids(labels_path)
    for label_id in wanted:
      if label_id not in shared:
        raise UserError(
          f"{labels_path}: label {label_id} is not one of the {len(shared)} labels that run and "
          "store have in common; remove it"
        )
    shared = set(wanted)
  return [label_id for label_id in vocabularies[0].ids if label_id in shared]


def score_labels(
  opened: Opened,
  ids: Sequence[str],
  mesh: jax.sharding.Mesh,
  title: str,
  keep: Keep | None = None,
  added: AddedLabels | None = None,
) -> ScoredSplit:
  """Return the scores of labels that both the run and the store have.

  Args:
    opened: The checkpoint and the clips.
    ids: The ids of the labels.
    mesh: The device mesh.
    title: The title of the progress bar.
    keep: A function from `kept_scores`.
    added: Labels that are added to the run. Their scores are estimates.

  Raises:
    WorkFailed: If a score is not finite.
  """
  loaded, store, clips = opened
  run = (added and added.run) or loaded.run
  batch = run.config.evaluation.batch_size
  batch += -batch % jax.device_count()
  score_step = make_score_step(run.model(), mesh, normaliser=run.normaliser)
  variables = run.for_inference()(loaded.state)
  part = None
  if keep is not None:
    part = keep(scores_identity(run, loaded.state, store, clips, batch), -(-len(clips) // batch))

  def store_batch(number: int, rows: np.ndarray) -> None:
    if part is not None:
      with contextlib.suppress(OSError):  # continue if the disk is full
        part.add((number,), rows.tobytes())

  if has_tensorflow():
    import_tensorflow()  # takes seconds, and would delay signals inside the block
  with signals.deferred():
    scores, labels = score_clips(
      score_step,
      variables,
      store,
      clips,
      batch,
      mesh,
      before_batch=raise_if_any_stopped,
      after_batch=store_batch,
      finished=first_only(lambda: finished_batches(part, len(run.vocabulary))),
      title=title,
    )
    raise_if_any_stopped()
  vocabulary = loaded.run.vocabulary
  if added is not None:
    scores, vocabulary = np.asarray(added.extended(scores)), added.vocabulary
  clip_ids = store.clip_ids[clips]
  if not (sound := np.isfinite(scores).all(axis=1)).all():
    if part is not None:
      part.discard()
    raise WorkFailed(
      f"{store.path}: the scores of {clip_ids[np.argmin(sound)]} are not finite at step "
      f"{loaded.step} of the run ({np.sum(~sound)} of {len(sound)} clips); use another --step"
    )
  columns, store_columns = (v.positions(ids) for v in (vocabulary, store.vocabulary))
  return ScoredSplit(
    loaded,
    store,
    clips,
    clip_ids,
    store.folds[clips],
    vocabulary.part(columns),
    columns,
    scores[:, columns],
    labels[:, store_columns],
  )
