"""Flax linen modules of the systems, and `build`, which creates one from a config."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from atgcn_jax.models.cnn10 import CHANNELS, CNN14_CHANNELS, POOLED_BLOCKS, Cnn10
from atgcn_jax.models.deepres import DeepRes
from atgcn_jax.models.google_cnn import LONGEST, PATCHES, GoogleCnn, patch_length
from atgcn_jax.models.heads import GraphHead, LinearHead
from atgcn_jax.models.layers import (
  Array,
  Dropout,
  Placement,
  SpectrogramTransform,
  groups_of,
  parameter_dtype,
  scaled_channels,
)
from atgcn_jax.models.mobilenet import MobileNet
from atgcn_jax.models.multilevel_attention import MultiLevelAttention
from atgcn_jax.models.normalisation import BatchNorm
from atgcn_jax.models.pooling import POOLINGS, Pooling
from atgcn_jax.models.resnet import BLOCKS, STRIDE
from atgcn_jax.models.talnet import POOLED, TalNet
from atgcn_jax.models.vectors import FEATURE_POOLINGS, VectorEncoder

DTYPES = ("float32", "bfloat16", "float64")
BATCH_NORMS = ("global", "local")
ENCODERS = (
  "cnn10",
  "cnn14",
  "talnet",
  "multilevel_attention",
  "multilevel_attention_embeddings",
  "google_cnn",
  "deepres",
  "mobilenet",
  "vectors",
)
ON_VECTORS = ("multilevel_attention_embeddings", "vectors")  # encoders of ten vectors per clip
# Encoders with parameters for each label.
SCORING_LABELS = ("multilevel_attention", "multilevel_attention_embeddings")
# Encoders whose first layer is a batch norm, which adapts to inputs that are normalised otherwise.
NORMALISING = ("cnn10", "cnn14", "multilevel_attention_embeddings", "vectors")
# Encoders that take clips of other lengths than those that they were trained on.
ANY_LENGTH = ("mobilenet",)
# Encoders with one vector per frame, and how their systems pool the scores of frames.
OWN_POOLING = {
  "talnet": "linear_softmax",
  "google_cnn": "average",
  "deepres": "sigmoid_attention",
  "vectors": "max_mean",  # pools features, not scores
}


def frames_pooled(encoder: str, frames: int) -> int | None:
  """Return the number of log-mel frames per frame of `frame_logits`; None without frame logits.

  Args:
    encoder: One of ENCODERS.
    frames: The number of frames T of the log-mel.
  """
  if encoder == "google_cnn":
    return patch_length(frames)
  return {"talnet": math.prod(pooled for pooled, _ in POOLED), "deepres": STRIDE}.get(encoder)


def frame_limits(encoder: str) -> tuple[int, int | None]:
  """Return the smallest and the largest number of log-mel frames that an encoder takes.

  Fewer frames would be pooled to none. Of more, the encoders of ten patches would drop a tenth or
  more. The largest number is None if there is no limit.

  Args:
    encoder: One of ENCODERS.
  """
  longest = PATCHES * LONGEST * 10 // 9
  limits = {
    "cnn10": (2**4, None),
    "cnn14": (2**POOLED_BLOCKS, None),
    "talnet": (math.prod(pooled for pooled, _ in POOLED), None),
    "google_cnn": (PATCHES, longest),
    "multilevel_attention": (PATCHES * 2**4, longest),
  }
  return limits.get(encoder, (1, None))


class AudioTagger(nn.Module):
  """An acoustic encoder and a head that scores all labels, per clip or per frame with pooling."""

  encoder: nn.Module
  head: nn.Module
  embedding_dropout: float = 0.5
  freeze_encoder: bool = False
  pooling: nn.Module | None = None  # for encoders with one vector per frame
  logit_norm: Callable[[Placement | None], nn.Module] | None = None
  offset: float = 0.0  # constant that is added to each logit of the head

  @nn.compact
  def __call__(
    self,
    log_mel_BxTxF: Array,
    train: bool = False,
    return_features: bool = False,
    after_norm: SpectrogramTransform | None = None,
    placement: Placement | None = None,
  ) -> Any:
    """Return the logits float32[B, K], or a dict of features.

    Args:
      log_mel_BxTxF: Normalised log-mels, float[B, T, F].
      train: Whether to use batch statistics and dropout (needs an rng `dropout`).
      return_features: Whether to return a dict with `logits`, `embedding` [B, C], `label_vectors`
        [K, C] and, for systems that score frames, `frame_logits` [B, T', K]. `mobilenet` adds
        `hidden` [B, H], which the head takes in place of the embedding; its label vectors are
        [K, H].
      after_norm: Training transform of the spectrogram after the first batch norm.
      placement: Placement of the batch. By default it is on all devices.
    """
    features = self.encoder(
      log_mel_BxTxF,
      train=train and not self.freeze_encoder,
      after_norm=after_norm,
      placement=placement,
    )
    vectors = features.pop("frames", features.get("hidden", features["embedding"]))
    vectors = at_least_float32(Dropout(self.embedding_dropout)(vectors, train=train))
    scored = self.head(vectors)
    if self.logit_norm is not None:
      scored["logits"] = self.logit_norm(placement)(scored["logits"], train=train)
    if self.offset:
      scored["logits"] = scored["logits"] + self.offset
    if self.pooling is not None:
      scored["frame_logits"] = scored["logits"]
      scored["logits"] = self.pooling(scored["frame_logits"], vectors)
    features = {name: at_least_float32(x) for name, x in {**features, **scored}.items()}
    return features if return_features else features["logits"]


def at_least_float32(x: Array) -> Array:
  """Cast narrower floats to float32, the type for heads, losses and scores."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def with_constants(
  model: nn.Module, log_mel_shape: tuple[int, int], placement: Placement | None = None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
  """Return a function that adds the collection `constants` to the variables of a model.

  The constants are precomputed for inference: the label vectors of a graph, and convolutions with
  folded batch norms. They are valid only for the given parameters, so do not train with them.

  Args:
    model: The module.
    log_mel_shape: The numbers of frames and bands of a clip.
    placement: Placement of the batch, as for the module.
  """

  @jax.jit
  def constants(variables):
    silence = jnp.zeros((1, *log_mel_shape))
    return model.apply(variables, silence, train=False, placement=placement, mutable=["constants"])[
      1
    ]

  return lambda variables: {**variables, **constants(variables)}


def build(
  config: Any,
  *,
  num_classes: int,
  propagation: Any = None,
  label_embeddings: np.ndarray | None = None,
) -> nn.Module:
  """Return the module for the `model` section of a config.

  `module.apply(variables, log_mel, train=False)` returns logits [B, K]. With `return_features=True`
  it returns a dict with `logits`, `embedding` [B, C], `label_vectors` [K, C] and, for systems that
  score frames, `frame_logits` [B, T', K]. Systems that pool probabilities return
  log p - log(1 - p).

  Args:
    config: `encoder` (one of ENCODERS), `head` (`linear` or `graph`, for any encoder), `width`
      (multiplier), `dropout` (`block`, `pooled`, `embedding`) and `dtype`; for the graph head also
      `layers`, `hidden`, `activation` and `negative_slope`. Optional: `batch_norm` (`global` or
      `local`), `pooling` (for encoders with frames; by default that of the system), `depth` (34 or
      50, for `deepres`), `frame_units` and `clip_units` (for `vectors`), `freeze_encoder`
      (whether the encoder works in training as in inference) and `prior` (see `logit_offset`).
    num_classes: The number of labels K.
    propagation: float[K, K], an array or scipy's csr_array. Required by the graph head.
    label_embeddings: float[K, E]. Required by the graph head.

  Raises:
    ValueError: A name is unknown, or the propagation matrix or the label embeddings are missing or
      of another size.
  """
  if config.dtype not in DTYPES:
    raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got {config.dtype!r}")
  dtype = jnp.dtype(config.dtype)
  batch_norm = getattr(config, "batch_norm", "global")
  if batch_norm not in BATCH_NORMS:
    raise ValueError(
      f"model.batch_norm must be one of {', '.join(BATCH_NORMS)}, got {batch_norm!r}"
    )
  kind = getattr(config, "pooling", "") or OWN_POOLING.get(config.encoder, POOLINGS[0])
  known = POOLINGS + FEATURE_POOLINGS * (config.encoder == "vectors")
  if kind not in known:
    raise ValueError(f"model.pooling must be one of {', '.join(known)}, got {kind!r}")
  frame_wise = config.encoder in OWN_POOLING and kind in POOLINGS
  return AudioTagger(
    _encoder(config, num_classes, kind, batch_norm, dtype),
    _head(config, num_classes, propagation, label_embeddings, dtype),
    embedding_dropout=config.dropout.embedding,
    freeze_encoder=getattr(config, "freeze_encoder", False),
    pooling=Pooling(kind, num_classes, parameter_dtype(dtype)) if frame_wise else None,
    logit_norm=functools.partial(_logit_norm, num_classes, batch_norm, dtype)
    if config.encoder in SCORING_LABELS
    else None,
    offset=logit_offset(config),
  )


def logit_offset(config: Any) -> float:
  """Return the log-odds of `prior`, the probability at which scores start; 0 for the default, 0.5.

  Most labels are rare. A head whose scores start at 0.5 must first learn this. The graph head has
  no biases, so its label vectors must learn it.

  Args:
    config: The `model` section of a config, with or without `prior`.

  Source:
    Lin et al., Focal loss for dense object detection, ICCV 2017, Section 4.1.
  """
  prior = getattr(config, "prior", 0.5)
  return math.log(prior / (1 - prior))


def _encoder(
  config: Any, num_classes: int, kind: str, batch_norm: str, dtype: jnp.dtype
) -> nn.Module:
  """Return the encoder of a config with this kind of pooling."""
  shared: dict[str, Any] = {"width": config.width, "batch_norm": batch_norm, "dtype": dtype}
  dropout = config.dropout
  if config.encoder in ("cnn10", "cnn14"):
    shared["channels"] = CHANNELS if config.encoder == "cnn10" else CNN14_CHANNELS
    return Cnn10(block_dropout=dropout.block, pooled_dropout=dropout.pooled, **shared)
  if config.encoder == "talnet":
    return TalNet(block_dropout=dropout.block, **shared)
  if config.encoder in SCORING_LABELS:
    on_embeddings = config.encoder.endswith("embeddings")
    return MultiLevelAttention(num_classes, on_embeddings, block_dropout=dropout.block, **shared)
  if config.encoder == "google_cnn":
    return GoogleCnn(**shared)
  if config.encoder == "deepres":
    depth = getattr(config, "depth", 50)
    if depth not in BLOCKS:
      raise ValueError(f"model.depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
    return DeepRes(depth=depth, **shared)
  if config.encoder == "mobilenet":
    return MobileNet(**shared)
  if config.encoder == "vectors":
    return _vector_encoder(config, kind, **shared)
  raise ValueError(f"model.encoder must be one of {', '.join(ENCODERS)}, got {config.encoder!r}")


def _vector_encoder(config: Any, kind: str, **shared: Any) -> VectorEncoder:
  """Return the encoder of vectors of a config."""
  pools_features = kind in FEATURE_POOLINGS
  frame_units, clip_units = tuple(config.frame_units), tuple(config.clip_units)
  if clip_units and not pools_features:
    raise ValueError(
      f"model.clip_units must be empty with model.pooling {kind!r}, got {clip_units}"
    )
  if not all(isinstance(units, int) and units > 0 for units in frame_units + clip_units):
    raise ValueError("model.frame_units and model.clip_units must be integers of at least 1")
  return VectorEncoder(
    frame_units,
    clip_units,
    kind if pools_features else "",
    block_dropout=config.dropout.block,
    pooled_dropout=config.dropout.pooled,
    **shared,
  )


def _logit_norm(num_classes: int, batch_norm: str, dtype: jnp.dtype, placement) -> nn.Module:
  """Return the batch norm of the logits."""
  groups = groups_of(batch_norm, placement)
  return BatchNorm(num_classes, parameter_dtype(dtype), groups, name="logit_norm")


def _head(
  config: Any, num_classes: int, propagation, label_embeddings, dtype: jnp.dtype
) -> nn.Module:
  """Return the head of a config."""
  if config.head == "linear":
    return LinearHead(num_classes, dtype=parameter_dtype(dtype))
  if config.head != "graph":
    raise ValueError(f"model.head must be linear or graph, got {config.head!r}")
  propagation, label_embeddings = _graph(num_classes, propagation, label_embeddings)
  if config.layers < 1:
    raise ValueError(f"model.layers must be at least 1, got {config.layers}")
  return GraphHead(
    propagation=propagation,
    label_embeddings=label_embeddings,
    layers=config.layers,
    hidden=scaled_channels(config.hidden, config.width),
    activation=config.activation,
    negative_slope=config.negative_slope,
    dtype=dtype,
  )


def _graph(num_classes: int, propagation, label_embeddings) -> tuple[Any, np.ndarray]:
  """Return both arrays, or raise if they are missing or of another size."""
  if propagation is None or label_embeddings is None:
    raise ValueError("model.head 'graph' needs a propagation matrix and label embeddings")
  if np.shape(propagation) != (num_classes, num_classes):
    raise ValueError(
      f"propagation must have shape {(num_classes, num_classes)}, got {np.shape(propagation)}"
    )
  if np.ndim(label_embeddings) != 2 or len(label_embeddings) != num_classes:
    raise ValueError(
      f"label_embeddings must have shape [{num_classes}, E], got {np.shape(label_embeddings)}"
    )
  return propagation, label_embeddings
