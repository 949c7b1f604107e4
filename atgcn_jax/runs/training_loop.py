"""Training: from a config and a run directory to checkpoints, resumable at any time.

The order within the loop is fixed: evaluate, save, next batch, step, log. Everything that
determines the next update (parameters, optimiser, step, validation history) is in the checkpoint.
Batches and random numbers are functions of (seed, step). So a resumed run continues bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import WorkFailed
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.checks import check_config, check_data, check_workdir
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.load import make_way, with_training_state
from atgcn_jax.runs.log import finite_or_none, open_log
from atgcn_jax.runs.parts import rate_of
from atgcn_jax.runs.run import Run, new_run, store_of
from atgcn_jax.runs.scoring import score_clips
from atgcn_jax.runs.start import beginning, continued, layout_of, logged_evaluation, start_run
from atgcn_jax.runs.step_inputs import Feed, feed_of
from atgcn_jax.runs.telemetry import Telemetry, profile_of
from atgcn_jax.runtime.processes import first_only, same_everywhere
from atgcn_jax.runtime.signals import Stopped, stop_on_signals
from atgcn_jax.training import checkpoint, sharding
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.optim import plateau_factor
from atgcn_jax.training.state import TrainState
from atgcn_jax.training.step import make_score_step, make_train_step

History = list[dict[str, Any]]  # the evaluations so far: step, mAP, mAUC, d_prime


def train(
  config,
  workdir: str | os.PathLike,
  title: str = "",
  profile: tuple[int, int] | None = None,
) -> TrainState:
  """Train a new run, or resume the one in `workdir`, up to its last step.

  Args:
    config: The config.
    workdir: The run directory.
    title: The name of one of several runs; see `RunLog`.
    profile: The first step and the number of steps of an XLA trace.

  Returns:
    The state after the last step.

  Raises:
    UserError: If the config or the data cannot be used, or contradict the run.
    WorkFailed: If the loss is not finite. Earlier checkpoints are kept.
    Stopped: After SIGTERM or Ctrl-C in any process, once all processes have saved the state.
  """
  check_config(config)
  check_workdir(workdir)
  first_only(lambda: refuse_if_held(workdir))
  store = store_of(config)
  check_data(config, store)
  same_everywhere(configs.without_paths(config) | {"data.store": store.fingerprint})
  layout = layout_of(config)
  found, saved = beginning(config, store, workdir)
  history: History = []
  if saved is None:
    run, state = start_run(first_only(lambda: new_run(config, store)), layout)
  else:
    run = continued(saved, config, store, workdir)
    saved = with_training_state(saved, workdir, layout)
    state = saved.state
    history = saved.history + first_only(lambda: logged_evaluation(saved, workdir))
  start, steps = int(state.step), config.optim.steps
  trace = profile_of(profile, start, steps, workdir)
  feed = feed_of(config, store, layout.mesh, start)
  validation = split_clips(store, config.data, "validation")
  # Nothing is written to the folder before this line.
  with held(workdir) as still_held:
    replaced = saved is None and found.sound is not None
    first_only(lambda: make_way(workdir, found, replaced=replaced))
    with (
      checkpoint.open_manager(workdir, config.checkpoint.keep) as manager,
      stop_on_signals() as stop,
    ):
      checkpoints = Checkpoints(run, manager, still_held)
      checkpoints.save(state, history)
      log = open_log(workdir, start, steps, config.data.batch_size, title)
      telemetry = Telemetry(
        log, trace, stop, layout.mesh, start=start, batch=config.data.batch_size
      )
      try:
        programs = compiled_programs(run, state, feed, layout, (store, validation), telemetry.beat)
        return train_to_end(
          programs, state, history, feed=feed, checkpoints=checkpoints, telemetry=telemetry
        )
      finally:
        trace.close()
        log.close()


def train_to_end(
  programs: Programs,
  state: TrainState,
  history: History,
  *,
  feed: Feed,
  checkpoints: Checkpoints,
  telemetry: Telemetry,
) -> TrainState:
  """Evaluate, save, take the next batch, step and log, up to the last step of the config.

  Args:
    programs: The compiled functions.
    state: The state at which training starts or resumes.
    history: The evaluations so far. New evaluations are appended.
    feed: The inputs of the steps.
    checkpoints: The checkpoints of the run.
    telemetry: The telemetry of the training.

  Returns:
    The state after the last step.

  Raises:
    WorkFailed: If a loss, a score or a parameter is not finite, a save fails, or another process
      takes the folder.
    Stopped: After SIGTERM or Ctrl-C in any process, once the state is saved.
  """
  config, start = checkpoints.run.config, int(state.step)
  steps, rate = config.optim.steps, rate_of(config.optim)
  metrics: dict[str, Any] = {}
  try:
    for step in range(start, steps):
      if step > 0 and is_boundary(config, step):
        checkpoints.ensure_finite(step - 1, metrics)
        evaluate_if_due(programs, state, history, step, checkpoints, telemetry)
        checkpoints.save(state, history)
        telemetry.restart(step)
      checkpoints.ensure_writable()
      batch = telemetry.next_batch(step, feed)
      factor = rate_factor(config, history)
      state, new_metrics = programs.train(state, batch, factor)
      telemetry.dispatched()
      checkpoints.ensure_finite(step - 1, metrics)  # the previous step, while this one runs
      telemetry.end_step(step, metrics, new_metrics)
      metrics = new_metrics
      if (step + 1) % config.log.every == 0 or step + 1 == steps:
        checkpoints.ensure_finite(step, metrics)
        telemetry.record(step + 1, metrics, float(rate(step)) * factor)
    checkpoints.ensure_finite(steps - 1, metrics)
    if start >= steps and not telemetry.log.title:
      telemetry.log.say(f"the run is already at step {start} of {steps}; nothing to do")
    evaluate_if_due(programs, state, history, max(start, steps), checkpoints, telemetry)
    checkpoints.save(state, history)
  except Stopped as stopped:
    step = int(state.step)
    checkpoints.ensure_finite(step - 1, metrics)
    checkpoints.save(state, history)
    checkpoints.wait()
    telemetry.log.say(f"{stopped}: saved step {step}; repeat the same command to resume")
    raise
  checkpoints.wait()
  return state


class Programs(NamedTuple):
  """The compiled functions of a training.

  `train(state, batch, rate_factor)` returns the next state and the metrics of the step.
  `scores(state)` returns the scores and labels of the validation clips.
  `clips` is the number of validation clips.
  """

  train: Callable[..., tuple[TrainState, dict[str, Any]]]
  scores: Callable[[TrainState], tuple[np.ndarray, np.ndarray]]
  clips: int


def compiled_programs(
  run: Run,
  state: TrainState,
  feed: Feed,
  layout: sharding.Layout,
  validation: tuple[ClipStore, np.ndarray],
  before_batch: Callable[[], object],
) -> Programs:
  """Return the compiled functions of a run.

  Args:
    run: The run.
    state: The state, for its shapes.
    feed: The inputs of the steps.
    layout: The layout of the state.
    validation: The store, and the clips in it to validate on.
    before_batch: Called before each batch of a validation. It may raise to stop.
  """
  config, model, mesh = run.config, run.model(), layout.mesh
  train_step = make_train_step(
    model,
    run.optimiser(),
    mesh,
    normaliser=run.normaliser,
    augmentation=run.augmentation(),
    seed=config.seed,
    loss=run.loss(),
    batch_of=feed.batch_of,
    kept=sharding.where_kept(layout, state, len(run.vocabulary)) if layout.in_parts else None,
  )
  score_step = make_score_step(model, mesh, normaliser=run.normaliser)
  for_inference = run.for_inference()
  store, clips = validation

  def scores(state: TrainState) -> tuple[np.ndarray, np.ndarray]:
    variables = for_inference(sharding.replicate(state.variables, mesh))
    size = config.evaluation.batch_size
    return score_clips(score_step, variables, store, clips, size, mesh, before_batch=before_batch)

  return Programs(train_step, scores, len(clips))


def evaluate_if_due(
  programs: Programs,
  state: TrainState,
  history: History,
  step: int,
  checkpoints: Checkpoints,
  telemetry: Telemetry,
) -> None:
  """Validate the state if an evaluation is due; append the metrics to `history` and the log."""
  if not (programs.clips and evaluation_is_due(checkpoints.run.config, history, step)):
    return
  scores, labels = programs.scores(state)
  checkpoints.ensure_finite(step, {"sum of the validation scores": scores.sum()})
  metrics = first_only(lambda: tagging_metrics(scores, labels))
  record = {name: finite_or_none(metrics[name]) for name in ("mAP", "mAUC", "d_prime")}
  history.append({"step": step, **record})
  telemetry.log.evaluated(step, record, programs.clips)


def is_boundary(config, step: int) -> bool:
  """Return whether an evaluation or a checkpoint is due before this step."""
  return step % config.evaluation.every == 0 or step % config.checkpoint.every == 0


def evaluation_is_due(config, history: History, step: int) -> bool:
  """Return whether this step must be evaluated and is not yet. The last step always must be."""
  scheduled = step % config.evaluation.every == 0 or step == config.optim.steps
  return scheduled and all(record["step"] != step for record in history)


def rate_factor(config, history: History) -> float:
  """Return the factor of the learning rate from the plateau rule.

  An extra evaluation at the end of a shorter run does not count. So a run that is extended equals a
  run that had the final length from the start.
  """
  scheduled = [record for record in history if record["step"] % config.evaluation.every == 0]
  return plateau_factor(
    [record["mAP"] for record in scheduled if record["mAP"] is not None],
    factor=config.optim.plateau_factor,
    patience=config.optim.plateau_patience,
  )


class Checkpoints(NamedTuple):
  """The checkpoints of a run, in a directory whose lock this process holds.

  `check_lock` raises if another process has taken the directory.
  """

  run: Run
  manager: ocp.CheckpointManager
  check_lock: Callable[[], None]

  def ensure_writable(self) -> None:
    """Raise if the last save failed or another process has taken the directory.

    Raises:
      WorkFailed: In either case. The message names the directory and the fault.
    """
    checkpoint.raise_if_save_failed(self.manager)
    self.check_lock()

  def save(self, state: TrainState, history: History) -> None:
    """Start to save the state, unless its step has a checkpoint.

    Raises:
      WorkFailed: If a value of the state is not finite. Nothing is written in this case.
    """
    self.check_lock()
    save_checkpoint(self.manager, self.run, state, history)

  def wait(self) -> None:
    """Wait for the save that is in progress."""
    checkpoint.wait_until_saved(self.manager)

  def ensure_finite(self, step: int, metrics: dict[str, Any]) -> None:
    """Raise if a metric of this step is NaN or infinite.

    Raises:
      WorkFailed: If so. The message names the step and the last good checkpoint.
    """
    for name, value in metrics.items():
      if not math.isfinite(float(value)):
        fault = f"the {name.replace('_', ' ')} is {float(value)}"
        raise _not_finite(self.manager, step, fault)


def save_checkpoint(
  manager: ocp.CheckpointManager, run: Run, state: TrainState, history: History
) -> None:
  """Start to save a checkpoint, unless this step has one.

  Raises:
    WorkFailed: If a value of the state is not finite. Nothing is written in this case.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  if name := first_not_finite(state):
    raise _not_finite(manager, step, f"a value of {name} is NaN or infinite")
  here = [record["mAP"] for record in history if record["step"] == step]
  description = run.description() | {"history": history}
  checkpoint.start_save(manager, state, run.constants(), description, here[0] if here else None)


def _not_finite(manager: ocp.CheckpointManager, step: int, fault: str) -> WorkFailed:
  """Wait for the save in progress, and return the error to raise."""
  checkpoint.wait_until_saved(manager)
  return WorkFailed(
    f"step {step}: {fault}; stopped, the last good checkpoint is that of step "
    f"{manager.latest_step()} in {manager.directory.parent}; try a lower optim.learning_rate or "
    "an optim.clip_norm in another folder"
  )
