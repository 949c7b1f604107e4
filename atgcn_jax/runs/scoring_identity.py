"""The identity of a system's scores, which interrupted work must match to continue."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from atgcn_jax import __version__
from atgcn_jax.runs.run import Run


def identity(run: Run, variables: Any) -> dict[str, Any]:
  """Return a hash of the system and its variables, the devices and the versions, as JSON."""
  digest = hashlib.sha256(json.dumps(run.description(), sort_keys=True).encode())
  arrays = {"constants": run.constants(), "variables": variables}
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(arrays)):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  device = jax.devices()[0]
  return {
    "checkpoint": digest.hexdigest()[:16],
    "devices": f"{jax.device_count()} {device.device_kind} of {jax.process_count()} processes",
    "versions": f"atgcn_jax {__version__}, jax {jax.__version__}",
  }
