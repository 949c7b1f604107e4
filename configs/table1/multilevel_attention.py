"""Multi-level attention: a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .362, mAUC .970, d' 2.667 (the rerun; .360, .970, 2.660 by its authors). The recipe
`common` is that of the reruns in that table; its settings are the defaults. Not trained by this
project so far.

The folder `data.root` has the clip store `audioset.h5` of `atgcn prepare` (folds `train` and
`eval`) and, in `audioset/`, `class_labels_indices.csv`.

  atgcn train --config configs/table1/multilevel_attention.py --workdir runs/multilevel_attention \\
    --config.data.root=DATA

The recipe `original` is that of Yu et al. (DCASE 2018): ten embeddings of 128 numbers a clip
instead of log-mels (a clip store of that shape), 500 clips a step, no mixup, no SpecAugment.
"""

import ml_collections


def get_config(recipe="common"):
  """Returns the settings of a recipe, `common` or `original`; what is not named has its default."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: one of common, original")
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
