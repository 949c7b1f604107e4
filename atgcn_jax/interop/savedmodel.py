"""Export to a TensorFlow SavedModel."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from atgcn_jax.errors import reason
from atgcn_jax.interop.stablehlo import PLATFORMS
from atgcn_jax.models.layers import Array
from atgcn_jax.runtime.tensorflow import import_tensorflow


def write_savedmodel(folder: pathlib.Path, scores: Callable[[Array], Array]) -> None:
  """Write a SavedModel with one signature, `waveforms` [B, S] to `scores` [B, K], for any B and S.

  Args:
    folder: Existing folder to write to.
    scores: Function from waveforms float32[B, S] to scores float32[B, K].

  Raises:
    OSError: If the folder cannot be written.
  """
  tf = import_tensorflow()
  from jax.experimental import jax2tf

  converted = jax2tf.convert(
    scores,
    polymorphic_shapes=["(batch, samples)"],
    native_serialization_platforms=PLATFORMS,
    with_gradient=False,
  )

  module = tf.Module()
  module.scores = tf.function(
    lambda waveforms: {"scores": converted(waveforms)},
    autograph=False,
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveforms")],
  )
  signature = module.scores.get_concrete_function()
  try:
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature})
  except tf.errors.OpError as error:
    raise OSError(reason(error)) from error
