"""EfficientAT's mn04 on AudioSet, to import its published weights and to fine-tune them.

Published: mAP .432 (Schmid et al., ICASSP 2023). The weights are the file `mn04_as_mAP_432.pt` of
release v0.0.1 of EfficientAT (MIT). The other networks of the release differ only in
`--config.model.width`, which is 1.0 for mn10.

  atgcn import-torch mn04_as_mAP_432.pt --config configs/pretrained/mn04.py --workdir runs/mn04
  atgcn tag --workdir runs/mn04 recording.wav
"""

import ml_collections


def get_config():
  """Return the settings; other keys keep their defaults."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = dict(
    encoder="mobilenet",
    head="linear",
    width=0.4,
    dtype="float32",
    dropout=dict(block=0.0, pooled=0.0, embedding=0.2),
  )
  config.data = dict(
    root="data",
    store="audioset.h5",
    vocabulary="audioset",
    frontend="efficientat",
    train_folds=("train",),
    validation_folds=(),
    test_folds=("eval",),
    validation_share=0.01,
    sampling="balanced",
    batch_size=64,
  )
  config.augment = dict(
    form="authors", mixup_alpha=0.2, time_stripes=2, time_width=64, band_stripes=2, band_width=16
  )
  return config
