"""CNN10: a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .422, mAUC .970, d' 2.653. The recipe `common` is that of the reruns in that table;
its settings are the defaults. Not trained by this project so far.

The folder `data.root` has the clip store `audioset.h5` of `atgcn prepare` (folds `train` and
`eval`) and, in `audioset/`, `class_labels_indices.csv`.

  atgcn train --config configs/table1/cnn10.py --workdir runs/cnn10 \\
    --config.data.root=DATA

The recipe `original` (`--config configs/table1/cnn10.py:original`) is PANNs': 32 clips a step,
mixup of pairs with Beta(1, 1) and SpecAugment behind the first batch norm, no dropout of the
embedding; its log-mels are those of `atgcn prepare --frontend panns` (Kong et al., PANNs, 2020: mAP
.380).
"""

import ml_collections


def get_config(recipe="common"):
  """Returns the settings of a recipe, `common` or `original`; what is not named has its default."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: one of common, original")
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
