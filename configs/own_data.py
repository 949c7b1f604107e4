"""A tagger of your own sounds: the number of steps follows the number of clips.

  atgcn train --config configs/own_data.py --workdir runs/mine --config.data.store=clips.h5

The store needs the folds train, validation and test, as `atgcn prepare --split 80/10/10` makes
them. There are 600 steps of 16 clips (`optim.steps`), or 8 passes over the training clips
(`optim.passes`) if these are more steps: 600 steps for up to 1200 clips, 5000 for 10,000. Labels
are drawn equally often. Stripes over time are short, so that the settings also fit clips of one
second.

With the name of one of EfficientAT's networks as the argument, training starts from it. It needs
clips of its front end and its run:

  atgcn prepare --frontend efficientat …
  atgcn models get mn04 --out runs/mn04
  atgcn train --config configs/own_data.py:mn04 --workdir runs/mine --config.data.store=clips.h5
"""

import ml_collections

# EfficientAT's networks, as `atgcn models` lists them.
NETWORKS = ("mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40", "mn40_ext")


def get_config(pretrained=""):
  """Return the settings; other keys keep their defaults."""
  if pretrained and pretrained not in NETWORKS:
    raise ValueError(f"no network {pretrained!r}; write one of {', '.join(NETWORKS)}")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    width=0.25,
    dtype="float32",
    dropout=dict(block=0.0, pooled=0.2, embedding=0.2),
    layers=2,
    hidden=256,
    activation="leaky_relu",
    negative_slope=0.2,
  )
  config.graph = dict(
    method="paper", threshold=0.3, neighbour_weight=0.2, source="store", embeddings="builtin"
  )
  config.data = dict(
    store="clips.h5",
    train_folds=("train",),
    validation_folds=("validation",),
    test_folds=("test",),
    sampling="balanced",
    batch_size=16,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.2, time_stripes=2, time_width=16, band_stripes=2, band_width=8
  )
  config.optim = dict(
    steps=600, passes=8.0, learning_rate=3e-3, schedule="cosine", warmup_steps=30, final_factor=0.01
  )
  config.evaluation = dict(every=100, batch_size=40)
  config.checkpoint = dict(every=100, keep=2)
  config.log = dict(every=20)
  if pretrained:
    config.model.update(encoder="mobilenet", head="linear", width=int(pretrained[2:4]) / 10)
    config.data.frontend = "efficientat"
    config.augment.band_width = 16
    config.optim.learning_rate = 1e-3
    config.start = dict(run=f"runs/{pretrained}", step="latest")
  return config
