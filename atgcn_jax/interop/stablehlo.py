"""Export to StableHLO, in the form that `jax.export` reads."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

from atgcn_jax.models.layers import Array

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(folder: pathlib.Path, scores: Callable[[Array], Array]) -> None:
  """Write `model.stablehlo`: one program for all PLATFORMS, any batch size and any length.

  Args:
    folder: Existing folder to write to.
    scores: Function from waveforms float32[B, S] to scores float32[B, K].
  """
  sizes = jax.export.symbolic_shape("batch, samples")
  waveforms = jax.ShapeDtypeStruct(sizes, jnp.float32)
  exported = jax.export.export(jax.jit(scores), platforms=PLATFORMS)(waveforms)
  (folder / FILE).write_bytes(exported.serialize())
