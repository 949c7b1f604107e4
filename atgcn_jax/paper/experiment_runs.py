"""The runs behind a table or figure: trained where missing, taken up where cut, scored once."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.metrics import tagging_metrics
from atgcn_jax.paper.experiments import BEGUN_WITH, CNN10, Experiment
from atgcn_jax.runs.checks import (
  beginning,
  check_config,
  check_data,
  check_workdir,
  continued,
  layout_of,
)
from atgcn_jax.runs.config import (
  SOUNDSCAPES,
  config_with_overrides,
  contradictions,
  default_config,
  load_config,
  plain_config,
)
from atgcn_jax.runs.folder_lock import held, refuse_if_held
from atgcn_jax.runs.run import check_training_clips, run_with, store_of
from atgcn_jax.runs.scoring import score_split
from atgcn_jax.runs.training_loop import train
from atgcn_jax.training.step import Normaliser


class Settings(NamedTuple):
  """What all runs of a reproduction share.

  `folds` are the folds to test on in turn, each time trained on all others; empty where the config
  names the folds. `overrides` are arguments --config.KEY=VALUE.
  """

  store: str
  out: pathlib.Path
  configs: pathlib.Path
  seeds: int
  folds: tuple[str, ...]
  overrides: tuple[str, ...]


class ScoredRun(NamedTuple):
  """A finished run: its scores float32[N, K] of the test clips, their labels uint8[N, K]."""

  experiment: Experiment
  seed: int
  fold: str
  workdir: pathlib.Path
  scores: np.ndarray
  labels: np.ndarray
  vocabulary: tuple[str, ...]


class Wanted(NamedTuple):
  """A run of a reproduction in the folder `out`."""

  experiment: Experiment
  fold: str
  seed: int
  config: Any
  out: pathlib.Path

  @property
  def workdir(self) -> pathlib.Path:
    """Its run directory."""
    return self.out / "runs" / run_name(self.experiment, self.fold, self.seed)

  @property
  def scores(self) -> pathlib.Path:
    """The file of its scores once it is done."""
    return self.out / "scores" / f"{self.workdir.name}.npz"


def run_all(wanted: Sequence[Experiment], settings: Settings) -> dict[str, list[ScoredRun]]:
  """The scores of these experiments by name, all seeds and folds of each; trains what is missing.

  A run that is done is not touched, one that was interrupted is resumed. All are checked before the
  first is trained.

  Raises:
    UserError: for settings, a store or a folder that cannot be used.
    Stopped: after SIGTERM or Ctrl-C, once the run under way is saved.
  """
  # The baseline first: others may begin with its parameters.
  by_name = {experiment.name: experiment for experiment in (CNN10, *wanted)}
  folds = settings.folds or ("",)
  store = open_experiment_store(settings)
  runs = [
    Wanted(
      experiment,
      fold,
      seed,
      experiment_config(experiment, settings, store, fold, seed),
      settings.out,
    )
    for experiment in by_name.values()
    for fold in folds
    for seed in range(settings.seeds)
  ]
  ended = [read_scores(run.scores, run.config, store) for run in runs]
  missing = [run for run, scores in zip(runs, ended) if scores is None]
  check_runs(missing, settings.out, store)
  done: dict[str, list[ScoredRun]] = {name: [] for name in by_name}
  with held(settings.out) if missing else contextlib.nullcontext():
    for number, (run, scores) in enumerate(zip(runs, ended), 1):
      title = f"[{number}/{len(runs)}] {run.workdir.name}"
      began = time.monotonic()
      if scores is None:
        train(run.config, run.workdir, title)
        scores = score_and_write(run.scores, run.workdir, run.config, store)
        took = f"in {datetime.timedelta(seconds=round(time.monotonic() - began))}"
        jax.clear_caches()  # of programs that no further run uses
      else:
        took = "was done"
      scored = ScoredRun(run.experiment, run.seed, run.fold, run.workdir, *scores)
      precision = tagging_metrics(scored.scores, scored.labels)["mAP"]
      print(f"{title}: mAP {precision:.4f}, {took}", file=sys.stderr, flush=True)
      done[run.experiment.name].append(scored)
  return done


def check_runs(missing: Sequence[Wanted], out: pathlib.Path, store: ClipStore) -> None:
  """Refuse what the training or scoring of a missing run would refuse, before any starts.

  The graph and the sizes of a system are checked for its first run; start.run is not, as the
  baseline that it names may not be trained yet.

  Raises:
    UserError: naming the key, file or folder.
  """
  if missing:
    refuse_if_held(out)
  built = set()
  for run in missing:
    check_config(run.config)
    layout_of(run.config)
    check_workdir(run.workdir)
    refuse_if_held(run.workdir)
    check_data(run.config, store)
    check_training_clips(run.config, store)
    if not len(split_clips(store, run.config.data, "test")):
      raise UserError(f"data.test_folds: {store.path} has no clip to test on; name its folds")
    saved = beginning(run.config, store, run.workdir).saved
    if saved is not None:
      continued(saved, run.config, store, run.workdir)
    elif run.experiment.name not in built:
      bands = np.ones(store.frontend.n_mels, np.float32)
      run_with(run.config, store, Normaliser(0 * bands, bands)).abstract_state()
      built.add(run.experiment.name)


def open_experiment_store(settings: Settings) -> ClipStore:
  """The store; the built-in soundscapes are made where they are asked for."""
  store = settings.store if settings.store == SOUNDSCAPES else os.path.abspath(settings.store)
  given = [change for change in settings.overrides if change.startswith("--config.data.soundscape")]
  return store_of(config_with_overrides(default_config(), [f"--config.data.store={store}", *given]))


def run_name(experiment: Experiment, fold: str, seed: int) -> str:
  """What the files of a run are called."""
  return f"{experiment.name}{f'-fold{fold}' if fold else ''}-seed{seed}"


def experiment_config(
  experiment: Experiment, settings: Settings, store: ClipStore, fold, seed
) -> Any:
  """The config of a run: the system's file, what the store needs, the user's, the experiment's."""
  file = settings.configs / f"{experiment.config}.py"
  if not file.is_file():
    raise UserError(f"--configs {settings.configs}: has no {file.name}; name the folder table1")
  baseline = settings.out.absolute() / "runs" / run_name(CNN10, fold, seed)
  ours = [change.replace(BEGUN_WITH, f"start.run={baseline}") for change in experiment.changes]
  # Counts are the training clips' unless the user names a file, as Eq. 5 has it; files are looked
  # for where the store is, in the folder that one stands in.
  first = ["data.root=", "data.vocabulary=", "graph.source=store", "graph.embeddings=builtin"]
  name = settings.store
  if name == SOUNDSCAPES:
    first.append("graph.ontology=soundscapes")
  else:
    name = os.path.abspath(name)
  # Of a key given twice the last counts.
  changes = [
    f"--config.{change}" for change in [*first, *split_of(store, fold), f"data.store={name}"]
  ]
  ours = [f"--config.{change}" for change in [*ours, f"seed={seed}"]]
  return load_config(file, [*changes, *settings.overrides, *ours])


