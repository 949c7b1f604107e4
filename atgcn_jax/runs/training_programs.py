"""The compiled functions of a training: its step, and the scores of the validation clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.scoring import score_clips
from atgcn_jax.training import sharding
from atgcn_jax.training.state import TrainState
from atgcn_jax.training.step import make_score_step, make_train_step


class Programs(NamedTuple):
  """The compiled functions of a training.

  `train(state, batch, rate_factor)` returns the next state and the metrics of the step.
  `scores(state)` returns the scores and labels of the validation clips.
  `clips` is the number of validation clips.
  """

  train: Callable[..., tuple[TrainState, dict[str, Any]]]
  scores: Callable[[TrainState], tuple[np.ndarray, np.ndarray]]
  clips: int


class Validation(NamedTuple):
  """The clips int64[N] of a store to validate on, and the number of clips per batch."""

  store: ClipStore
  clips: np.ndarray
  batch: int


def compiled_programs(
  run: Run,
  state: TrainState,
  layout: sharding.Layout,
  batch_of: Callable[[Any], dict[str, jax.Array]],
  validation: Validation,
  before_batch: Callable[[], object],
) -> Programs:
  """Return the compiled functions of a run.

  Args:
    run: The run.
    state: The state, for its shapes.
    layout: The layout of the state.
    batch_of: A function from the input of a step to its batch, as in `Feed`.
    validation: The clips to validate on.
    before_batch: Called before each batch of a validation. It may raise to stop.
  """
  model, mesh = run.model(), layout.mesh
  train_step = make_train_step(
    model,
    run.optimiser(),
    mesh,
    normaliser=run.normaliser,
    augmentation=run.augmentation(),
    seed=run.config.seed,
    loss=run.loss(),
    batch_of=batch_of,
    kept=sharding.where_kept(layout, state, len(run.vocabulary)) if layout.in_parts else None,
  )
  score_step = make_score_step(model, mesh, normaliser=run.normaliser)
  for_inference = run.for_inference()

  def scores(state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    variables = for_inference(sharding.replicate(state.variables, mesh))
    return score_clips(score_step, variables, *validation, mesh, before_batch=before_batch)

  return Programs(train_step, scores, len(validation.clips))
