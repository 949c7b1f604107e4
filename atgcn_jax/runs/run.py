"""The run: all parts built from a config and a store, and their form in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from atgcn_jax import models
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.data.normaliser import band_statistics
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import Matrix, pack_matrices, unpacked
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models.layers import Placement
from atgcn_jax.runs.config import config_from_json, plain_config
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.label_graph import (
  RELATIONS,
  label_graph,
  label_relations,
)
from atgcn_jax.runs.parts import model_of, optimiser_of
from atgcn_jax.runs.saved_form import FORMAT, check_constants, checked_description
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.losses import Loss, loss_of
from atgcn_jax.training.state import TrainState, initial_state
from atgcn_jax.training.step import Normaliser


@dataclass(frozen=True)
class Run:
  """Everything a run needs except its clips and its training state.

  Attributes:
    config: The config.
    vocabulary: The K labels.
    frontend: The front end.
    normaliser: The mean and deviation of the log-mels.
    propagation: [K, K], an array or SciPy's csr_array, or None for a system without a graph.
    label_embeddings: [K, E], or None for a system without a graph.
    range_db: The range below the peak of a clip, in dB, to which the training log-mels are limited,
      or None if they are not limited.
    store_fingerprint: The fingerprint of the training store, empty for imported weights.
    relations: The inputs of the loss terms; see `label_relations`.
    draws_unlabelled: Whether balanced sampling draws clips without a label. False for runs of an
      old version.
    rules: 0 for runs of an old version, in which `data.validation_share` held out pieces of files,
      and mixup left out clips of some batch sizes; else 1.
    carried_labels: A hash of the labels of the training store with `data.ontology_targets`, else
      empty.
  """

  config: Any
  vocabulary: Vocabulary
  frontend: Frontend
  normaliser: Normaliser
  propagation: Matrix | None
  label_embeddings: np.ndarray | None
  range_db: float | None
  store_fingerprint: str
  relations: Mapping[str, Any] = field(default_factory=dict)
  draws_unlabelled: bool = True
  rules: int = 1
  carried_labels: str = ""

  def model(self) -> nn.Module:
    """Return the module of the system."""
    return model_of(self.config.model, self.vocabulary, self.propagation, self.label_embeddings)

  @property
  def length_step(self) -> int:
    """The number of samples to whose multiples sound shorter than a clip is padded with silence.

    This is the length of a clip, as in the store of the training. Imported weights have no store:
    where their encoder takes any length, it is a second, because the code that they come from does
    not pad.
    """
    imported = not self.store_fingerprint
    at_own_length = imported and self.config.model.encoder in models.ANY_LENGTH
    return self.frontend.sample_rate if at_own_length else self.frontend.samples

  def takes(self, frontend: Frontend) -> bool:
    """Return whether log-mels of a front end are inputs of the system.

    It is the front end of the run. For encoders that take any length, clips may have another one.
    """
    if self.config.model.encoder in models.ANY_LENGTH:
      frontend = replace(frontend, seconds=self.frontend.seconds)
    return frontend == self.frontend

  def for_inference(
    self, placement: Placement | None = None
  ) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that adds precomputed inference constants to the variables of `model()`.

    The constants are label vectors made by a graph, and convolutions with folded batch norms.
    """
    shape = (self.frontend.frames, self.frontend.n_mels)
    return models.with_constants(self.model(), shape, placement)

  def label_vectors(self, variables: Any) -> np.ndarray:
    """Return the label vectors float[K, C] of the head with these variables of `model()`.

    The computation is on the first device of this process.
    """
    silence = np.zeros((1, self.frontend.frames, self.frontend.n_mels), np.float32)
    features: Any = self.model().apply(jax.device_get(variables), silence, return_features=True)
    return np.asarray(features["label_vectors"])

  def augmentation(self) -> Augmentation:
    """Return the settings of the augmentation."""
    return Augmentation(**self.config.augment)

  def loss(self) -> Loss:
    """Return the loss function."""
    return loss_of(self.relations, **self.config.loss)

  def optimiser(self) -> optax.GradientTransformation:
    """Return the optimiser."""
    return optimiser_of(self.config.optim, frozen_encoder=self.config.model.freeze_encoder)

  def initial_state(self, where: Any = None) -> TrainState:
    """Return the state before the first step, with these shardings (default: on one device)."""
    # On a CPU, XLA would take 9 s to optimise a program that runs once and briefly.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(self._initial_state, out_shardings=where, compiler_options=quick)()

  def abstract_state(self) -> TrainState:
    """Return the shapes and types of the training state."""
    return jax.eval_shape(self._initial_state)

  def _initial_state(self) -> TrainState:
    shape = (self.frontend.frames, self.frontend.n_mels)
    return initial_state(self.model(), self.optimiser(), self.config.seed, shape)

  def constants(self) -> dict[str, np.ndarray]:
    """Return the arrays that a checkpoint stores in addition to the state."""
    arrays = {"mean": self.normaliser.mean, "deviation": self.normaliser.deviation}
    if self.propagation is not None and self.label_embeddings is not None:
      arrays |= {"propagation": self.propagation, "label_embeddings": self.label_embeddings}
    return pack_matrices(arrays | dict(self.relations))

  def description(self) -> dict[str, Any]:
    """Return the other values that a checkpoint stores, as JSON."""
    return {
      "format": FORMAT,
      "config": plain_config(self.config),
      "label_ids": list(self.vocabulary.ids),
      "label_names": list(self.vocabulary.names),
      "frontend": self.frontend.as_json(),
      "range_db": self.range_db,
      "store_fingerprint": self.store_fingerprint,
      "draws_unlabelled": self.draws_unlabelled,
      "rules": self.rules,
      "carried_labels": self.carried_labels,
    }


