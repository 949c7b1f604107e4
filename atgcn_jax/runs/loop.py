"""Training: from a config and a run directory to checkpoints, resumable at any moment.

The order within the loop is fixed: evaluate, save, next batch, step, log. Everything that decides
the next update (parameters, optimiser, step, validation history) is in the checkpoint, and batch
and random numbers follow from (seed, step), so a resumed run goes on bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax.data import sampling
from atgcn_jax.data.pipeline import Share, batches
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store import ClipStore
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.runs import config as configs
from atgcn_jax.runs.assemble import Run, label_graph, new_run, store_of
from atgcn_jax.runs.evaluate import finite_or_none, score_clips
from atgcn_jax.runs.log import RunLog, read_records
from atgcn_jax.runs.restore import Loaded, newest_sound
from atgcn_jax.runs.signals import Stopped, StopRequest, stop_on_signals
from atgcn_jax.training import augment, checkpoint, sharding
from atgcn_jax.training.optim import learning_rate_schedule, optimiser, plateau_factor
from atgcn_jax.training.state import TrainState
from atgcn_jax.training.step import make_score_step, make_train_step


def train(config, workdir: str | os.PathLike) -> TrainState:
  """Train a run, or go on with the one in `workdir`, to its last step; returns the state there.

  Raises:
    UserError: for a config or data that cannot be used, or that contradicts the run.
    WorkFailed: if the loss is not finite; the checkpoints from before stay.
    Stopped: after SIGTERM or Ctrl-C, once the state is saved.
  """
  check_config(config)
  _check_workdir(workdir)
  mesh = sharding.data_mesh()
  store = store_of(config)
  saved = newest_sound(workdir, mesh)
  if saved is None:
    run, state, history = new_run(config, store), None, []
  else:
    run, state = continued(saved, config, store, workdir), saved.state
    history = saved.history + evaluated_behind(saved, workdir)
  with (
    checkpoint.open_manager(workdir, config.checkpoint.keep) as manager,
    stop_on_signals() as stop,
  ):
    return _Training(run, store, mesh, manager, workdir, history, stop).run_to_end(state)


def check_config(config) -> None:
  """Refuse settings that no run can have.

  Raises:
    UserError: with the key and what it may be.
  """
  configs.check_ranges(config)
  per_step = config.data.batch_size * augment.clips_per_example(config.augment)
  devices = jax.device_count()
  for key, size in (
    ("data.batch_size", per_step),
    ("data.batch_size", config.data.batch_size),
    ("evaluation.batch_size", config.evaluation.batch_size),
  ):
    if size % devices:
      raise UserError(f"{key}: {size} clips do not split over {devices} devices; take a multiple")
  if config.data.sampling not in sampling.MODES:
    raise UserError(f"data.sampling {config.data.sampling!r}: one of {', '.join(sampling.MODES)}")
  try:
    learning_rate_schedule(config.optim)
    jax.eval_shape(lambda: augment.plan(jax.random.key(0), config.augment, jnp.zeros((2, 1)))[2])
  except ValueError as error:
    raise UserError(f"--config: {error}") from error


def _check_workdir(workdir: str | os.PathLike) -> None:
  try:
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"--workdir {workdir}: cannot be made ({error.strerror}); name another"
    ) from error
  if not os.access(workdir, os.W_OK):
    raise UserError(f"--workdir {workdir}: cannot be written to; name another")


def continued(saved: Loaded, config, store: ClipStore, workdir: str | os.PathLike) -> Run:
  """The saved run under a config that may differ in what is free on resume.

  Raises:
    UserError: naming the keys that contradict the saved ones, or the file of other content.
  """
  old = saved.run.config
  if differing := configs.contradictions(configs.plain(old), config):
    raise UserError(
      f"--workdir {workdir}: holds a run of another config: {'; '.join(differing)}; "
      "use that config or another folder"
    )
  if store.fingerprint != saved.run.store_fingerprint:
    raise UserError(
      f"{store.path}: not the clip store that the run in {workdir} was started on; "
      "name that one in data.store or use another folder"
    )
  graphs = (old.graph, config.graph)
  if any(g.source != "store" or g.embeddings != "builtin" or g.ontology for g in graphs):
    for key, now, then in zip(
      ("source", "embeddings"),
      label_graph(config, saved.run.vocabulary, store),
      (saved.run.propagation, saved.run.label_embeddings),
    ):
      if now is not None and then is not None and not np.array_equal(now, then):
        raise UserError(
          f"graph.{key}: another content than the run in {workdir} was started with; "
          "name that file or use another folder"
        )
  return dataclasses.replace(saved.run, config=config)


def evaluated_behind(saved: Loaded, workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The logged evaluation of a checkpoint that was saved before that; at most one."""
  if any(record["step"] == saved.step for record in saved.history):
    return []
  logged = [record for record in read_records(workdir) if "mAP" in record]
  return [record for record in logged if record["step"] == saved.step][-1:]


