"""Timing of the training step and of inference on made-up clips."""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import jax
import numpy as np

from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.assemble import model_of
from atgcn_jax.runs.config import DEFAULTS
from atgcn_jax.training import sharding
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.state import initial_state
from atgcn_jax.training.step import Normaliser, make_score_step, make_train_step

FRAMES, BANDS, CLASSES = 400, 64, 527
HEADS = {"cnn10": "linear", "atgcn": "graph"}


def bench(
  what: str, model_name: str, batch: int, steps: int, dtype: str = "float32"
) -> dict[str, Any]:
  """Median time of a step at full size, 400x64 log-mels and 527 labels, after one to compile.

  Args:
    what: `train` or `infer`.
    model_name: `cnn10` or `atgcn`.
    batch: clips a step, over all devices.
  Returns: `seconds_per_step`, `clips_per_second`, `peak_bytes` (of the process on CPU, of the
    first device elsewhere), and what was measured.
  """
  import ml_collections

  config = ml_collections.ConfigDict(DEFAULTS)
  config.model.head, config.model.dtype = HEADS[model_name], dtype
  rng = np.random.RandomState(0)
  graph = rng.rand(CLASSES, CLASSES).astype("f")
  names = tuple(map(str, range(CLASSES)))
  model = model_of(
    config,
    Vocabulary(names, names),
    graph / graph.sum(axis=1, keepdims=True),
    rng.standard_normal((CLASSES, 300)).astype("f"),
  )
  mesh = sharding.data_mesh()
  normaliser = Normaliser(np.zeros(BANDS, "f"), np.ones(BANDS, "f"))
  inputs: dict[str, np.ndarray] = {
    "log_mel": rng.standard_normal((batch, FRAMES, BANDS)).astype("f")
  }
  adam = optimiser(config.optim)
  state = jax.jit(
    lambda: initial_state(model, adam, 0, (FRAMES, BANDS)), out_shardings=sharding.replicated(mesh)
  )()
  if what == "train":
    inputs["labels"] = (rng.rand(batch, CLASSES) < 0.004).astype(np.uint8)
    config.augment.mixup_alpha, config.augment.time_stripes, config.augment.band_stripes = 0.0, 0, 0
    train_step = make_train_step(
      model, adam, mesh, normaliser=normaliser, augment_config=config.augment, seed=0
    )
    fed = sharding.place(inputs, mesh)

    def step(state):
      return train_step(state, fed, 1.0)[0]
  else:
    score_step = make_score_step(model, mesh, normaliser=normaliser)
    fed = sharding.place(inputs, mesh)

    def step(state):
      jax.block_until_ready(score_step(state.variables, fed))
      return state

  seconds = []
  for _ in range(steps + 1):
    start = time.perf_counter()
    state = jax.block_until_ready(step(state))
    seconds.append(time.perf_counter() - start)
  median = statistics.median(seconds[1:])
  return {
    "who": f"atgcn_jax on jax {jax.__version__}",
    "what": what,
    "model": model_name,
    "batch": batch,
    "dtype": dtype,
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "first_step_seconds": seconds[0],
    "seconds_per_step": median,
    "clips_per_second": batch / median,
    "peak_bytes": peak_bytes(),
  }


def peak_bytes() -> int:
  """The most memory in use so far: of the first device where it counts it, else of the process."""
  memory = jax.devices()[0].memory_stats()
  if memory and "peak_bytes_in_use" in memory:
    return memory["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
