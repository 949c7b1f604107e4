"""AT-GCN or CNN10 at a small width on the built-in soundscapes; trains in minutes on two cores.

atgcn train --config configs/quickstart.py --workdir runs/atgcn
atgcn train --config configs/quickstart.py --workdir runs/cnn10 --config.model.head=linear
"""

import ml_collections


def get_config():
  """Return the settings; other keys keep their defaults."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    width=0.125,
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
    store="soundscapes",
    soundscape_clips=2000,
    train_folds=("train",),
    validation_folds=("validation",),
    test_folds=("test",),
    sampling="balanced",
    batch_size=16,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.0, time_stripes=2, time_width=32, band_stripes=2, band_width=8
  )
  config.optim = dict(
    steps=500, learning_rate=3e-3, schedule="cosine", warmup_steps=25, final_factor=0.01
  )
  config.evaluation = dict(every=125, batch_size=40)
  config.checkpoint = dict(every=125, keep=2)
  config.log = dict(every=25)
  return config