class _Training:
  """One start of a run: what the loop needs at hand."""

  def __init__(
    self,
    run: Run,
    store: ClipStore,
    mesh: jax.sharding.Mesh,
    manager: Any,
    workdir: str | os.PathLike,
    history: list[dict[str, Any]],
    stop: StopRequest,
  ):
    self.run, self.store, self.mesh, self.manager = run, store, mesh, manager
    self.workdir, self.history, self.stop = workdir, list(history), stop
    self.config = run.config
    model = run.model()
    self.train_step = make_train_step(
      model,
      optimiser(self.config.optim),
      mesh,
      normaliser=run.normaliser,
      augment_config=self.config.augment,
      seed=self.config.seed,
    )
    self.score_step = make_score_step(model, mesh, normaliser=run.normaliser)
    self.validation = split_clips(store, self.config.data, "validation")
    self.rate = learning_rate_schedule(self.config.optim)

  def run_to_end(self, state: TrainState | None) -> TrainState:
    """The loop."""
    config, steps = self.config, self.config.optim.steps
    if state is None:
      state = jax.device_put(self.run.initial_state(), sharding.replicated(self.mesh))
      self.save(state)
    start = int(state.step)
    log = RunLog(self.workdir, start, steps, config.data.batch_size)
    share = Share(jax.process_index(), jax.process_count())
    feed = batches(self.store, clips_of_steps(config, self.store), start, steps, share)
    pending, since = None, (time.monotonic(), start)
    try:
      for step in range(start, steps):
        if step > 0 and self.boundary(step):
          self.check(pending)
          self.evaluate_and_save(step, state, log)
          since = (time.monotonic(), step)  # the rate is that of training alone
        self.stop.check()
        batch = sharding.place(next(feed), self.mesh)
        state, metrics = self.train_step(state, batch, self.rate_factor())
        self.check(pending)  # the step before: this one is under way
        pending = (step, metrics)
        log.stepped(step + 1)
        if (step + 1) % config.log.every == 0 or step + 1 == steps:
          self.check(pending)
          elapsed = time.monotonic() - since[0]
          values = {name: float(value) for name, value in metrics.items()}
          values["learning_rate"] = float(self.rate(step)) * self.rate_factor()
          values["clips_per_second"] = (step + 1 - since[1]) * config.data.batch_size / elapsed
          log.record(step + 1, values, "train")
          since = (time.monotonic(), step + 1)
      self.check(pending)
      if start >= steps:
        log.say(f"{self.workdir}: the run is at step {start}, nothing is left of {steps}")
      self.evaluate_and_save(max(start, steps), state, log)
    except Stopped as stopped:
      self.check(pending)
      self.save(state)
      self.manager.wait_until_finished()
      log.say(
        f"{stopped}: saved step {int(state.step)} in {self.workdir}; the command goes on there"
      )
      raise
    finally:
      log.close()
    self.manager.wait_until_finished()
    return state

  def boundary(self, step: int) -> bool:
    """Whether something is to be evaluated or saved before this step."""
    return step % self.config.evaluation.every == 0 or step % self.config.checkpoint.every == 0

  def evaluate_and_save(self, step: int, state: TrainState, log: RunLog) -> None:
    """Validate where that is due (always at the end), then save."""
    due = step % self.config.evaluation.every == 0 or step == self.config.optim.steps
    evaluated = any(record["step"] == step for record in self.history)
    if due and not evaluated and len(self.validation):
      scores, labels = score_clips(
        self.score_step,
        state.variables,
        self.store,
        self.validation,
        self.config.evaluation.batch_size,
        self.mesh,
        before_batch=self.stop.check,
      )
      if not np.isfinite(scores).all():
        raise self.failure(step, "a score of a validation clip is not finite")
      metrics = tagging_metrics(scores, labels)
      values = {name: finite_or_none(metrics[name]) for name in ("mAP", "mAUC", "d_prime")}
      self.history.append({"step": step, **values})
      log.record(step, values, "validation")
      log.say(f"step {step}: validation mAP {metrics['mAP']:.4f}, mAUC {metrics['mAUC']:.4f}")
    self.save(state)

  def save(self, state: TrainState) -> None:
    """Begin a checkpoint, unless this step has one."""
    step = int(state.step)
    if step in self.manager.all_steps():
      return
    description = self.run.description() | {"history": self.history}
    here = [record["mAP"] for record in self.history if record["step"] == step]
    checkpoint.save(
      self.manager, state, self.run.constants(), description, here[0] if here else None
    )

  def rate_factor(self) -> float:
    """What the plateau rule makes of the learning rate.

    An evaluation at the end of a shorter run does not count, so that a run that is made longer is
    the same as one that was so long from the start.
    """
    optim, every = self.config.optim, self.config.evaluation.every
    values = [record["mAP"] for record in self.history if record["step"] % every == 0]
    return plateau_factor(
      [value for value in values if value is not None],
      factor=optim.plateau_factor,
      patience=optim.plateau_patience,
    )

  def check(self, pending: tuple[int, dict[str, jax.Array]] | None) -> None:
    """Stop the run if a step's loss or gradient is not finite."""
    if pending is None:
      return
    step, metrics = pending
    for name, value in metrics.items():
      if not math.isfinite(float(value)):
        raise self.failure(step, f"the {name.replace('_', ' ')} is {float(value)}")

  def failure(self, step: int, what: str) -> WorkFailed:
    """The end of a run whose numbers have run away."""
    self.manager.wait_until_finished()
    kept = checkpoint.saved_steps(self.workdir)
    return WorkFailed(
      f"step {step}: {what}; stopped, the last good checkpoint is that of step {kept[-1]} in "
      f"{self.workdir}; try a lower optim.learning_rate, or optim.clip_norm, in another folder"
    )


def clips_of_steps(config, store: ClipStore):
  """step → clip numbers int64 of its global batch, a pure function of (seed, step)."""
  clips = split_clips(store, config.data, "train")
  try:
    if config.data.sampling == "balanced":
      sampler = sampling.balanced_sampler(clips, *store.labels_of(clips), config.seed)
    else:
      sampler = sampling.shuffled_sampler(clips, config.seed)
  except ValueError as error:
    raise UserError(f"data.train_folds: {store.path}: {error}; name other folds") from error
  size = config.data.batch_size * augment.clips_per_example(config.augment)
  return functools.partial(sampling.draw, sampler, batch=size)