class Loaded(NamedTuple):
  """A checkpoint: its step and run, the evaluations so far, and the arrays that were read."""

  step: int
  run: Run
  history: list[dict[str, Any]]
  state: Any


class NotFinite(ValueError):  # noqa: N818 (the name states the fault; the message is the array)
  """An array with NaN or infinite values, or with deviations that are not positive.

  The message is the name of the array.
  """


def run_from_saved(description: dict[str, Any], constants: dict[str, Any]) -> Run:
  """Return the run described by the items `run` and `constants` of a checkpoint.

  Raises:
    NotFinite: If one of the constants has invalid values.
    ValueError: If an item has other content.
  """
  saved = checked_description(description)
  vocabulary = Vocabulary(tuple(saved["label_ids"]), tuple(saved["label_names"]))
  frontend = saved["frontend"]
  if name := first_not_finite(constants):
    raise NotFinite(name)
  constants = unpacked(constants)
  check_constants(constants, frontend.n_mels, len(vocabulary))
  mean, deviation = constants["mean"], constants["deviation"]
  if not (np.asarray(deviation) > 0).all():
    raise NotFinite("deviation")
  return Run(
    config=config_from_json(saved["config"]),
    vocabulary=vocabulary,
    frontend=frontend,
    normaliser=Normaliser(mean, deviation, frontend.uint8_range),
    propagation=constants.get("propagation"),
    label_embeddings=constants.get("label_embeddings"),
    range_db=saved["range_db"],
    store_fingerprint=saved["store_fingerprint"],
    relations={name: constants[name] for name in RELATIONS if name in constants},
    draws_unlabelled=saved.get("draws_unlabelled", False),
    rules=saved.get("rules", 0),
    carried_labels=saved.get("carried_labels", ""),
  )


