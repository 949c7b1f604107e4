"""The inputs of a config's training that the compiled step depends on: sizes, graph, relations."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy

from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.data.splits import split_clips
from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.labels.sparse import DENSE_LABELS
from atgcn_jax.labels.vocabulary import AUDIOSET, Vocabulary, read_vocabulary
from atgcn_jax.models import ON_VECTORS
from atgcn_jax.runs.config import data_path, vocabulary_path
from atgcn_jax.runs.config_defaults import SOUNDSCAPES
from atgcn_jax.runs.folds import splits_of
from atgcn_jax.runs.label_graph import label_graph, label_relations
from atgcn_jax.runs.parts import model_of
from atgcn_jax.runs.run_store import store_of

AUDIOSET_CLIPS, AUDIOSET_LABELS = 2_041_789, 527
EDGES = 30  # edges per label of a random graph


class Data(NamedTuple):
  """Sizes of the data that a config trains on.

  Attributes:
    classes: Number of labels.
    frames: Number of frames in a clip.
    bands: Number of mel bands.
    dtype: Type of the stored log-mels.
    clips: Number of clips in the store.
    train_clips: Number of training clips.
    stored_bytes: Bytes of all clips on disk.
    assumed: Assumptions made for files that do not exist, as text.
    vocabulary: The labels, or None if no file names them.
    store: The clip store, or None if it does not exist.
  """

  classes: int
  frames: int
  bands: int
  dtype: str
  clips: int
  train_clips: int
  stored_bytes: int
  assumed: list[str]
  vocabulary: Vocabulary | None = None
  store: ClipStore | None = None


def plan_data(config: Any) -> Data:
  """Return the sizes of the config's store or vocabulary, or those of AudioSet without either.

  A store that does not exist is that of the front end in `data.frontend`.

  Raises:
    UserError: If a file cannot be used, or there is no such front end.
  """
  path = data_path(config.data.root, config.data.store)
  if config.data.store != SOUNDSCAPES and os.path.exists(path):
    store = store_of(config)
    clips, frames, bands = store.log_mel.shape
    dtype = str(store.log_mel.dtype)
    train = len(split_clips(store, splits_of(config), "train"))
    classes, size = len(store.vocabulary), stored_size(path)
    return Data(classes, frames, bands, dtype, clips, train, size, [], store.vocabulary, store)
  clips, classes, vocabulary, assumed = AUDIOSET_CLIPS, AUDIOSET_LABELS, None, []
  frames, bands, dtype = clip_form(config)
  if config.data.store == SOUNDSCAPES:
    from atgcn_jax.data.synthetic.soundscapes import soundscape_vocabulary

    vocabulary, clips = soundscape_vocabulary(), config.data.soundscape_clips
  else:
    assumed.append(
      f"{clips:,} clips of {frames} frames and {bands} bands, as {path} does not exist"
    )
    named = vocabulary_path(config.data.root, config.data.vocabulary)
    if named == AUDIOSET or (config.data.vocabulary and os.path.exists(named)):
      vocabulary = read_vocabulary(named)
    else:
      missing = "the config names no vocabulary"
      if config.data.vocabulary:
        missing = f"{named} does not exist"
      assumed.append(f"AudioSet's {classes} labels, as {missing}")
  classes = len(vocabulary) if vocabulary else classes
  size = clips * clip_bytes(classes, frames, bands, dtype)
  return Data(classes, frames, bands, dtype, clips, clips, size, assumed, vocabulary)


def clip_form(config: Any) -> tuple[int, int, str]:
  """Return the frames, bands and type of the clips in a store that does not exist yet.

  Raises:
    UserError: If there is no front end of the name in `data.frontend`.
  """
  if config.model.encoder in ON_VECTORS:
    return 10, 128, "uint8"
  name = config.data.frontend or "talnet"
  if name not in FRONTENDS:
    raise UserError(f"data.frontend must be one of {', '.join(FRONTENDS)}, got {name!r}")
  frontend = FRONTENDS[name]
  dtype = "uint8" if frontend.log_offset is None else "float16"  # as `atgcn prepare` stores them
  return frontend.frames, frontend.n_mels, dtype


def stored_size(path: str) -> int:
  """Return the bytes of a file, or of all files in a folder."""
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(
    os.path.getsize(os.path.join(folder, name))
    for folder, _, names in os.walk(path)
    for name in names
  )


def clip_bytes(classes: int, frames: int, bands: int, dtype: str) -> int:
  """Return the bytes of one clip: its log-mels, its peak, and one bit per label."""
  return frames * bands * np.dtype(dtype).itemsize + 4 + math.ceil(classes / 8)


def graph_of(config: Any, data: Data) -> tuple[Any, list[str]]:
  """Return the label graph if the compiled step depends on it, and the assumptions made.

  With a dense graph, the step depends only on its size. In this case the graph is None.
  """
  if config.model.head != "graph" or data.classes <= DENSE_LABELS:
    return None, []
  if data.vocabulary is not None and (data.store is not None or config.graph.source != "store"):
    return label_graph(config, data.vocabulary, data.store)[0], []
  random = np.random.default_rng(0)
  rows = np.repeat(np.arange(data.classes), EDGES)
  columns = random.integers(0, data.classes, rows.size)
  weights = np.full(rows.size, 1 / EDGES, "f")
  random_graph = scipy.sparse.csr_array((weights, (rows, columns)), shape=(data.classes,) * 2)
  return random_graph, [f"a graph with {EDGES} edges per label, as its clips or counts are missing"]


def check_model(model: Any, embedding_size: int, classes: int) -> None:
  """Check the `model` section of a config.

  Raises:
    UserError: A key is invalid; the message names the valid values.
  """
  labels = tuple(map(str, range(classes)))
  graph = scipy.sparse.csr_array((classes, classes), dtype="f")
  vectors = np.zeros((classes, embedding_size), "f")
  model_of(model, Vocabulary(labels, labels), graph, vectors)


def relations_of(config: Any, data: Data) -> Mapping[str, Any]:
  """Return the label relations that the loss of a config needs.

  Raises:
    UserError: The loss needs labels or a file that the config does not name.
  """
  if not any(config.loss.values()):
    return {}
  if data.vocabulary is None:
    raise UserError("data.vocabulary: the config's loss needs the labels; name a CSV or a store")
  return label_relations(config, data.vocabulary, data.store)
