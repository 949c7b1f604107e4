"""AT-GCN with 1 layer: a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .428, mAUC .971, d' 2.711. The recipe `common` is that of the reruns in that table;
its settings are the defaults. Not trained by this project so far.

The folder `data.root` has the clip store `audioset.h5` of `atgcn prepare` (folds `train` and
`eval`) and, in `audioset/`, `class_labels_indices.csv`, `cooccurrence.npz` (counts of labels and
pairs) and `glove_300d.npz` (word vectors of the label names).

  atgcn train --config configs/table1/atgcn_1.py --workdir runs/atgcn_1 \\
    --config.data.root=DATA

The recipe `original` is that of the authors' released code: their form of the graph from the counts
of the balanced set, from a trained CNN10 on (in `runs/cnn10`) at a rate of 3e-5, which is lowered
by a tenth whenever three evaluations have brought nothing.
"""

import ml_collections


def get_config(recipe="common"):
  """Returns the settings of a recipe, `common` or `original`; what is not named has its default."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: one of common, original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    layers=1,
    hidden=256,
    dropout=dict(block=0.2, pooled=0.5, embedding=0.5),
  )
  config.graph = dict(
    source="audioset/cooccurrence.npz", counts_set="full", embeddings="audioset/glove_300d.npz"
  )
  config.data = dict(
    root="data",
    store="audioset.h5",
    vocabulary="audioset/class_labels_indices.csv",
    train_folds=("train",),
    validation_folds=(),
    test_folds=("eval",),
    validation_share=0.01,
    batch_size=64,
  )
  if recipe == "original":
    config.graph.update(method="author", counts_set="balanced")
    config.optim = dict(learning_rate=3e-5, plateau_factor=0.9, plateau_patience=3)
    config.start = dict(run="runs/cnn10", step="best")
  return config
