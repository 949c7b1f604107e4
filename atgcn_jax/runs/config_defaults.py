"""All keys of a config and their defaults."""

from __future__ import annotations

from typing import Any

SOUNDSCAPES = "soundscapes"  # stands for the built-in data in place of a path

# All keys and their defaults. A config file may omit keys that it does not change. The comments
# are the configuration reference in the documentation.
DEFAULTS: dict[str, Any] = {
  "seed": 0,  # Random seed of the initial parameters, clip order, augmentation and dropout.
  "model": {
    "encoder": "cnn10",  # Acoustic encoder; CONTRIBUTING.md explains how to add one.
    "depth": 50,  # Number of layers of the encoder `deepres`, 34 or 50.
    "frame_units": (),  # Units of each layer on frames, of the encoder `vectors`.
    "clip_units": (1024, 1024),  # Units of each layer after pooling, of the encoder `vectors`.
    # Pooling of frame scores, for encoders with frame outputs; or of features (`max_mean`,
    # `feature_attention`), for `vectors`. Empty selects the default of the encoder.
    "pooling": "",
    "head": "graph",  # `graph` (AT-GCN) or `linear` (CNN10).
    # Train only the head. The encoder runs in inference mode and keeps its parameters.
    "freeze_encoder": False,
    "width": 1.0,  # Multiplier of the channels of the encoder and of the hidden graph layers.
    "dtype": "float32",  # Compute type, float32 or bfloat16. Parameters are float32 with both.
    # Batch norm statistics in training: `global` over the batch, `local` over each device's clips.
    "batch_norm": "global",
    "dropout": {
      # Dropout rate after each convolution block; none in `deepres`, `google_cnn`, `mobilenet`.
      "block": 0.2,
      # Dropout rate after pooling over time, of `cnn10`, `cnn14` and `vectors` (features pooled).
      "pooled": 0.5,
      "embedding": 0.5,  # Dropout rate of the input of the head.
    },
    # Probability at which each score starts. Its log-odds are added to the logits; those of 0.5 are
    # 0, as in the paper. With many rare labels, set it to about the share of positive labels.
    "prior": 0.5,
    "layers": 2,  # Number of graph convolutions.
    "hidden": 256,  # Number of channels of the hidden graph layers, before `width`.
    "activation": "leaky_relu",  # Activation of the graph layers: leaky_relu, prelu or relu.
    "negative_slope": 0.2,  # Slope of leaky_relu below 0; initial slope of prelu.
  },
  "graph": {
    "method": "paper",  # Construction of the graph; see labels.adjacency.propagation_matrix.
    "threshold": 0.3,  # Threshold τ of Eq. 6, from 0 to 1.
    "neighbour_weight": 0.2,  # Total weight p of the neighbours in Eq. 7, from 0 to 1.
    # `store` (count the labels of the training clips), an .npz file of counts, or an .npz file
    # written by `atgcn graph`, whose own method, threshold and neighbour weight then count.
    "source": "store",
    "counts_set": "",  # `balanced`, `unbalanced` or `full`, if the .npz file has several counts.
    # Path of an ontology.json file, or `soundscapes`. Required by the method `ontology` and by
    # loss.hierarchy.
    "ontology": "",
    # Label vectors: `builtin`, `random`, `one_hot`, a GloVe text file or an .npz file.
    "embeddings": "builtin",
    # Length of the label vectors. Must match that of a file. Ignored for `one_hot`.
    "embedding_size": 300,
  },
  "data": {
    # Folder that relative paths in the sections data and graph start from. Empty stands for the
    # current folder of each command.
    "root": "",
    # File of `atgcn prepare`, folder of `atgcn tfds`, or `soundscapes` (built-in data).
    "store": "soundscapes",
    "soundscape_clips": 2000,  # Number of clips of the built-in data.
    # CSV file of the labels to train on, or `audioset` for AudioSet's 527. The store must have all
    # of them; its other labels are ignored. Empty stands for all labels of the store.
    "vocabulary": "",
    # Whether clips are trained and validated with the labels above their own in graph.ontology.
    # `evaluate` has both forms.
    "ontology_targets": False,
    # Share of all labels of clips that are removed at random before training, also from validation
    # clips (a study of noise).
    "forgotten_positives": 0.0,
    # Front end of imported weights; empty stands for `talnet`. If set, the store of a training must
    # have the same front end.
    "frontend": "",
    "train_folds": ("train",),  # Names of the folds to train on.
    "validation_folds": ("validation",),  # Names of the folds to validate on.
    "test_folds": ("test",),  # Names of the folds to test on.
    # Share of the clips of the training folds that validates instead, chosen by a hash of the id.
    # Pieces of one file are together.
    "validation_share": 0.0,
    "allow_test_overlap": False,  # Allow the same fold in train_folds and in test_folds.
    # `balanced` (all classes equally often; clips without a label in proportion to their number,
    # at most half) or `shuffled` (passes over all clips; required for TFRecord data on the host).
    "sampling": "balanced",
    "batch_size": 64,  # Number of examples per step, over all devices.
    # `host` (the host reads each batch) or `device` (training clips stay in device memory).
    "placement": "host",
  },
  "augment": {
    "form": "authors",  # Order of mixup and SpecAugment, `authors` or `panns`.
    "mixup_alpha": 0.2,  # Parameter of the Beta distribution of mixup weights. 0 disables mixup.
    "time_stripes": 2,  # Number of SpecAugment stripes over time.
    "time_width": 64,  # Maximum width of a time stripe, in frames.
    "band_stripes": 2,  # Number of SpecAugment stripes over frequency.
    "band_width": 8,  # Maximum width of a frequency stripe, in mel bands.
  },
  "optim": {
    "steps": 600_000,  # Number of training steps.
    # Minimum number of passes over the training clips. Above 0, there are more steps than
    # optim.steps where that many passes need them.
    "passes": 0.0,
    "learning_rate": 1e-3,  # Peak learning rate of Adam.
    "head_factor": 1.0,  # Multiplier of the learning rate of the head's parameters.
    # Learning rate after warm-up: `constant`, `cosine`, `linear` or `exponential`.
    "schedule": "constant",
    "warmup_steps": 0,  # Number of steps of linear warm-up.
    # Learning rate at the last step, as a fraction of the peak. Ignored by `constant`; above 0 for
    # `exponential`.
    "final_factor": 0.0,
    "b1": 0.9,  # Decay rate of Adam's first moment.
    "b2": 0.999,  # Decay rate of Adam's second moment.
    "eps": 1e-8,  # Term that Adam adds to the denominator.
    "clip_norm": 0.0,  # Maximum global norm of the gradients. 0 disables clipping.
    # Multiplier of the learning rate each time that validation mAP stops improving. 1 disables
    # the rule.
    "plateau_factor": 1.0,
    "plateau_patience": 3,  # Number of evaluations without improvement before the rule applies.
  },
  "loss": {
    # Weight of a penalty on different scores of labels that occur together, by Eq. 5 and 6 whatever
    # graph.method is (training.losses.laplacian_penalty).
    "laplacian": 0.0,
    # Weight of the loss of the categories above the labels (training.losses.hierarchical_loss).
    # Requires graph.ontology.
    "hierarchy": 0.0,
    # Weight of training.losses.neighbour_penalty, which draws a label's vector to those of labels
    # that make it likely.
    "neighbours": 0.0,
  },
  "sharding": {
    # Shard parameters and optimiser state over the devices instead of replicating them.
    "fsdp": False,
    "label_parts": 1,  # Number of shards of the label axis of logits and head.
  },
  "start": {
    # Run whose parameters of equal name and shape initialise this run. Empty for none.
    "run": "",
    "step": "best",  # Checkpoint of start.run: a step number, `latest` or `best`.
  },
  "evaluation": {
    "every": 2000,  # Number of steps between validations.
    "batch_size": 64,  # Number of clips per batch in validation and scoring.
  },
  "checkpoint": {
    "every": 2000,  # Number of steps between checkpoints.
    "keep": 2,  # Number of newest checkpoints to keep, in addition to the best one.
  },
  "log": {
    "every": 100,  # Number of steps between training records in the log.
  },
  # Make results on a GPU reproducible bit for bit, at lower speed. On CPU and TPU they always are.
  "deterministic": False,
}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """Return a nested dict as a flat dict with keys such as `section.key`."""
  values: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      values |= flat(value, f"{prefix}{key}.")
    else:
      values[prefix + key] = value
  return values
