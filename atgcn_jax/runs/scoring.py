"""The scores of a run's checkpoint for the clips of a split, in any store that it can score."""

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
from atgcn_jax.runs.config import SOUNDSCAPES, data_path
from atgcn_jax.runs.load import Loaded, load_run
from atgcn_jax.runs.resumable_scores import Keep, finished_batches, scores_identity
from atgcn_jax.runs.run import Run, store_of
from atgcn_jax.runtime import signals
from atgcn_jax.runtime.buckets import in_bucket
from atgcn_jax.runtime.processes import first_only, whole
from atgcn_jax.runtime.tensorflow import import_tensorflow
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
  """(scores float32[N, K], labels uint8[N, K]) of these clips, in their order, on every process.

  Args:
    before_batch: Called before each batch; may raise to stop.
    after_batch: Called with the number of each batch and its scores float32[batch, K].
    finished: The scores of the first batches, where they are known.
    title: Of a bar that is shown on a terminal; no bar without.
  """
  clips_of, count = sequential(clips, batch)
  share = Share(jax.process_index(), jax.process_count())
  scores = list(finished)
  hidden = None if title else True  # None: shown on a terminal
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
  """A checkpoint, and the clips int64[N] of a store that it is to score."""

  loaded: Loaded
  store: ClipStore
  clips: np.ndarray


class ScoredSplit(NamedTuple):
  """A checkpoint and its scores float32[N, K] of clips: ids, folds str[N], labels uint8[N, K].

  The clips are those of `store`.

  The K labels, `vocabulary`, are the run's or some of them, in the run's order; `columns` int64[K]
  is where they stand in its vocabulary.
  """

  loaded: Loaded
  store: ClipStore
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
) -> ScoredSplit:
  """The scores of a checkpoint for a split.

  Args:
    keep: As `kept_scores` gives it. Other arguments and errors are those of `evaluate`.
  """
  mesh = sharding.data_mesh()
  opened = open_split(workdir, step, store_path, split, mesh)
  run, store = opened.loaded.run, opened.store
  if not labels_path:
    check_vocabulary(run, store)
  ids = chosen_labels((run.vocabulary, store.vocabulary), labels_path)
  return score_labels(opened, ids, mesh, "scoring", keep)


def open_split(
  workdir: str | os.PathLike,
  step: str,
  store_path: str | None,
  split: str,
  mesh: jax.sharding.Mesh,
) -> Opened:
  """A checkpoint and the clips that it is to score; arguments are those of `evaluate`.

  Raises:
    UserError: For a run, step, store or split that cannot be used, whatever the store's labels.
  """
  loaded = load_run(workdir, step, mesh)
  run = loaded.run
  store = open_clips(store_path) if store_path else own_store(run.config, workdir)
  if store.frontend != run.frontend:
    raise UserError(
      f"{store.path}: a store of the front end {store.frontend.name}; the run {workdir} needs "
      f"{run.frontend.name}, prepare it with --frontend {run.frontend.name}"
    )
  clips = split_clips(store, run.config.data, split)
  if not len(clips):
    raise UserError(f"--split {split}: {store.path} has no clip in it; name another split")
  return Opened(loaded, store, clips)


def own_store(config, workdir: str | os.PathLike) -> ClipStore:
  """The store that a run was trained on.

  Raises:
    UserError: If it is not where the run's config says, or cannot be used.
  """
  path = data_path(config, config.data.store)
  if config.data.store != SOUNDSCAPES and not in_bucket(path) and not os.path.exists(path):
    relative = "" if os.path.isabs(path) else ", relative to the folder that it was trained from"
    raise UserError(
      f"{path}: not found; the run {workdir} was trained on a store of that name{relative}; give "
      "the store's path now with --store"
    )
  return store_of(config)


def check_vocabulary(run: Run, store: ClipStore) -> None:
  """Refuse a store with labels that the run does not know.

  Raises:
    UserError: Naming the first of them.
  """
  for label_id, name in zip(store.vocabulary.ids, store.vocabulary.names):
    if label_id not in run.vocabulary.index:
      raise UserError(
        f"{store.path}: a store of another vocabulary (its label {label_id}, {name}, is not among "
        f"the run's {len(run.vocabulary)}); prepare it with the run's vocabulary or a part of it, "
        "or name the labels to score in --labels"
      )


def chosen_labels(vocabularies: Sequence[Vocabulary], labels_path: str | None) -> list[str]:
  """The ids of the labels that all vocabularies have, in the order of the first.

  Args:
    labels_path: A file as `read_label_ids` takes it; then only the labels in it.

  Raises:
    UserError: For a file that cannot be used, or a label in it that one of them lacks.
  """
  shared = set.intersection(*(set(vocabulary.ids) for vocabulary in vocabularies))
  if labels_path:
    wanted = read_label_ids(labels_path)
    for label_id in wanted:
      if label_id not in shared:
        raise UserError(
          f"{labels_path}: label {label_id} is not among the {len(shared)} labels that can be "
          "scored, which run and store both know; take it out"
        )
    shared = set(wanted)
  return [label_id for label_id in vocabularies[0].ids if label_id in shared]


def score_labels(
  opened: Opened,
  ids: Sequence[str],
  mesh: jax.sharding.Mesh,
  title: str,
  keep: Keep | None = None,
) -> ScoredSplit:
  """The scores of these labels, all of them known to the run and to the store.

  Args:
    title: Of the bar.
    keep: As `kept_scores` gives it.

  Raises:
    WorkFailed: If a score is not finite.
  """
  loaded, store, clips = opened
  run = loaded.run
  batch = run.config.evaluation.batch_size
  batch += -batch % jax.device_count()
  score_step = make_score_step(run.model(), mesh, normaliser=run.normaliser)
  variables = run.for_inference()(loaded.state)
  part = None
  if keep is not None:
    part = keep(scores_identity(run, loaded.state, store, clips, batch), -(-len(clips) // batch))

  def store_batch(number: int, rows: np.ndarray) -> None:
    if part is not None:
      with contextlib.suppress(OSError):  # a full disk does not end the scoring
        part.add((number,), rows.tobytes())

  import_tensorflow()  # takes seconds, which a signal within the block would wait for
  with signals.deferred():
    scores, labels = score_clips(
      score_step,
      variables,
      store,
      clips,
      batch,
      mesh,
      before_batch=signals.raise_if_stopped,
      after_batch=store_batch,
      finished=first_only(lambda: finished_batches(part, len(run.vocabulary))),
      title=title,
    )
  clip_ids = store.clip_ids[clips]
  if not (sound := np.isfinite(scores).all(axis=1)).all():
    if part is not None:
      part.discard()
    raise WorkFailed(
      f"{store.path}: the scores of {clip_ids[np.argmin(sound)]} are not finite at step "
      f"{loaded.step} of the run ({np.sum(~sound)} of {len(sound)} clips); use another --step"
    )
  columns, theirs = (v.positions(ids) for v in (run.vocabulary, store.vocabulary))
  return ScoredSplit(
    loaded,
    store,
    clip_ids,
    store.folds[clips],
    run.vocabulary.part(columns),
    columns,
    scores[:, columns],
    labels[:, theirs],
  )
