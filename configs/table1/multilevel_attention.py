"""Multi-level attention, a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .362, mAUC .970, d' 2.667 for the paper's rerun;
.360, .970, 2.660 reported by its authors.

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`.

  atgcn train --config configs/table1/multilevel_attention.py --workdir runs/multilevel_attention \\
    --config.data.root=DATA

The recipe `original` is that of Yu et al. (DCASE 2018): 500 clips per step, no mixup, no
SpecAugment. It needs a clip store of ten embeddings of 128 numbers per clip instead of log-mels,
written by `atgcn prepare --layout audioset-features`, and the folds of that store:

  --config.data.train_folds="('bal_train','unbal_train')"
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe, `common` or `original`; other keys keep their defaults."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common or original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="multilevel_attention",
    head="linear",
    dropout=dict(block=0.4, pooled=0.0, embedding=0.0),
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
    config.model.encoder = "multilevel_attention_embeddings"
    config.data.batch_size = 500
    config.augment = dict(mixup_alpha=0.0, time_stripes=0, band_stripes=0)
  return config
