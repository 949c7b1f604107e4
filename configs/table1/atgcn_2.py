"""AT-GCN with 2 layers, a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .434, mAUC .974, d' 2.736.

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`,
`cooccurrence.npz` (counts of labels and pairs) and `glove_300d.npz` (word vectors of the label
names).

  atgcn train --config configs/table1/atgcn_2.py --workdir runs/atgcn_2 \\
    --config.data.root=DATA

The recipe `original` has the settings of the authors' released code. The graph has their form and
uses the counts of the balanced set. Training starts from a trained CNN10 (in `runs/cnn10`) at a
learning rate of 3e-5, which is reduced by 10 % after three evaluations without improvement.
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe, `common` or `original`; other keys keep their defaults."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common or original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10",
    head="graph",
    layers=2,
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
