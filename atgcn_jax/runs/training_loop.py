"""Training: from a config and a run directory to checkpoints, resumable at any moment.

The order within the loop is fixed: evaluate, save, next batch, step, log. Everything that decides
the next update (parameters, optimiser, step, validation history) is in the checkpoint, and batch
and random numbers follow from (seed, step), so a resumed run goes on bit for bit.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import WorkFailed
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.checks import (
  beginning,
  check_config,
  check_data,
  check_workdir,
  continued,
  evaluated_behind,
  layout_of,
  start_run,
)
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.load import make_way, with_training_state
from atgcn_jax.runs.log import RunLog, finite_or_none, open_log
from atgcn_jax.runs.run import Run, new_run, store_of
from atgcn_jax.runs.scoring import score_clips
from atgcn_jax.runs.step_inputs import Feed, feed_of
from atgcn_jax.runs.telemetry import Pace, Profile, profile_of
from atgcn_jax.runtime.processes import Pulse, first_only, host_names, same_everywhere
from atgcn_jax.runtime.signals import Stopped, StopRequest, stop_on_signals
from atgcn_jax.training import checkpoint, sharding
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.optim import learning_rate_schedule, plateau_factor
from atgcn_jax.training.state import TrainState
from atgcn_jax.training.step import make_score_step, make_train_step

History = list[dict[str, Any]]  # the evaluations so far: step, mAP, mAUC, d_prime


def train(
  config,
  workdir: str | os.PathLike,
  title: str = "",
  profile: tuple[int, int] | None = None,
) -> TrainState:
  """Train a run, or go on with the one in `workdir`, to its last step; returns the state there.

  Args:
    title: of one among many runs; see `RunLog`.
    profile: the first step of an XLA trace, and how many steps it has.
  Raises:
    UserError: for a config or data that cannot be used, or that contradicts the run.
    WorkFailed: if the loss is not finite; the checkpoints from before stay.
    Stopped: after SIGTERM or Ctrl-C, in any process, once the state is saved by all.
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
    history = saved.history + first_only(lambda: evaluated_behind(saved, workdir))
  start = int(state.step)
  trace = profile_of(profile, start, config.optim.steps, workdir)
  feed = feed_of(config, store, layout.mesh, start)
  # Nothing is written to the folder before this line.
  with held(workdir) as still_held:
    replaced = saved is None and found.sound is not None
    first_only(lambda: make_way(workdir, found, replaced=replaced))
    with (
      checkpoint.open_manager(workdir, config.checkpoint.keep) as manager,
      stop_on_signals() as stop,
    ):
      save_checkpoint(manager, run, state, history)
      log = open_log(workdir, start, config.optim.steps, config.data.batch_size, title)
      try:
        return train_to_end(
          run, state, history, store, feed, layout, manager, still_held, log, stop, trace
        )
      finally:
        trace.close()
        log.close()


