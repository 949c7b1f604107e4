"""AT-GCN with 2 layers, started from a trained CNN10, as in the code of Wang et al. (2020).

This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`,
`cooccurrence.npz` (counts of labels and pairs) and `glove_300d.npz` (word vectors of the label
names).

  atgcn train --config configs/table1/atgcn_restart.py --workdir runs/atgcn_restart \\
    --config.data.root=DATA

The encoder starts with the parameters of the best step of the run in `start.run`. The learning rate
is 3e-5; it is reduced by 10 % after three evaluations without improvement. The graph is that of the
paper. For the graph of the authors' code see the recipe `original` of `atgcn_2.py`.
"""

import ml_collections


def get_config():
  """Return the settings; other keys keep their defaults."""
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
  config.optim = dict(learning_rate=3e-5, plateau_factor=0.9, plateau_patience=3)
  config.start = dict(run="runs/cnn10", step="best")
  return config