def named_apart(needed: Frontend, other: Frontend) -> tuple[str, str, str]:
  """Return names of two front ends with the first difference, and how to prepare for the first one.

  The length of a clip is the last difference, because some systems take any.
  """
  if needed.name != other.name:
    return needed.name, other.name, f"with --frontend {needed.name}"
  ours, theirs = asdict(needed), asdict(other)
  differing = [key for key in ours if ours[key] != theirs[key] and key != "seconds"]
  if differing:
    key = differing[0]
    with_values = [f"{needed.name} with {key} {values[key]}" for values in (ours, theirs)]
    return with_values[0], with_values[1], "with the version of this package that made the run"
  lengths = [f"{needed.name} for clips of {one.seconds:g} s" for one in (needed, other)]
  return lengths[0], lengths[1], f"with --seconds {needed.seconds:g}"


def check_front_end(run: Run, store: ClipStore, name: str) -> None:
  """Refuse a store whose clips are no inputs of a run.

  Args:
    run: The run.
    store: The store.
    name: What the message calls the run, such as `the run runs/demo`.

  Raises:
    UserError: If the store has another front end.
  """
  if not run.takes(store.frontend):
    needed, found, advice = named_apart(run.frontend, store.frontend)
    raise UserError(
      f"{store.path}: has the front end {found}, but {name} needs {needed}; prepare the store "
      f"{advice}"
    )


def new_run(config, store: ClipStore) -> Run:
  """Return a new run of a config on a store.

  The normaliser and the graph are computed from the training clips. If the store has a normaliser,
  that one is used.

  Raises:
    UserError: If the clips, labels or graph cannot be used for training.
  """
  check_training_clips(config, store)
  clips, stored = split_clips(store, splits_of(config), "train"), store.normaliser
  mean, deviation = band_statistics(store, clips) if stored is None else (stored[0], stored[1])
  return run_with(config, store, Normaliser(mean, deviation, store.frontend.uint8_range))


def check_training_clips(config, store: ClipStore) -> None:
  """Refuse a store without training clips, or with another front end than named.

  Raises:
    UserError: If there is no training clip, or `data.frontend` differs.
  """
  splits = splits_of(config)
  if not len(split_clips(store, splits, "train")):
    if clips := len(split_clips(store, splits._replace(validation_share=0.0), "train")):
      raise UserError(
        f"data.validation_share {splits.validation_share:g}: all {clips} clips of the training "
        f"folds of {store.path} are used for validation; lower it"
      )
    raise UserError(
      f"data.train_folds: {store.path} has no clip in these folds; name folds of the store"
    )
  if config.data.frontend not in ("", store.frontend.name):
    raise UserError(
      f"data.frontend {config.data.frontend!r}: {store.path} has {store.frontend.name}; prepare it "
      f"with --frontend {config.data.frontend}"
    )


def run_with(config, store: ClipStore, normaliser: Normaliser) -> Run:
  """Return the run of a config on a store with this normaliser.

  Raises:
    UserError: If the graph cannot be used, or the encoder cannot take the embeddings of the store.
  """
  propagation, embeddings = label_graph(config, store.vocabulary, store)
  run = Run(
    config=config,
    vocabulary=store.vocabulary,
    frontend=store.frontend,
    normaliser=normaliser,
    propagation=propagation,
    label_embeddings=embeddings,
    range_db=store.frontend.uint8_range if store.log_mel.dtype == np.uint8 else None,
    store_fingerprint=store.fingerprint,
    relations=label_relations(config, store.vocabulary, store),
    carried_labels=store.labels_hash() if config.data.ontology_targets else "",
  )
  if store.frontend.value_limit is not None:
    check_takes_embeddings(run)
  return run


def check_takes_embeddings(run: Run) -> None:
  """Refuse an encoder that cannot take the few embeddings of a clip.

  Raises:
    UserError: If it cannot.
  """
  try:
    run.abstract_state()
  except (ValueError, TypeError, ZeroDivisionError) as error:
    encoder, frontend = run.config.model.encoder, run.frontend
    raise UserError(
      f"model.encoder {encoder}: cannot take clips of {frontend.frames} embeddings of "
      f"{frontend.n_mels} values ({frontend.name}); use multilevel_attention_embeddings"
    ) from error
