"""The function that is exported: sound of any length in, a score a label out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.audio.files import MIN_TAIL
from atgcn_jax.models.layers import PORTABLE, Array
from atgcn_jax.runs.assemble import Run
from atgcn_jax.runs.forward import window_scores


def sound_scores(run: Run, variables: dict[str, Any]) -> Callable[[Array], Array]:
  """The function from waveforms float32[B, S], S at least 1, to scores float32[B, K] in (0, 1).

  It gives what `Tagger.scores` gives for each of B sounds of one length: they are padded with
  silence or cut to windows of the trained length, whose scores are averaged. The parameters are
  constants in it; B and S may be symbolic.

  Args:
    variables: params and batch_stats of the run.
  """
  score = window_scores(run, PORTABLE)
  variables = run.for_inference(PORTABLE)(variables)

  def scores(waveforms_BxS: Array) -> Array:
    windows = windows_of(waveforms_BxS, run.frontend.samples)
    batch, count, size = windows.shape
    found = score(variables, windows.reshape(batch * count, size))
    return found.reshape(batch, count, found.shape[-1]).mean(axis=1)

  return scores


def windows_of(waveforms_BxS: Array, size: int) -> Array:
  """Consecutive windows of each waveform, [B, N, size], cut as `audio.files.windows` does it.

  Args:
    size: samples in a window.
  """
  batch, samples = waveforms_BxS.shape
  shortest_tail = -(-size // MIN_TAIL)  # samples of sound that are worth another window
  count = jax.core.max_dim(1, (samples + size - shortest_tail) // size)
  padded = jnp.pad(waveforms_BxS, [(0, 0), (0, size)])
  return padded[:, : count * size].reshape(batch, count, size)
