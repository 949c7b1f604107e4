"""The import of TensorFlow, which is late, quiet and keeps off the accelerators."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any


@functools.cache
def import_tensorflow() -> Any:
  """TensorFlow, kept off the accelerators, and without the greetings of its C++ side on stderr.

  It would import Keras, for a second or more, for what is not used here; it goes on without, and
  whoever asks for Keras later gets it.
  """
  sys.stderr.flush()
  stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 2)
  without_keras = "keras" not in sys.modules
  if without_keras:
    sys.modules["keras"] = None  # type: ignore[assignment]
  try:
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
  finally:
    if without_keras:
      del sys.modules["keras"]
    os.dup2(stderr, 2)
    os.close(stderr)
    os.close(nowhere)
  return tf
