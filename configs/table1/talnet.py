"""TALNet, a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .367, mAUC .969, d' 2.638 for the paper's rerun;
.362, .965, 2.554 reported by its authors.

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`.

  atgcn train --config configs/table1/talnet.py --workdir runs/talnet \\
    --config.data.root=DATA

The recipe `original` is that of Wang, Li and Metze (ICASSP 2019): 250 clips per step, no mixup, no
SpecAugment.
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe, `common` or `original`; other keys keep their defaults."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common or original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="talnet", head="linear", dropout=dict(block=0.0, pooled=0.0, embedding=0.0)
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
    config.data.batch_size = 250
    config.augment = dict(mixup_alpha=0.0, time_stripes=0, band_stripes=0)
  return config
