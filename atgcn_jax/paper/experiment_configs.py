"""The settings of a reproduction, and the config of each of its runs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.paper.experiments import BASELINE, BEGUN_WITH, Experiment
from atgcn_jax.runs.built_graph import SETTINGS, is_built_graph
from atgcn_jax.runs.config import config_with_overrides, default_config, load_config
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.run_store import store_of


class Settings(NamedTuple):
  """The settings that all runs of a reproduction share.

  Attributes:
    store: Clip store, or `soundscapes`.
    out: Output folder.
    configs: Folder of the systems' config files. None for that of the store's kind.
    seeds: Number of seeds per system.
    folds: Folds to test on in turn, each time training on all other folds. If empty, there is one
      split, by the names of the folds.
    overrides: Arguments of the form --config.KEY=VALUE.
    step: Checkpoint to test, `latest` or `best` (on the validation clips).
    head_rates: Learning rates of the head, relative to the other parameters, from which each
      experiment takes the best on the validation clips. If empty, that of its config.
    baseline: Name of the baseline's runs, from which other experiments may start.
  """

  store: str
  out: pathlib.Path
  configs: pathlib.Path | None
  seeds: int
  folds: tuple[str, ...]
  overrides: tuple[str, ...]
  step: str = "latest"
  head_rates: tuple[float, ...] = ()
  baseline: str = BASELINE


def open_experiment_store(settings: Settings) -> ClipStore:
  """Open the store of a reproduction; the built-in soundscapes are generated if they are named."""
  store = settings.store if settings.store == SOUNDSCAPES else os.path.abspath(settings.store)
  sizes = [change for change in settings.overrides if change.startswith("--config.data.soundscape")]
  return store_of(config_with_overrides(default_config(), [f"--config.data.store={store}", *sizes]))


def run_name(experiment: str, fold: str, seed: int) -> str:
  """Return the name of a run of an experiment, which its files have."""
  return f"{experiment}{f'-fold{fold}' if fold else ''}-seed{seed}"


def experiment_config(
  experiment: Experiment, settings: Settings, store: ClipStore, fold, seed
) -> Any:
  """Return the config of a run.

  The config file of the system is changed by the settings of the store, then by the user's
  overrides, then by the changes of the experiment.

  Args:
    experiment: The experiment.
    settings: Settings of the reproduction.
    store: Clip store of the runs.
    fold: Fold to test on, or an empty string.
    seed: Seed of the run.

  Raises:
    UserError: The config file does not exist, or a fold or override is invalid.
  """
  system, *recipe = experiment.config.split(":")
  assert settings.configs is not None
  file = settings.configs / f"{system}.py"
  if not file.is_file():
    raise UserError(
      f"--configs {settings.configs}: has no {file.name}; name the folder configs/table1"
    )
  baseline = settings.out.absolute() / "runs" / run_name(settings.baseline, fold, seed)
  own = [change.replace(BEGUN_WITH, f"start.run={baseline}") for change in experiment.changes]
  # As in Eq. 5, the counts are those of the training clips, unless the user names a file. With an
  # empty data.root, relative paths start from the current folder.
  first = ["data.root=", "data.vocabulary=", "graph.source=store", "graph.embeddings=builtin"]
  name = settings.store
  if name == SOUNDSCAPES:
    first.append("graph.ontology=soundscapes")
  else:
    name = os.path.abspath(name)
  # The last override of a key takes effect.
  changes = [
    f"--config.{change}" for change in [*first, *split_of(store, fold), f"data.store={name}"]
  ]
  own = [f"--config.{change}" for change in [*own, f"seed={seed}"]]
  return load_config(":".join([str(file), *recipe]), [*changes, *settings.overrides, *own])


def refuse_built_graph(
  experiments: Iterable[Experiment], settings: Settings, store: ClipStore
) -> None:
  """Refuse a built graph as `graph.source` of experiments that set how the graph is built.

  Otherwise all of them would train on the same graph.

  Raises:
    UserError: It is one, or a config file, a fold or an override cannot be used.
  """
  keys = tuple(f"graph.{key}=" for key in SETTINGS)
  for experiment in experiments:
    if any(change.startswith(keys) for change in experiment.changes):
      config = experiment_config(experiment, settings, store, "".join(settings.folds[:1]), 0)
      if is_built_graph(config):
        raise UserError(
          f"graph.source: {config.graph.source} is a graph that is built already, but the run "
          f"{experiment.name} sets {' '.join(experiment.changes)}; name a file of counts, as "
          "`atgcn graph --counts-out` writes it"
        )


def split_of(store: ClipStore, fold: str) -> list[str]:
  """Return the config changes that name the folds to train, validate and test on.

  Args:
    store: The clip store.
    fold: Fold to test on, with all others for training. If empty, the folds must be named train
      and eval, or train, validation and test, or as the parts of AudioSet's features.

  Raises:
    UserError: The store does not have the fold, or its folds have other names.
  """
  present = sorted(set(store.folds.tolist()))
  split: tuple[tuple[str, ...], ...]
  if fold:
    if fold not in present:
      raise UserError(f"--folds: {store.path} has no fold {fold}; it has {', '.join(present)}")
    split = tuple(name for name in present if name != fold), (), (fold,)
  elif present == ["eval", "train"]:
    split = ("train",), (), ("eval",)
  elif present in (["bal_train", "eval"], ["bal_train", "eval", "unbal_train"]):  # AudioSet's names
    split = tuple(name for name in present if name != "eval"), (), ("eval",)
  elif present == ["test", "train", "validation"]:
    split = ("train",), ("validation",), ("test",)
  else:
    raise UserError(
      f"{store.path}: has the folds {', '.join(present)}; name the folds to test on with --folds"
    )
  keys = ("train_folds", "validation_folds", "test_folds")
  return [f"data.{key}={folds!r}" for key, folds in zip(keys, split)]
