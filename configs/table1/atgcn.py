"""AT-GCN, three rows of Table I of Wang et al. (IEEE SPL 2020): 2 layers unless overridden.

| `model.layers` | published mAP | mAUC | d' |
|---|---|---|---|
| 1 | .428 | .971 | 2.711 |
| 2 | .434 | .974 | 2.736 |
| 3 | .430 | .972 | 2.715 |

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`,
`cooccurrence.npz` (counts of labels and pairs) and `glove_300d.npz` (word vectors of the label
names).

  atgcn train --config configs/table1/atgcn.py --workdir runs/atgcn_3 \\
    --config.data.root=DATA --config.model.layers=3

The recipe `restart` (`--config configs/table1/atgcn.py:restart`) starts from a trained CNN10 (the
best step of the run in `runs/cnn10`), as the authors' released code does. The learning rate is
3e-5; it is reduced by 10 % after three evaluations without improvement. The recipe `original` also
has the authors' form of the graph, from the counts of the balanced set.
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe: `common`, `restart` or `original`."""
  if recipe not in ("common", "restart", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common, restart or original")
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
  if recipe != "common":
    config.optim = dict(learning_rate=3e-5, plateau_factor=0.9, plateau_patience=3)
    config.start = dict(run="runs/cnn10", step="best")
  return config