def train_to_end(
  run: Run,
  state: TrainState,
  history: History,
  store: ClipStore,
  feed: Feed,
  layout: sharding.Layout,
  manager: ocp.CheckpointManager,
  check_lock: Callable[[], None],
  log: RunLog,
  stop: StopRequest,
  trace: Profile,
) -> TrainState:
  """The loop, from the state's step to the config's last; adds to `history`.

  Args:
    check_lock: raises where the run directory is no longer held; called before each step and save.
  """
  config, start, steps = run.config, int(state.step), run.config.optim.steps
  model, mesh = run.model(), layout.mesh
  train_step = make_train_step(
    model,
    run.optimiser(),
    mesh,
    normaliser=run.normaliser,
    augment_config=config.augment,
    seed=config.seed,
    loss=run.loss(),
    batch_of=feed.batch_of,
    kept=sharding.where_kept(layout, state, len(run.vocabulary)) if layout.in_parts else None,
  )
  score_step = make_score_step(model, mesh, normaliser=run.normaliser)
  for_inference = run.for_inference()
  validation = split_clips(store, config.data, "validation")
  rate = learning_rate_schedule(config.optim)
  check = functools.partial(ensure_finite, manager)
  pulse, hosts = Pulse(mesh, 3), host_names()

  def beat(busy: float = 0.0, waited: float = 0.0) -> np.ndarray:
    known = pulse.beat([stop.signal_number or 0, busy, waited])
    if number := int(known[:, 0].max()):
      raise Stopped(number)
    return known[:, 1:].T.copy()

  def evaluate_and_save(step: int) -> None:
    if evaluation_is_due(config, history, step) and len(validation):
      scores, labels = score_clips(
        score_step,
        for_inference(sharding.replicate(state.variables, mesh)),
        store,
        validation,
        config.evaluation.batch_size,
        mesh,
        before_batch=beat,
      )
      check(step, {"sum of the validation scores": scores.sum()})
      metrics = first_only(lambda: tagging_metrics(scores, labels))
      record = {name: finite_or_none(metrics[name]) for name in ("mAP", "mAUC", "d_prime")}
      history.append({"step": step, **record})
      log.evaluated(step, record, len(validation))
    check_lock()
    save_checkpoint(manager, run, state, history)

  metrics: dict[str, Any] = {}
  paces = since_log, since_line = [Pace(start, config.data.batch_size) for _ in range(2)]
  busy = waited = 0.0
  try:
    for step in range(start, steps):
      if step > 0 and is_boundary(config, step):
        check(step - 1, metrics)
        evaluate_and_save(step)
        for pace in paces:  # the rate is that of training alone
          pace.restart(step)
        log.resumed()
      known = beat(busy, waited)
      since_line.add(*known)  # of the same step for all, so that they can be compared
      known[:, jax.process_index()] = 0  # its own are known before
      since_log.add(*known)
      checkpoint.raise_if_save_failed(manager)
      check_lock()
      trace.before(step)
      asked = time.monotonic()
      given = next(feed.given)
      waited = time.monotonic() - asked
      factor = rate_factor(config, history)
      state, new_metrics = train_step(state, given, factor)
      handed = time.monotonic()
      check(step - 1, metrics)  # of the step before, while this one is under way
      if step == start + 1:  # the first step was compiled
        for pace in paces:
          pace.restart(step)
      busy = handed - asked
      since_log.add_own(busy, waited)
      if step > since_line.step and log.is_time_to_tell():
        log.tell(step, float(metrics["loss"]), since_line.figures(step))
        if lag := since_line.laggard(hosts):
          log.say(lag)
        since_line.restart(step)
      metrics = new_metrics
      trace.after(step, metrics)
      log.stepped(step + 1)
      if (step + 1) % config.log.every == 0 or step + 1 == steps:
        check(step, metrics)
        values = {name: float(value) for name, value in metrics.items()}
        values["learning_rate"] = float(rate(step)) * factor
        log.record(step + 1, values | since_log.figures(step + 1), "train")
        since_log.restart(step + 1)
    check(steps - 1, metrics)
    if start >= steps and not log.title:
      log.say(f"the run is at step {start} of {steps}: there is nothing to do")
    evaluate_and_save(max(start, steps))
  except Stopped as stopped:
    check(int(state.step) - 1, metrics)
    check_lock()
    save_checkpoint(manager, run, state, history)
    checkpoint.wait_until_saved(manager)
    log.say(f"{stopped}: saved step {int(state.step)}; the same command goes on from there")
    raise
  checkpoint.wait_until_saved(manager)
  return state


def is_boundary(config, step: int) -> bool:
  """Whether something is to be evaluated or saved before this step."""
  return step % config.evaluation.every == 0 or step % config.checkpoint.every == 0


def evaluation_is_due(config, history: History, step: int) -> bool:
  """Whether this step is to be evaluated, as the last always is, and has not been."""
  scheduled = step % config.evaluation.every == 0 or step == config.optim.steps
  return scheduled and all(record["step"] != step for record in history)


def rate_factor(config, history: History) -> float:
  """What the plateau rule makes of the learning rate.

  An evaluation at the end of a shorter run does not count, so that a run that is made longer is
  the same as one that was so long from the start.
  """
  scheduled = [record for record in history if record["step"] % config.evaluation.every == 0]
  return plateau_factor(
    [record["mAP"] for record in scheduled if record["mAP"] is not None],
    factor=config.optim.plateau_factor,
    patience=config.optim.plateau_patience,
  )


def save_checkpoint(
  manager: ocp.CheckpointManager, run: Run, state: TrainState, history: History
) -> None:
  """Begin a checkpoint, unless this step has one.

  Raises:
    WorkFailed: if a value of the state is not finite; nothing is written then.
  """
  step = int(state.step)
  if step in manager.all_steps():
    return
  if name := first_not_finite(state):
    raise _not_finite(manager, step, f"a value of {name} is NaN or infinite")
  here = [record["mAP"] for record in history if record["step"] == step]
  description = run.description() | {"history": history}
  checkpoint.start_save(manager, state, run.constants(), description, here[0] if here else None)


def ensure_finite(manager: ocp.CheckpointManager, step: int, metrics: dict[str, Any]) -> None:
  """Stop the run if a number of this step is not finite.

  Raises:
    WorkFailed: naming the step, and the checkpoint from before that stays.
  """
  for name, value in metrics.items():
    if not math.isfinite(float(value)):
      raise _not_finite(manager, step, f"the {name.replace('_', ' ')} is {float(value)}")


def _not_finite(manager: ocp.CheckpointManager, step: int, fault: str) -> WorkFailed:
  """The error to raise, once the save under way has ended."""
  checkpoint.wait_until_saved(manager)
  return WorkFailed(
    f"step {step}: {fault}; stopped, the last good checkpoint is that of step "
    f"{manager.latest_step()} in {manager.directory.parent}; try a lower optim.learning_rate, or "
    "optim.clip_norm, in another folder"
  )
