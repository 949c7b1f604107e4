"""EfficientAT's networks on AudioSet, to import their published weights and to fine-tune them.

The argument is the name of a network, such as mn10, whose digits are ten times the width. It is
mn04 by default. `atgcn models get mn10 --out DIR` fetches and imports a network with the same
settings, and `atgcn models` lists them. This config is for a file that you already have:

  atgcn import-torch FILE.pt --config configs/pretrained/mn.py:mn10 --workdir runs/mn10
  atgcn tag --workdir runs/mn10 recording.wav
"""

import ml_collections

NETWORKS = ("mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40", "mn40_ext")


def get_config(name="mn04"):
  """Return the settings of a network; other keys keep their defaults."""
  if name not in NETWORKS:
    raise ValueError(f"no network {name!r}; write one of {', '.join(NETWORKS)}")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="mobilenet",
    head="linear",
    width=int(name[2:4]) / 10,
    dtype="float32",
    dropout=dict(block=0.0, pooled=0.0, embedding=0.2),
  )
  # The folds are the usual ones, for stores of your own clips.
  config.data = dict(
    root="data",
    store="audioset.h5",
    vocabulary="audioset",
    frontend="efficientat",
    sampling="balanced",
    batch_size=64,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.2, time_stripes=2, time_width=64, band_stripes=2, band_width=16
  )
  return config
