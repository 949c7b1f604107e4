"""CNN10, a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .422, mAUC .970, d' 2.653.

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`.

  atgcn train --config configs/table1/cnn10.py --workdir runs/cnn10 \\
    --config.data.root=DATA

The recipe `original` (`--config configs/table1/cnn10.py:original`) is that of Kong et al., PANNs,
2020 (mAP .380): 32 clips per step, mixup of pairs with Beta(1, 1), SpecAugment after the first
batch norm, and no dropout of the embedding. It needs a store of `atgcn prepare --frontend panns`.
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe, `common` or `original`; other keys keep their defaults."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common or original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="cnn10", head="linear", dropout=dict(block=0.2, pooled=0.5, embedding=0.5)
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
    config.model.dropout.embedding = 0.0
    config.data.batch_size = 32
    config.augment = dict(form="panns", mixup_alpha=1.0)
  return config
