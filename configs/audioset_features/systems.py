"""Systems on AudioSet's VGGish features: ten vectors of 128 numbers per clip.

The argument after the colon selects the system. mAP is that of the evaluation part after training
on the balanced part, with the time of training and test on two cores that other processes used too:

  linear                CNN10's last layer, on an encoder of the vectors: .260, 31 to 34 s
  wide                  the same with a layer on each vector and 2,048 units: .269, 5 minutes
  graph                 AT-GCN's last layers, on the same encoder: .209, 36 to 45 s;
                        .247 with --config.model.prior=0.005
  decision_attention    attention over the scores of the vectors: .226, 12 minutes
  feature_attention     attention over each feature of the vectors: .275, 11 minutes
  multilevel_attention  the system of Table I with this name, from a prior: .285, 10 minutes;
                        .291, 16 minutes, with mixup and on all clips (docs/results.md)

The folder `data.root` must contain the clip store `features.h5`, written by
`atgcn prepare --layout audioset-features`, and for `graph` the files that the section `graph`
names.

  atgcn train --config configs/audioset_features/systems.py:linear --workdir runs/linear \\
    --config.data.root=DATA

Sources: Wang et al., IEEE SPL 2020 (graph); Kong et al., TASLP 2019 (attention); Yu et al., DCASE
2018 (multi-level attention).
"""

import ml_collections

SYSTEMS = {
  "linear": dict(encoder="vectors", head="linear", frame_units=(), clip_units=(1024, 512)),
  "graph": dict(encoder="vectors", head="graph", frame_units=(), clip_units=(1024, 512)),
  "wide": dict(encoder="vectors", head="linear", frame_units=(512,), clip_units=(2048,)),
  "decision_attention": dict(
    encoder="vectors", head="linear", pooling="attention", frame_units=(1024,), clip_units=()
  ),
  "feature_attention": dict(
    encoder="vectors",
    head="linear",
    pooling="feature_attention",
    frame_units=(512,),
    clip_units=(1024,),
  ),
  "multilevel_attention": dict(encoder="multilevel_attention_embeddings", head="linear"),
}


def get_config(system="linear"):
  """Return the settings of a system; other keys keep their defaults."""
  if system not in SYSTEMS:
    raise ValueError(f"system {system!r}: must be one of {', '.join(SYSTEMS)}")
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.model = SYSTEMS[system]
  config.model.dropout = dict(block=0.3, pooled=0.1, embedding=0.3)
  config.graph = dict(
    source="audioset/cooccurrence.npz",
    counts_set="full",
    embeddings="audioset/glove_300d.npz",
  )
  config.data = dict(
    root="data",
    store="features.h5",
    train_folds=("bal_train",),
    validation_folds=(),
    test_folds=("eval",),
    validation_share=0.1,
    sampling="shuffled",
    batch_size=256,
    placement="device",
  )
  config.augment = dict(mixup_alpha=0.0, time_stripes=0, band_stripes=0)
  config.optim = dict(
    steps=1000,
    learning_rate=4e-3,
    schedule="cosine",
    head_factor=0.3 if system == "graph" else 3.0,
  )
  if system == "wide":
    config.model.dropout = dict(block=0.2, pooled=0.2, embedding=0.5)
    config.optim.learning_rate = 1e-3
  if system == "multilevel_attention":
    config.model.dropout = dict(block=0.4, pooled=0.0, embedding=0.0)
    config.model.prior = 0.005  # about the share of positive labels
  config.evaluation = dict(every=250, batch_size=1024)
  config.checkpoint = dict(every=250, keep=1)
  config.log = dict(every=50)
  return config
