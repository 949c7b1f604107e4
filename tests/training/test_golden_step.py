"""The numbers of one training step of the paper's AT-GCN, so that no change alters them unseen.

The numbers below were computed on 2026-11-29 on an x86-64 CPU with jax 0.10.2. They change only
with a deliberate change of the model, its initialisation, the augmentation, the loss or the random
numbers. After such a change, run this file, copy the numbers from the failure, and say in the
commit and in CHANGELOG.md why they changed. Another kind of CPU rounds differently, within the
tolerance; a new version of a library that needs another number is a finding, not an update.
"""

import jax
import numpy as np
import optax
import pytest
from narrow_system import trained

from atgcn_jax.training.sharding import Layout, data_mesh

LOSS = 0.7458609
NORMS = {
  "parameters": 13.9292,
  "gradients of the encoder": 0.317126,
  "gradients of the head": 0.406416,
  "batch statistics": 10.2256,
}


def test_a_step_of_the_papers_system():
  layout = Layout(data_mesh(jax.devices()[:1]))
  loss, parameters, state = trained(layout, 1, "authors", "float32", record=True)
  gradients = state.opt_state
  norms = {
    "parameters": float(optax.tree.norm(parameters)),
    "gradients of the encoder": float(optax.tree.norm(gradients["encoder"])),
    "gradients of the head": float(optax.tree.norm(gradients["head"])),
    "batch statistics": float(optax.tree.norm(jax.tree.map(np.float64, state.batch_stats))),
  }
  assert (loss, norms) == (pytest.approx(LOSS, rel=1e-5), pytest.approx(NORMS, rel=1e-4))