def split_of(store: ClipStore, fold: str) -> list[str]:
  """The changes that name the folds to train, validate and test on.

  Raises:
    UserError: for a fold that the store does not have, or folds whose use is not known.
  """
  present = sorted(set(store.folds.tolist()))
  split: tuple[tuple[str, ...], ...]
  if fold:
    if fold not in present:
      raise UserError(f"--folds: {store.path} has no fold {fold}; it has {', '.join(present)}")
    split = tuple(name for name in present if name != fold), (), (fold,)
  elif present == ["eval", "train"]:
    split = ("train",), (), ("eval",)
  elif present == ["test", "train", "validation"]:
    split = ("train",), ("validation",), ("test",)
  else:
    raise UserError(
      f"{store.path}: has the folds {', '.join(present)}; name those to test on in --folds"
    )
  keys = ("train_folds", "validation_folds", "test_folds")
  return [f"data.{key}={folds!r}" for key, folds in zip(keys, split)]


def read_scores(path: pathlib.Path, config: Any, store: ClipStore) -> tuple | None:
  """Scores, labels and label names of a run that ended under this config; None for any other."""
  if not path.is_file():
    return None
  with np.load(path) as saved:
    old = json.loads(str(saved["config"]))
    ended = old["optim"]["steps"] == config.optim.steps and saved["store"] == store.fingerprint
    if not ended or contradictions(old, config):
      return None
    return saved["scores"], saved["labels"], tuple(saved["names"].tolist())


def score_and_write(
  path: pathlib.Path, workdir: pathlib.Path, config: Any, store: ClipStore
) -> tuple:
  """What `read_scores` gives, of a run that has just ended; written under its name when whole."""
  scored = score_split(workdir, str(config.optim.steps), None, "test")
  names = scored.vocabulary.names
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".tmp.npz")
  np.savez_compressed(
    temporary,
    scores=scored.scores,
    labels=scored.labels,
    clip_ids=scored.clip_ids,
    names=np.array(names),
    config=np.array(json.dumps(plain_config(config))),
    store=np.array(store.fingerprint),
  )
  temporary.replace(path)
  return scored.scores, scored.labels, names
