"""AT-GCN with 2 layers that begins as a trained CNN10, as in the code of Wang et al. (2020).

Not trained by this project so far.

The folder `data.root` has the clip store `audioset.h5` of `atgcn prepare` (folds `train` and
`eval`) and, in `audioset/`, `class_labels_indices.csv`, `cooccurrence.npz` (counts of labels and
pairs) and `glove_300d.npz` (word vectors of the label names).

  atgcn train --config configs/table1/atgcn_restart.py --workdir runs/atgcn_restart \\
    --config.data.root=DATA

The encoder begins with the parameters of the best step of the run in `start.run`; the rate is 3e-5
and lowered by a tenth whenever three evaluations have brought nothing. The graph is the paper's;
for the authors' own form see the recipe `original` of `atgcn_2.py`.
"""

import ml_collections


def get_config():
  """Returns the settings; what is not named here keeps its default."""
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
