"""The system, the learning rate and the optimiser that a section of a config describes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from flax import linen as nn

from atgcn_jax import models
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models.layers import activation
from atgcn_jax.training.optim import learning_rate_schedule, optimiser


def model_of(model: Any, vocabulary: Vocabulary, propagation, label_embeddings) -> nn.Module:
  """Return `models.build` for a `model` section.

  Raises:
    UserError: If the section is invalid.
  """
  try:
    if model.head == "graph":
      activation(model.activation, model.negative_slope, jnp.dtype(jnp.float32))
    return models.build(
      model,
      num_classes=len(vocabulary),
      propagation=propagation,
      label_embeddings=label_embeddings,
    )
  except ValueError as error:
    raise UserError(f"--config: {error}") from error


def system_name(model: Any) -> str:
  """Return the name of the system of a `model` section: that of the paper, or encoder and head."""
  if model.encoder == "cnn10":
    return "AT-GCN" if model.head == "graph" else "CNN10"
  return f"{model.encoder} with {'a label graph' if model.head == 'graph' else 'a linear head'}"


def rate_of(optim: Any) -> optax.Schedule:
  """Return the learning-rate schedule of an `optim` section.

  Raises:
    ValueError: If the schedule is unknown.
  """
  return learning_rate_schedule(
    optim.learning_rate,
    schedule=optim.schedule,
    steps=optim.steps,
    warmup_steps=optim.warmup_steps,
    final_factor=optim.final_factor,
  )


def optimiser_of(optim: Any, *, frozen_encoder: bool = False) -> optax.GradientTransformation:
  """Return the `optimiser` of an `optim` section."""
  return optimiser(
    rate_of(optim),
    b1=optim.b1,
    b2=optim.b2,
    eps=optim.eps,
    clip_norm=optim.clip_norm,
    head_factor=optim.head_factor,
    frozen_encoder=frozen_encoder,
  )
