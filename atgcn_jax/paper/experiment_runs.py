"""The runs of a table or figure: training, resuming and scoring."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiment_configs import Settings, experiment_config, run_name
from atgcn_jax.paper.experiments import Experiment
from atgcn_jax.paper.score_files import names_the_same, read_scores, score_and_write
from atgcn_jax.runs.checks import check_config, check_data, check_workdir
from atgcn_jax.runs.config import (
  contradictions,
  plain_config,
)
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import find_checkpoints, read_run
from atgcn_jax.runs.run import Loaded, check_training_clips, run_with
from atgcn_jax.runs.run_store import training_store
from atgcn_jax.runs.schedule import with_passes
from atgcn_jax.runs.start import beginning, continued, layout_of
from atgcn_jax.runs.training_loop import train
from atgcn_jax.runtime.process_setup import compute_reproducibly
from atgcn_jax.training.step import Normaliser


class ScoredRun(NamedTuple):
  """A finished run, with scores float32[N, K] and labels uint8[N, K] of its test clips."""

  experiment: Experiment
  seed: int
  fold: str
  workdir: pathlib.Path
  scores: np.ndarray
  labels: np.ndarray


class Wanted(NamedTuple):
  """A run that a reproduction in the folder `out` needs."""

  experiment: Experiment
  fold: str
  seed: int
  config: Any
  out: pathlib.Path

  @property
  def workdir(self) -> pathlib.Path:
    """The run directory."""
    return self.out / "runs" / run_name(self.experiment.name, self.fold, self.seed)

  @property
  def scores(self) -> pathlib.Path:
    """The file of the scores, written when the run is finished."""
    return self.out / "scores" / f"{self.workdir.name}.npz"


def wanted_runs(
  experiments: Iterable[Experiment], settings: Settings, store: ClipStore
) -> list[Wanted]:
  """Return the runs of experiments, for all folds and seeds of the settings.

  The steps of their configs are those that `optim.passes` needs.
  """

  def config_of(experiment: Experiment, fold: str, seed: int) -> Any:
    config = experiment_config(experiment, settings, store, fold, seed)
    if not config.optim.passes:
      return config
    return with_passes(config, len(split_clips(store, splits_of(config), "train")))

  return [
    Wanted(experiment, fold, seed, config_of(experiment, fold, seed), settings.out)
    for experiment in experiments
    for fold in settings.folds or ("",)
    for seed in range(settings.seeds)
  ]


def score_runs(runs: Sequence[Wanted], settings: Settings, store: ClipStore) -> list[ScoredRun]:
  """Train the missing runs, and return the scores of all runs, in the same order.

  Finished runs are kept, interrupted runs are resumed. All runs are checked before the first one is
  trained.

  Raises:
    UserError: The settings, the store or a folder cannot be used.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  set_up_process(runs)
  ended = [read_scores(run.scores, run.config, store, settings.step) for run in runs]
  missing = [run for run, scores in zip(runs, ended) if scores is None]
  check_runs(missing, settings.out)
  done = []
  with held(settings.out) if missing else contextlib.nullcontext():
    for number, (run, scores) in enumerate(zip(runs, ended), 1):
      title = f"[{number}/{len(runs)}] {run.workdir.name}"
      began = time.monotonic()
      if scores is None:
        train(run.config, run.workdir, title)
        scores = score_and_write(run.scores, run.workdir, run.config, store, settings.step)
        took = f"in {datetime.timedelta(seconds=round(time.monotonic() - began))}"
        jax.clear_caches()  # no other run uses these compiled programs
      else:
        took = "was done"
      scored = ScoredRun(run.experiment, run.seed, run.fold, run.workdir, *scores)
      precision = tagging_metrics(scored.scores, scored.labels)["mAP"]
      print(f"{title}: mAP {precision:.4f}, {took}", file=sys.stderr, flush=True)
      done.append(scored)
  return done


