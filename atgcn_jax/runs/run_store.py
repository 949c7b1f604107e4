"""Opening of the clip store that a config names, with the labels to train on."""

from __future__ import annotations

import numpy as np

from atgcn_jax.data.open_clips import open_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import label_ancestors
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary
from atgcn_jax.ontology_metrics import carried_up
from atgcn_jax.runs.config import data_path, vocabulary_path
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.label_graph import ontology_at, ontology_path
from atgcn_jax.runtime.process_setup import cache_folder, home_cache


def store_of(config) -> ClipStore:
  """Return the store of a config, with the labels of `data.vocabulary` if it is set.

  The built-in soundscapes are made at first use and cached.

  Raises:
    UserError: If the store or the vocabulary cannot be used, or the store lacks one of its labels.
  """
  store = whole_store_of(config)
  if not config.data.vocabulary:
    return store
  path = vocabulary_path(config.data.root, config.data.vocabulary)
  wanted = read_vocabulary(path)
  for label_id, name in zip(wanted.ids, wanted.names):
    if label_id not in store.vocabulary.index:
      raise UserError(
        f"{store.path}: lacks the label {label_id} ({name}) of {path}; prepare the store with that "
        "vocabulary, or remove the label"
      )
  return store if wanted.ids == store.vocabulary.ids else store.restricted(wanted)


def training_store(config) -> ClipStore:
  """Return the store of a config with the labels to train on.

  With `data.forgotten_positives`, some labels are removed at random. With `data.ontology_targets`,
  each clip also has the labels above its own in the ontology.

  Raises:
    UserError: If the store, the vocabulary or the ontology cannot be used.
  """
  store, share = store_of(config), config.data.forgotten_positives
  if share:
    drawn = np.random.default_rng([config.seed, 1]).random(len(store.label_indices))
    store = store.with_positives(drawn >= share)
  if not config.data.ontology_targets:
    return store
  return store.carried_up(_ancestors(config, store.vocabulary))


def trained_labels(config, vocabulary: Vocabulary, labels: np.ndarray) -> np.ndarray:
  """Return labels [N, K] in the form that a run is trained with: see `data.ontology_targets`.

  Raises:
    UserError: If the ontology cannot be used.
  """
  if not config.data.ontology_targets:
    return labels
  return carried_up(labels, _ancestors(config, vocabulary))


def _ancestors(config, vocabulary: Vocabulary) -> list[list[int]]:
  """Return the positions of the labels above each label of a vocabulary in the ontology."""
  path = ontology_path(config.data.root, config.graph.ontology)
  return label_ancestors(ontology_at(path, "data.ontology_targets"), vocabulary.ids)


def whole_store_of(config) -> ClipStore:
  """Return the store of a config with all its labels."""
  if config.data.store != SOUNDSCAPES:
    return open_clips(data_path(config.data.root, config.data.store))
  # Importing the synthesis takes a second.
  from atgcn_jax.data.prepare import prepare_soundscapes
  from atgcn_jax.data.synthetic.soundscapes import VERSION

  clips = config.data.soundscape_clips
  name = f"soundscapes-{VERSION}-{clips}.h5"
  cached = home_cache()
  if cached is not None and (cached / name).is_file():  # the home cache may be read-only
    return open_clips(cached / name)
  path = cache_folder() / name
  if not path.exists():
    prepare_soundscapes(path, clips, seed=0)  # waits for another process that makes the store
  return open_clips(path)
