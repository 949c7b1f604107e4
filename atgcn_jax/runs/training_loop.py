"""Training: from a config and a run directory to checkpoints, resumable at any time.

The order within the loop is fixed: evaluate, save, next batch, step, log. Everything that
determines the next update (parameters, optimiser, step, validation history) is in the checkpoint.
Batches and random numbers are functions of (seed, step). So a resumed run continues bit for bit.
"""

from __future__ import annotations

import os
from typing import Any

from atgcn_jax.data.splits import split_clips
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.banner import closing, opening, split_sizes
from atgcn_jax.runs.checks import check_config, check_data, check_start, check_warmup, check_workdir
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import best_step, make_way, with_training_state
from atgcn_jax.runs.log import finite_or_none, open_log
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.run_checkpoints import Checkpoints
from atgcn_jax.runs.run_store import training_store
from atgcn_jax.runs.schedule import History, Schedule, schedule_of, with_passes
from atgcn_jax.runs.start import beginning, continued, layout_of, start_run
from atgcn_jax.runs.step_inputs import Feed, feed_of
from atgcn_jax.runs.stop_lines import after_this_step, at_once
from atgcn_jax.runs.telemetry import Telemetry, profile_of
from atgcn_jax.runs.training_programs import Programs, Validation, compiled_programs
from atgcn_jax.runtime.processes import first_only, same_everywhere
from atgcn_jax.runtime.signals import Stopped, announced, stop_on_signals
from atgcn_jax.training import checkpoint
from atgcn_jax.training.augment import clips_per_example
from atgcn_jax.training.state import TrainState


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
  first_only(lambda: check_start(config.start.run, workdir))
  store = training_store(config)
  check_data(config, store)
  least_steps = config.optim.steps
  config = with_passes(config, len(split_clips(store, splits_of(config), "train")))
  check_warmup(config.optim)
  content = {"data.store": store.fingerprint, "labels of the clips": store.labels_hash()}
  same_everywhere(configs.without_paths(config) | content)
  layout, schedule, splits = layout_of(**config.sharding), schedule_of(config), splits_of(config)
  found, saved = beginning(config, store, workdir)
  history: History = []
  remark = ""
  if saved is None:
    run, state, remark = start_run(first_only(lambda: new_run(config, store)), layout)
  else:
    run = continued(saved, config, store, workdir)
    saved = with_training_state(saved, workdir, layout)
    state = saved.state
    history = saved.history
  start, examples = int(state.step), config.data.batch_size
  trace = profile_of(profile, start, schedule.steps, workdir)
  feed = feed_of(
    store,
    split_clips(store, splits, "train"),
    layout.mesh,
    range(start, schedule.steps),
    examples * clips_per_example(run.augmentation()),
    config.seed,
    balanced=config.data.sampling == "balanced",
    placement=config.data.placement,
  )
  validation = Validation(
    store, split_clips(store, splits, "validation"), config.evaluation.batch_size
  )
  # Nothing is written to the folder before this line.
  with held(workdir) as still_held:
    replaced = saved is None and found.sound is not None
    first_only(lambda: make_way(workdir, found, replaced=replaced))
    with (
      checkpoint.open_manager(
        workdir, config.checkpoint.keep, lambda steps: best_step(history, steps)
      ) as manager,
      stop_on_signals() as stop,
      announced(after_this_step, lambda: at_once(workdir)),
    ):
      checkpoints = Checkpoints(run, manager, still_held)
      checkpoints.save(state, history)
      log = open_log(workdir, start, schedule.steps, examples, title)
      clips = split_sizes(store, splits)
      if not title:
        lines = opening(
          run, workdir, clips, start=start, steps=schedule.steps, least_steps=least_steps
        )
        log.say(lines)
      if remark:
        log.say(remark)
      telemetry = Telemetry(log, trace, stop, layout.mesh, start=start, batch=examples)
      try:
        programs = compiled_programs(run, state, layout, feed.batch_of, validation, telemetry.beat)
        state = train_to_end(
          programs,
          state,
          history,
          schedule=schedule,
          feed=feed,
          checkpoints=checkpoints,
          telemetry=telemetry,
        )
      finally:
        trace.close()
        log.close()
      if not title:
        log.say(closing(workdir, clips))
      return state


def train_to_end(
  programs: Programs,
  state: TrainState,
  history: History,
  *,
  schedule: Schedule,
  feed: Feed,
  checkpoints: Checkpoints,
  telemetry: Telemetry,
) -> TrainState:
  """Evaluate, save, take the next batch, step and log, up to the last step.

  Args:
    programs: The compiled functions.
    state: The state at which training starts or resumes.
    history: The evaluations so far. New evaluations are appended.
    schedule: The schedule of the training.
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
  start, steps = int(state.step), schedule.steps
  metrics: dict[str, Any] = {}
  try:
    for step in range(start, steps):
      if step > 0 and schedule.is_boundary(step):
        checkpoints.ensure_finite(step - 1, metrics)
        if schedule.evaluation_is_due(step, history):
          validate(programs, state, history, checkpoints, telemetry)
        checkpoints.save(state, history)
        telemetry.restart(step)
      checkpoints.ensure_writable()
      batch = telemetry.next_batch(step, feed)
      factor = schedule.rate_factor(history)
      state, new_metrics = programs.train(state, batch, factor)
      telemetry.dispatched()
      checkpoints.ensure_finite(step - 1, metrics)  # the previous step, while this one runs
      telemetry.end_step(step, metrics, new_metrics)
      metrics = new_metrics
      if schedule.is_logged(step + 1):
        checkpoints.ensure_finite(step, metrics)
        telemetry.record(step + 1, metrics, float(schedule.rate(step)) * factor)
    checkpoints.ensure_finite(steps - 1, metrics)
    if start >= steps and not telemetry.log.title:
      telemetry.log.say(f"the run is already at step {start} of {steps}; nothing to do")
    if schedule.evaluation_is_due(max(start, steps), history):
      validate(programs, state, history, checkpoints, telemetry)
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


def validate(
  programs: Programs,
  state: TrainState,
  history: History,
  checkpoints: Checkpoints,
  telemetry: Telemetry,
) -> None:
  """Validate the state, and append the metrics to `history` and the log."""
  if not programs.clips:
    return
  step = int(state.step)
  scores, labels = programs.scores(state)
  checkpoints.ensure_finite(step, {"sum of the validation scores": scores.sum()})
  metrics = first_only(lambda: tagging_metrics(scores, labels))
  record = {name: finite_or_none(metrics[name]) for name in ("mAP", "mAUC", "d_prime")}
  history.append({"step": step, **record})
  telemetry.log.evaluated(step, record, programs.clips)
