"""The runs of a table or figure: training, resuming and scoring."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError, reason
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiment_configs import Settings, experiment_config, run_name
from atgcn_jax.paper.experiments import Experiment
from atgcn_jax.runs.checks import check_config, check_data, check_workdir
from atgcn_jax.runs.config import (
  config_from_json,
  contradictions,
  plain_config,
)
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.load import find_checkpoints, read_run
from atgcn_jax.runs.run import check_training_clips, run_with
from atgcn_jax.runs.run_store import training_store
from atgcn_jax.runs.schedule import with_passes
from atgcn_jax.runs.scoring import score_split
from atgcn_jax.runs.start import beginning, continued, layout_of
from atgcn_jax.runs.training_loop import train
from atgcn_jax.runtime.process_setup import compute_reproducibly
from atgcn_jax.runtime.whole_files import write_result
from atgcn_jax.training.step import Normaliser


class ScoredRun(NamedTuple):
  """A finished run, with scores float32[N, K] and labels uint8[N, K] of its test clips."""

  experiment: Experiment
  seed: int
  fold: str
  workdir: pathlib.Path
  scores: np.ndarray
  labels: np.ndarray
  vocabulary: tuple[str, ...]


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
  missing = [run for run in runs if validation_map(run) is None]
  check_runs(missing, settings.out)
  with held(settings.out) if missing else contextlib.nullcontext():
    for run in missing:
      train(run.config, run.workdir, f"[choice] {run.workdir.name}")
      jax.clear_caches()
  return [validation_map(run) or 0.0 for run in runs]


def set_up_process(runs: Iterable[Wanted]) -> None:
  """Compute reproducibly if a run asks for it. All runs of a reproduction share this process."""
  if any(run.config.deterministic for run in runs):
    compute_reproducibly()


def validation_map(run: Wanted) -> float | None:
  """Return the best validation mAP of a run that has made all its steps, else None."""
  sound = find_checkpoints(run.workdir).sound
  if sound is None or sound != run.config.optim.steps:
    return None
  saved = read_run(run.workdir, sound)
  if contradictions(plain_config(saved.run.config), run.config):
    return None
  return max((record["mAP"] or 0.0 for record in saved.history), default=None)


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
      continued(saved, run.config, store, run.workdir)
    elif run.experiment.name not in built:
      bands = np.ones(store.frontend.n_mels, np.float32)
      run_with(run.config, store, Normaliser(0 * bands, bands)).abstract_state()
      built.add(run.experiment.name)


def read_scores(path: pathlib.Path, config: Any, store: ClipStore, step: str) -> tuple | None:
  """Read the scores, labels and label names of a run that finished under a config.

  Returns:
    None if the file does not exist, or has another config, store or kind of step.

  Raises:
    UserError: The file is damaged.
  """
  if not path.is_file():
    return None
  saved = read_arrays(path)
  try:
    # A key that is younger than the file has its default.
    old = plain_config(config_from_json(json.loads(str(saved["config"]))))
    names, scores, labels = (saved[name] for name in ("names", "scores", "labels"))
    if (scores.dtype, scores.ndim, labels.shape) != (np.float32, 2, scores.shape):
      raise ValueError("the arrays are not scores and labels")
    if names.dtype.kind != "U" or names.shape != scores.shape[1:] or not np.isfinite(scores).all():
      raise ValueError("the names do not fit the scores, or a score is not finite")
    of_store, of_step = str(saved["store"]), str(saved.get("step", "latest"))  # older: no step
  except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{path}: cannot be read as scores ({reason(error)}); remove it, and the run is scored again"
    ) from error
  finished = old["optim"]["steps"] == config.optim.steps and of_store == store.fingerprint
  if not (finished and of_step == step) or contradictions(old, config):
    return None
  return scores, labels, tuple(names.tolist())


def score_and_write(
  path: pathlib.Path, workdir: pathlib.Path, config: Any, store: ClipStore, step: str
) -> tuple:
  """Score a finished run on its test clips and write the file that `read_scores` reads.

  The file appears under its name when it is complete.

  Returns:
    Scores, labels and label names.
  """
  last = str(config.optim.steps)
  scored = score_split(workdir, last if step == "latest" else step, None, "test")
  names = scored.vocabulary.names
  content = io.BytesIO()
  np.savez_compressed(
    content,
    scores=scored.scores,
    labels=scored.labels,
    clip_ids=scored.clip_ids,
    names=np.array(names),
    config=np.array(json.dumps(plain_config(config))),
    store=np.array(store.fingerprint),
    step=np.array(step),
  )
  write_result(path, content.getvalue())
  return scored.scores, scored.labels, names
