"""The identity of a system's scores, which interrupted work must match to continue."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

from atgcn_jax import __version__
from atgcn_jax.runs.config_defaults import DEFAULTS, flat
from atgcn_jax.runs.run import Run

USUAL = flat(DEFAULTS["model"])


def identity(run: Run, variables: Any) -> dict[str, Any]:
  """Return a hash of the system and its variables, the devices and the versions, as JSON."""
  device = jax.devices()[0]
  return {
    "checkpoint": checkpoint_hash(run, variables),
    "devices": f"{jax.device_count()} {device.device_kind} of {jax.process_count()} processes",
    "versions": f"atgcn_jax {__version__}, jax {jax.__version__}",
  }


def checkpoint_hash(run: Run, variables: Any) -> str:
  """Return a hash of what determines the scores of a checkpoint on a device.

  It is the same for a run and its export, and in versions that add keys to the config.
  """
  model = {key: x for key, x in flat(run.config.model.to_dict()).items() if x != USUAL.get(key)}
  system = [
    *(run.vocabulary.ids, run.vocabulary.names, run.frontend.as_json()),
    *(run.range_db, sorted(model.items())),
  ]
  digest = hashlib.sha256(json.dumps(system, sort_keys=True).encode())
  arrays = {"constants": run.constants(), "variables": variables}
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(arrays)):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]
