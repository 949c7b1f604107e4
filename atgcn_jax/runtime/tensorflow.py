"""Lazy import of TensorFlow, without log output and without use of GPUs."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import Any


def has_tensorflow() -> bool:
  """Return whether TensorFlow is installed."""
  return importlib.util.find_spec("tensorflow") is not None


@functools.cache
def import_tensorflow() -> Any:
  """Import TensorFlow with all GPUs hidden, and without the log output of its C++ code on stderr.

  TensorFlow would import Keras, which takes a second or more and is not needed here. Keras is
  blocked during the import and can be imported later.
  """
  sys.stderr.flush()
  stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(devnull, 2)
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
    os.close(devnull)
  return tf
