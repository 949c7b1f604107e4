"""From a config to all that a run is made of, and to and from what its checkpoints keep of it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from atgcn_jax import models
from atgcn_jax.audio.frontend import Frontend
from atgcn_jax.audio.quantisation import RANGE_DB
from atgcn_jax.data.normaliser import band_statistics
from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import Matrix, pack_matrices, unpacked
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary
from atgcn_jax.models.layers import Placement, activation
from atgcn_jax.runs.config import SOUNDSCAPES, config_from_json, data_path, plain_config
from atgcn_jax.runs.label_graph import RELATIONS, label_graph, label_relations
from atgcn_jax.runtime.process_setup import cache_folder, home_cache
from atgcn_jax.training.finite import first_not_finite
from atgcn_jax.training.losses import Loss, loss_of
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.state import TrainState, initial_state
from atgcn_jax.training.step import Normaliser


@dataclass(frozen=True)
class Run:
  """All that a run needs besides its clips and its training state.

  `propagation` [K, K], an array or of scipy's csr_array, and `label_embeddings` [K, E] are None for
  a system without a graph.
  `range_db` is how far below a clip's peak the log-mels that it trained on reach, None for all.
  `store_fingerprint` is empty for weights that came from elsewhere.
  `relations` holds what the loss asks for: see `label_relations`.
  `draws_unlabelled` is false of a run of a version whose balanced sampling drew no clip without a
  label.
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

  def model(self) -> nn.Module:
    """The system's module."""
    return model_of(self.config, self.vocabulary, self.propagation, self.label_embeddings)

  def for_inference(
    self, placement: Placement | None = None
  ) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What adds to the variables of `model()` what scoring can know before a clip comes."""
    shape = (self.frontend.frames, self.frontend.n_mels)
    return models.with_constants(self.model(), shape, placement)

  def loss(self) -> Loss:
    """What training makes smaller."""
    return loss_of(self.config.loss, self.relations)

  def optimiser(self) -> optax.GradientTransformation:
    """What makes steps of gradients."""
    return optimiser(self.config.optim, head_alone=self.config.model.freeze_encoder)

  def initial_state(self, where: Any = None) -> TrainState:
    """The state before the first step, lying as these shardings say (default: on one device)."""
    # On a CPU, XLA would take 9 s to optimise what runs once and for a moment.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(self._initial_state, out_shardings=where, compiler_options=quick)()

  def abstract_state(self) -> TrainState:
    """Shapes and types of the training state."""
    return jax.eval_shape(self._initial_state)

  def _initial_state(self) -> TrainState:
    shape = (self.frontend.frames, self.frontend.n_mels)
    return initial_state(self.model(), self.optimiser(), self.config.seed, shape)

  def constants(self) -> dict[str, np.ndarray]:
    """The arrays that a checkpoint keeps beside the state."""
    arrays = {"mean": self.normaliser.mean, "deviation": self.normaliser.deviation}
    if self.propagation is not None and self.label_embeddings is not None:
      arrays |= {"propagation": self.propagation, "label_embeddings": self.label_embeddings}
    return pack_matrices(arrays | dict(self.relations))

  def description(self) -> dict[str, Any]:
    """The rest that a checkpoint keeps, as JSON."""
    return {
      "config": plain_config(self.config),
      "label_ids": list(self.vocabulary.ids),
      "label_names": list(self.vocabulary.names),
      "frontend": asdict(self.frontend),
      "range_db": self.range_db,
      "store_fingerprint": self.store_fingerprint,
      "draws_unlabelled": self.draws_unlabelled,
    }


class NotFinite(ValueError):  # noqa: N818 (what is wrong with an array, which is its message)
  """The named array holds values that are NaN or infinite, or deviations that are not positive."""


def run_from_saved(description: dict[str, Any], constants: dict[str, Any]) -> Run:
  """The run that a checkpoint's items `run` and `constants` describe.

  Raises:
    NotFinite: Naming one of the constants.
  """
  if name := first_not_finite(constants):
    raise NotFinite(name)
  if not (np.asarray(constants["deviation"]) > 0).all():
    raise NotFinite("deviation")
  constants = unpacked(constants)
  return Run(
    config=config_from_json(description["config"]),
    vocabulary=Vocabulary(tuple(description["label_ids"]), tuple(description["label_names"])),
    frontend=Frontend(**description["frontend"]),
    normaliser=Normaliser(constants["mean"], constants["deviation"]),
    propagation=constants.get("propagation"),
    label_embeddings=constants.get("label_embeddings"),
    range_db=description["range_db"],
    store_fingerprint=description["store_fingerprint"],
    relations={name: constants[name] for name in RELATIONS if name in constants},
    draws_unlabelled=description.get("draws_unlabelled", False),
  )


def new_run(config, store: ClipStore) -> Run:
  """The run of a config on a store: its normaliser and graph come from the training clips.

  A normaliser that came with the store's clips is taken as it is.

  Raises:
    UserError: For clips, labels or a graph that the config cannot train on.
  """
  check_training_clips(config, store)
  clips, given = split_clips(store, config.data, "train"), store.normaliser
  mean, deviation = band_statistics(store, clips) if given is None else (given[0], given[1])
  return run_with(config, store, Normaliser(mean, deviation))


def check_training_clips(config, store: ClipStore) -> None:
  """Refuse a store without training clips, or with labels other than the config's vocabulary.

  Raises:
    UserError: Naming the key or the file.
  """
  if not len(split_clips(store, config.data, "train")):
    raise UserError(f"data.train_folds: {store.path} has no clip to train on; name its folds")
  if config.data.vocabulary:
    named = data_path(config, config.data.vocabulary)
    if read_vocabulary(named).ids != store.vocabulary.ids:
      raise UserError(f"{store.path}: its vocabulary is not that of {named}; prepare it with it")


def run_with(config, store: ClipStore, normaliser: Normaliser) -> Run:
  """The run of a config on a store with this normaliser.

  Raises:
    UserError: For a graph that cannot be used.
  """
  propagation, embeddings = label_graph(config, store.vocabulary, store)
  return Run(
    config=config,
    vocabulary=store.vocabulary,
    frontend=store.frontend,
    normaliser=normaliser,
    propagation=propagation,
    label_embeddings=embeddings,
    range_db=RANGE_DB if store.log_mel.dtype == np.uint8 else None,
    store_fingerprint=store.fingerprint,
    relations=label_relations(config, store.vocabulary, store),
  )


def model_of(config, vocabulary: Vocabulary, propagation, label_embeddings) -> nn.Module:
  """`models.build` with its complaints about the config turned to the user."""
  try:
    if config.model.head == "graph":
      activation(config.model.activation, config.model.negative_slope, jnp.dtype(jnp.float32))
    return models.build(
      config.model,
      num_classes=len(vocabulary),
      propagation=propagation,
      label_embeddings=label_embeddings,
    )
  except ValueError as error:
    raise UserError(f"--config: {error}") from error


def store_of(config) -> ClipStore:
  """The store a config names; the built-in soundscapes are made at first use and kept."""
  if config.data.store != SOUNDSCAPES:
    return open_clips(data_path(config, config.data.store))
  # Their synthesis takes a second to import.
  from atgcn_jax.data.prepare import prepare_soundscapes
  from atgcn_jax.data.synthetic.soundscapes import VERSION

  clips = config.data.soundscape_clips
  name = f"soundscapes-{VERSION}-{clips}.h5"
  kept = home_cache()
  if kept is not None and (kept / name).is_file():  # maybe where nothing can be written
    return open_clips(kept / name)
  path = cache_folder() / name
  with open(path.with_suffix(".lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of a host may want them
    if not path.exists():
      prepare_soundscapes(path, clips, seed=0)
  return open_clips(path)


def system_name(model: Any) -> str:
  """What a `model` section's system is called: by the paper, or by its encoder and head."""
  if model.encoder == "cnn10":
    return "AT-GCN" if model.head == "graph" else "CNN10"
  return f"{model.encoder} with {'a label graph' if model.head == 'graph' else 'a linear head'}"
