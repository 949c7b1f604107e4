"""Check that all numbers of a tree of arrays are finite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


def first_not_finite(tree: Any) -> str | None:
  """Return the name of the first array with a NaN or infinite value; None if there is none.

  The check runs on the host and takes 3 ms for five million parameters on a CPU. A compiled
  program would take seconds to compile. All processes must call this function. Each checks its own
  shards, and all get the same result.

  Args:
    tree: Tree of arrays on the host or on devices.
  """
  named = jax.tree.leaves_with_path(tree)
  bad = next((k for k, (_, leaf) in enumerate(named) if not _is_finite(leaf)), len(named))
  if jax.process_count() > 1:
    bad = int(multihost_utils.process_allgather(np.int32(bad)).min())
  if bad == len(named):
    return None
  return jax.tree_util.keystr(named[bad][0], simple=True, separator=".")


def _is_finite(leaf: Any) -> bool:
  """Return whether this process's shards of an array are finite; of replicas, check the first."""
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return True
  if not isinstance(leaf, jax.Array):
    return bool(np.isfinite(leaf).all())
  parts = (part.data for part in leaf.addressable_shards if part.replica_id == 0)
  return all(np.isfinite(np.asarray(part)).all() for part in parts)
