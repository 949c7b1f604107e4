"""From waveforms to scores and embeddings, as one function of a run, which is also exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.audio.frontend import log_mel
from atgcn_jax.models.layers import ONNX, Array, Placement
from atgcn_jax.runs.run import Run
from atgcn_jax.training.step import normalised_log_mel


def window_outputs(
  run: Run, placement: Placement | None = None
) -> Callable[[dict[str, Any], Array], dict[str, Array]]:
  """The function `(variables, waveforms) -> outputs` of a run's system with its front end.

  It takes waveforms float32[B, S] of the front end's rate and length and gives `clip`, scores
  float32[B, K] in (0, 1), `embedding` float32[B, C] and, of systems that score frames, `frames`,
  scores float32[B, T, K]. What comes of each clip follows from it alone.

  Args:
    placement: `PORTABLE` or `ONNX` for a program that is to run on any platform; by default that
      of here.
  """
  model = run.model()
  portable = placement is not None

  def outputs(variables: dict[str, Any], waveforms: Array) -> dict[str, Array]:
    decibels = log_mel(waveforms, run.frontend, portable=portable, by_matrix=placement == ONNX)
    if run.range_db is not None:
      peaks = decibels.max(axis=(1, 2), keepdims=True)
      decibels = jnp.maximum(decibels, peaks - run.range_db)
    inputs = normalised_log_mel({"log_mel": decibels}, run.normaliser)
    found: Any = model.apply(
      variables, inputs, train=False, placement=placement, return_features=True
    )
    scores = {"clip": "logits", "frames": "frame_logits"}
    given = {name: jax.nn.sigmoid(found[of]) for name, of in scores.items() if of in found}
    return given | {"embedding": found["embedding"]}

  return outputs