def validate_runs(runs: Sequence[Wanted], settings: Settings, store: ClipStore) -> list[float]:
  """Train the missing runs, and return the best validation mAP of each run.

  Raises:
    UserError: The settings, the store or a folder cannot be used, or no clip validates.
    Stopped: SIGTERM or Ctrl-C arrived, and the current run is saved.
  """
  if not all(len(split_clips(store, splits_of(run.config), "validation")) for run in runs):
    raise UserError(
      f"--head-rates: {store.path} has no validation clips; set --config.data.validation_share"
    )
  set_up_process(runs)
  ended = [finished_run(run) for run in runs]
  missing = [
    run
    for run, saved in zip(runs, ended)
    if saved is None or not names_the_same(plain_config(saved.run.config), run.config)
  ]
  check_runs(missing, settings.out)
  with held(settings.out) if missing else contextlib.nullcontext():
    for run in missing:
      train(run.config, run.workdir, f"[choice] {run.workdir.name}")
      jax.clear_caches()
  return [validation_map(run, settings.step) for run in runs]


def set_up_process(runs: Iterable[Wanted]) -> None:
  """Compute reproducibly if a run asks for it. All runs of a reproduction share this process."""
  if any(run.config.deterministic for run in runs):
    compute_reproducibly()


def finished_run(run: Wanted) -> Loaded | None:
  """Return the last checkpoint of a run that has made all steps of its config, else None."""
  sound = find_checkpoints(run.workdir).sound
  if sound is None or sound != run.config.optim.steps:
    return None
  saved = read_run(run.workdir, sound)
  return None if contradictions(plain_config(saved.run.config), run.config) else saved


def validation_map(run: Wanted, step: str) -> float:
  """Return the validation mAP of a finished run at the step that is tested, `latest` or `best`.

  Raises:
    UserError: It is undefined.
  """
  saved = finished_run(run)
  assert saved is not None
  found = [record["mAP"] for record in saved.history if record["mAP"] is not None]
  if not found:
    raise UserError(
      f"--head-rates: the validation mAP of {run.workdir} is undefined; add validation clips with "
      "and without each label"
    )
  return found[-1] if step == "latest" else max(found)


def check_runs(missing: Sequence[Wanted], out: pathlib.Path) -> None:
  """Check that every missing run can be trained and scored, before the first one starts.

  The graph and the sizes of a system are checked for its first run. `start.run` is not checked,
  because the baseline that it names may not be trained yet.

  Args:
    missing: The runs to train.
    out: Output folder of the reproduction.

  Raises:
    UserError: A run cannot be trained or scored; the message names the key, file or folder.
  """
  if missing:
    refuse_if_held(out)
  built = set()
  for run in missing:
    check_config(run.config)
    layout_of(**run.config.sharding)
    check_workdir(run.workdir)
    store = training_store(run.config)  # may have some of the labels only
    refuse_if_held(run.workdir)
    check_data(run.config, store)
    check_training_clips(run.config, store)
    if not len(split_clips(store, splits_of(run.config), "test")):
      raise UserError(
        f"data.test_folds: {store.path} has no clip in these folds; name folds of the store"
      )
    saved = beginning(run.config, store, run.workdir).saved
    if saved is not None:
      _check_baseline(saved.run.config.start.run, run)
      continued(saved, run.config, store, run.workdir)
    elif run.experiment.name not in built:
      bands = np.ones(store.frontend.n_mels, np.float32)
      run_with(run.config, store, Normaliser(0 * bands, bands)).abstract_state()
      built.add(run.experiment.name)


def _check_baseline(begun_with: str, run: Wanted) -> None:
  """Refuse a run that started from another baseline, such as one with another rate.

  Raises:
    UserError: If it did.
  """
  old, new = (os.path.basename(path) for path in (begun_with, run.config.start.run))
  if old != new:
    raise UserError(
      f"{run.workdir}: started from {old or 'no run'}, and now it is to start from "
      f"{new or 'none'}; remove the folder, and it is trained again"
    )
