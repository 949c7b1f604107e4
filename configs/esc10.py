"""AT-GCN or CNN10 on ESC-10: 400 recordings, folds 1 to 4 for training and fold 5 for testing.

The folder `data.root` must contain the clip store `esc10.h5`, written by

  atgcn prepare --audio DATA/esc10/audio --labels DATA/esc10/labels.csv --out DATA/esc10.h5 \\
    --vocabulary DATA/audioset/class_labels_indices.csv --used-labels-only

The subfolder `audioset/` must contain `cooccurrence.npz` and `glove_300d.npz`. The graph uses the
counts of all of AudioSet, restricted to the 26 labels. The ten classes have equal size, so clips
are drawn in shuffled passes; one queue per label would favour classes with many ancestors. There is
no fold to select a checkpoint with: fold 5 is only monitored during training, and the last step is
the result.

  atgcn train --config configs/esc10.py --workdir runs/esc10-atgcn --config.data.root=DATA
  atgcn train --config configs/esc10.py --workdir runs/esc10-cnn10 --config.data.root=DATA \\
    --config.model.head=linear
"""

import ml_collections


def get_config():
  """Return the settings; other keys keep their defaults."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    width=0.25,
    dtype="float32",
    dropout=dict(block=0.1, pooled=0.2, embedding=0.2),
    layers=2,
    hidden=256,
    activation="leaky_relu",
    negative_slope=0.2,
  )
  config.graph = dict(
    method="paper",
    threshold=0.3,
    neighbour_weight=0.2,
    source="audioset/cooccurrence.npz",
    counts_set="full",
    embeddings="audioset/glove_300d.npz",
    embedding_size=300,
  )
  config.data = dict(
    root="data",
    store="esc10.h5",
    train_folds=("1", "2", "3", "4"),
    validation_folds=("5",),
    test_folds=("5",),
    sampling="shuffled",
    batch_size=16,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.2, time_stripes=2, time_width=64, band_stripes=2, band_width=8
  )
  config.optim = dict(
    steps=600, learning_rate=2e-3, schedule="cosine", warmup_steps=30, final_factor=0.01
  )
  config.evaluation = dict(every=100, batch_size=40)
  config.checkpoint = dict(every=100, keep=2)
  config.log = dict(every=20)
  return config
