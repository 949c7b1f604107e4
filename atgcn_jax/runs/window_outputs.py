"""The function of a run from waveforms to scores and embeddings, also used for export."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.audio.frontend import log_mel
from atgcn_jax.errors import UserError
from atgcn_jax.models.layers import ONNX, Array, Placement
from atgcn_jax.runs.run import Run
from atgcn_jax.training.step import normalised_log_mel


def check_takes_sound(run: Run, workdir: str | os.PathLike) -> None:
  """Refuse a run whose inputs cannot be computed from sound.

  Raises:
    UserError: If the front end is a network that this package does not have.
  """
  if run.frontend.value_limit is not None:
    raise UserError(
      f"{workdir}: its inputs are {run.frontend.name}, which only Google's VGGish network computes "
      "from sound, and this package does not have it; use `atgcn evaluate` with a store of such "
      "features, or a run with another front end"
    )


def window_outputs(
  run: Run, placement: Placement | None = None
) -> Callable[[dict[str, Any], Array], dict[str, Array]]:
  """Return the function `(variables, waveforms) -> outputs` of a run's system and front end.

  The waveforms are float32[B, S] at the sample rate and length of the front end. The outputs are
  `clip`, scores float32[B, K] in (0, 1); `embedding` float32[B, C]; and `frames`, scores
  float32[B, T, K], for systems that score frames. The outputs of a clip do not depend on the other
  clips of the batch.

  Args:
    run: The run.
    placement: `PORTABLE` or `ONNX` for a program that runs on any platform. The default is the
      current platform.
  """
  features_of = window_features(run, placement)

  def outputs(variables: dict[str, Any], waveforms: Array) -> dict[str, Array]:
    features = features_of(variables, waveforms)
    names = {"clip": "logits", "frames": "frame_logits"}
    scores = {name: jax.nn.sigmoid(features[of]) for name, of in names.items() if of in features}
    return scores | {"embedding": features["embedding"]}

  return outputs


def window_features(
  run: Run, placement: Placement | None = None
) -> Callable[[dict[str, Any], Array], dict[str, Array]]:
  """Return the function `(variables, waveforms) -> features` of a run, see `AudioTagger`.

  The arguments are those of `window_outputs`.
  """
  model = run.model()
  portable = placement is not None

  def features(variables: dict[str, Any], waveforms: Array) -> dict[str, Array]:
    decibels = log_mel(waveforms, run.frontend, portable=portable, by_matrix=placement == ONNX)
    if run.range_db is not None:
      peaks = decibels.max(axis=(1, 2), keepdims=True)
      decibels = jnp.maximum(decibels, peaks - run.range_db)
    inputs = normalised_log_mel({"log_mel": decibels}, run.normaliser)
    found: Any = model.apply(
      variables, inputs, train=False, placement=placement, return_features=True
    )
    return found

  return features
