"""AT-GCN (two layers) on AudioSet with the settings of Wang et al. (IEEE SPL 2020).

Published: mAP .434, mAUC .974, d' 2.736 (the paper's Table I). This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`,
`cooccurrence.npz` (counts of labels and pairs) and `glove_300d.npz` (word vectors of the label
names).

  atgcn train --config configs/atgcn_audioset.py --workdir runs/atgcn --config.data.root=DATA
"""

import ml_collections


def get_config():
  """Return the settings; other keys keep their defaults."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    width=1.0,
    dtype="bfloat16",
    dropout=dict(block=0.2, pooled=0.5, embedding=0.5),
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
    store="audioset.h5",
    vocabulary="audioset/class_labels_indices.csv",
    train_folds=("train",),
    validation_folds=(),
    test_folds=("eval",),
    validation_share=0.01,
    sampling="balanced",
    batch_size=64,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.2, time_stripes=2, time_width=64, band_stripes=2, band_width=8
  )
  config.optim = dict(steps=600_000, learning_rate=1e-3, schedule="constant")
  config.evaluation = dict(every=2000, batch_size=64)
  config.checkpoint = dict(every=2000, keep=2)
  config.log = dict(every=100)
  return config
