"""A ResNet with attention in the style of DeepRes, a row of Table I of Wang et al. (IEEE SPL 2020).

Published: mAP .392, mAUC .971, d' 2.682, reported by its authors.

The recipe `common` has the settings of the paper's reruns, which are the defaults of this package.
This project has not trained it yet.

The folder `data.root` must contain the clip store `audioset.h5`, written by `atgcn prepare` with
the folds `train` and `eval`. Its subfolder `audioset/` must contain `class_labels_indices.csv`.

  atgcn train --config configs/table1/deepres.py --workdir runs/deepres \\
    --config.data.root=DATA

The recipe `original` is the recipe `common` without mixup and SpecAugment, which Ford et al.
(Interspeech 2019) do not mention. They do not report all settings of their own recipe.
"""

import ml_collections


def get_config(recipe="common"):
  """Return the settings of a recipe, `common` or `original`; other keys keep their defaults."""
  if recipe not in ("common", "original"):
    raise ValueError(f"recipe {recipe!r}: must be common or original")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="deepres", depth=50, head="linear", dropout=dict(block=0.0, pooled=0.0, embedding=0.0)
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
    config.augment = dict(mixup_alpha=0.0, time_stripes=0, band_stripes=0)
  return config
