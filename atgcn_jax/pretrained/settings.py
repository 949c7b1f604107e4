"""The configs of the runs that pretrained weights become."""

from __future__ import annotations

from typing import Any

from atgcn_jax.labels.vocabulary import AUDIOSET
from atgcn_jax.pretrained.catalogue import Pretrained
from atgcn_jax.runs.config import default_config

# Dropout and augmentation for further training.
DROPOUT = {
  "mobilenet": {"block": 0.0, "pooled": 0.0, "embedding": 0.2},
  "cnn10": {"block": 0.2, "pooled": 0.5, "embedding": 0.0},
}
BAND_WIDTH = {"efficientat": 16, "panns": 8}


def config_of(model: Pretrained) -> Any:
  """Return the complete config of a pretrained network's run, for AudioSet and a linear head."""
  config = default_config()
  dropout = DROPOUT.get(model.encoder, DROPOUT["cnn10"])
  config.model.update(encoder=model.encoder, head="linear", width=model.width, dropout=dropout)
  # The folds are the usual ones, for stores of the user's own clips.
  config.data.update(root="data", store="audioset.h5", vocabulary=AUDIOSET, frontend=model.frontend)
  config.augment.band_width = BAND_WIDTH[model.frontend]
  return config
