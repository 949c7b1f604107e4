"""The exported function: from sound of any length to one score per label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from atgcn_jax.audio.windows import shortest_tail
from atgcn_jax.models.layers import PORTABLE, Array
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.window_outputs import window_outputs


def sound_scores(run: Run, variables: dict[str, Any]) -> Callable[[Array], Array]:
  """Return the function from waveforms float32[B, S] to scores float32[B, K].

  S is at least 1, the scores are in (0, 1). The function computes what `Tagger.scores` returns for
  B sounds of equal length: it pads or cuts them to windows of the trained length and averages the
  scores of the windows. The parameters are constants of the function; B and S may be symbolic.

  Args:
    run: The run.
    variables: `params` and `batch_stats` of the run.
  """
  outputs = window_outputs(run, PORTABLE)
  variables = run.for_inference(PORTABLE)(variables)

  def scores(waveforms_BxS: Array) -> Array:
    windows = windows_of(waveforms_BxS, run.frontend.samples, run.length_step)
    batch, count, size = windows.shape
    found = outputs(variables, windows.reshape(batch * count, size))["clip"]
    return found.reshape(batch, count, found.shape[-1]).mean(axis=1)

  return scores


def windows_of(waveforms_BxS: Array, size: int, step: int) -> Array:
  """Return consecutive windows of each waveform, [B, N, S'], cut in the same way as in `Tagger`.

  Args:
    waveforms_BxS: Waveforms.
    size: Number of samples in a window.
    step: Divisor of `size`. Waveforms shorter than a window are padded to a multiple of it.
  """
  batch, samples = waveforms_BxS.shape
  count = jax.core.max_dim(1, (samples + size - shortest_tail(size)) // size)
  if step < size:
    length = step * jax.core.min_dim(size // step, -(-samples // step))
  else:
    length = size
  padded = jnp.pad(waveforms_BxS, [(0, 0), (0, size)])
  return padded[:, : count * length].reshape(batch, count, length)
