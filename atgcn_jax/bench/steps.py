"""Benchmarks of the training step and of inference on random clips, and shared helpers."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from atgcn_jax.audio.frontend import FRONTENDS, VGGISH_FEATURES
from atgcn_jax.bench.flops import forward_flops, layer_flops, step_flops
from atgcn_jax.bench.operations import longest_operations
from atgcn_jax.errors import WorkFailed
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.models import with_constants
from atgcn_jax.runs.config_defaults import DEFAULTS
from atgcn_jax.runs.parts import model_of
from atgcn_jax.runs.telemetry import trace_options
from atgcn_jax.runtime.process_setup import peak_bytes
from atgcn_jax.training import sharding
from atgcn_jax.training.augment import Augmentation
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.state import TrainState, initial_state
from atgcn_jax.training.step import Normaliser, make_score_step, make_train_step

FRAMES, BANDS, CLASSES, EMBEDDING_SIZE = 400, 64, 527, 300
NORMALISER = Normaliser(np.zeros(BANDS, "f"), np.ones(BANDS, "f"))
SYSTEMS: dict[str, dict[str, Any]] = {
  "cnn10": {"head": "linear"},
  "atgcn": {"head": "graph"},
  "mn04": {"encoder": "mobilenet", "head": "linear", "width": 0.4},
  "mn10": {"encoder": "mobilenet", "head": "linear", "width": 1.0},
  "vectors": {"encoder": "vectors", "head": "linear", "clip_units": (1024, 512)},
}


def bench(
  what: str,
  model_name: str,
  batch: int,
  steps: int,
  dtype: str = "float32",
  trace: str | None = None,
) -> dict[str, Any]:
  """Measure the median time of a step at full size: ten seconds of log-mels, 527 labels.

  Args:
    what: `train` or `infer`.
    model_name: One of SYSTEMS.
    batch: Clips per step, over all devices.
    steps: Number of timed steps, after a first step that compiles.
    dtype: Compute type, `float32` or `bfloat16`.
    trace: Folder for a profile of as many more steps, for TensorBoard or Perfetto.

  Returns:
    `seconds_per_step`; `clips_per_second`; `peak_bytes`, of the process on CPU and of the first
    device otherwise; `first_step_seconds`, including compilation; `start_to_first_step`, from the
    start of the process to the submission of the first step; `flops` of a step (a backward pass
    counts as two forward passes) and `flops_per_second`; with `trace` the `operations` that took
    longest; and the settings.
  """
  system = system_of(model_name, dtype)
  state: Any = system.state
  rng = np.random.RandomState(0)
  inputs: dict[str, np.ndarray] = {
    "log_mel": rng.standard_normal((batch, *system.shape)).astype("f")
  }
  if what == "train":
    inputs["labels"] = (rng.rand(batch, CLASSES) < 0.004).astype(np.uint8)
    train_step = system.train_step()
    fed = sharding.place(inputs, system.mesh)

    def step(state):
      return train_step(state, fed, 1.0)[0]
  else:
    score_step = make_score_step(system.model, system.mesh, normaliser=system.normaliser)
    fed = sharding.place(inputs, system.mesh)
    state = with_constants(system.model, system.shape)(state.variables)

    def step(variables):
      score_step(variables, fed).block_until_ready()
      return variables

  seconds: list[float] = []
  submitted = None
  for _ in range(steps + 1):
    start = time.perf_counter()
    state = step(state)
    submitted = submitted or seconds_since_start()
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  if trace:
    with jax.profiler.trace(trace, profiler_options=trace_options()):
      for _ in range(steps):
        state = step(state)
      jax.block_until_ready(state)
  median = statistics.median(seconds[1:])
  flops = system.flops(what, batch)
  return {
    "who": f"atgcn_jax on jax {jax.__version__}",
    "what": what,
    "model": model_name,
    "batch": batch,
    "dtype": dtype,
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "start_to_first_step": submitted,
    "first_step_seconds": seconds[0],
    "seconds_per_step": median,
    "clips_per_second": batch / median,
    "flops": flops,
    "flops_per_second": flops / median,
    "peak_bytes": peak_bytes(),
    **({"operations": longest_operations(trace)} if trace else {}),
  }


class System(NamedTuple):
  """A system at full size, in its initial state.

  `section` is the `model` section of its config.
  """

  section: Any
  model: nn.Module
  adam: optax.GradientTransformation
  mesh: jax.sharding.Mesh
  state: TrainState
  shape: tuple[int, int]  # frames and bands of a clip

  @property
  def normaliser(self) -> Normaliser:
    """Return the normaliser that changes nothing."""
    bands = self.shape[1]
    return Normaliser(np.zeros(bands, "f"), np.ones(bands, "f"))

  def flops(self, what: str, batch: int) -> int:
    """Return the FLOPs of a step: by formula for CNN10, and otherwise those of the plain form."""
    if self.section.encoder == "cnn10":
      train = step_flops(self.section, EMBEDDING_SIZE, batch)
      return train if what == "train" else batch * layer_flops(self.section)
    forward = batch * forward_flops(self.model, self.state.variables, self.shape)
    return 3 * forward if what == "train" else forward

  def train_step(self, **more: Any) -> Callable:
    """Return the training step without augmentation; `more` are arguments of `make_train_step`."""
    return make_train_step(
      self.model,
      self.adam,
      self.mesh,
      normaliser=self.normaliser,
      augmentation=Augmentation(),
      seed=0,
      **more,
    )


def system_of(model_name: str, dtype: str) -> System:
  """Return a system for 527 labels with a random graph and random word vectors."""
  section = model_section(model_name, dtype)
  rng = np.random.RandomState(0)
  graph = rng.rand(CLASSES, CLASSES).astype("f")
  names = tuple(map(str, range(CLASSES)))
  model = model_of(
    section,
    Vocabulary(names, names),
    graph / graph.sum(axis=1, keepdims=True),
    rng.standard_normal((CLASSES, EMBEDDING_SIZE)).astype("f"),
  )
  mesh, adam = sharding.data_mesh(), optimiser(optax.constant_schedule(1e-3))
  frontends = {"mobilenet": FRONTENDS["efficientat"], "vectors": VGGISH_FEATURES}
  frontend = frontends.get(section.encoder, FRONTENDS["talnet"])
  shape = frontend.frames, frontend.n_mels
  state = jax.jit(
    lambda: initial_state(model, adam, 0, shape), out_shardings=sharding.replicated(mesh)
  )()
  return System(section, model, adam, mesh, state, shape)


def model_section(model_name: str, dtype: str) -> Any:
  """Return the `model` section of a config with a system and compute type."""
  import ml_collections

  return ml_collections.ConfigDict(DEFAULTS["model"] | SYSTEMS[model_name] | {"dtype": dtype})


def matrix_product_rate(dtype: str, repeats: int = 5) -> float:
  """Measure the FLOP/s of a product of two large square random matrices.

  The numbers are random because a GPU multiplies equal numbers faster than its power limit allows
  for others.
  """
  size = 3072 if jax.default_backend() == "cpu" else 8192
  a = jax.random.normal(jax.random.key(0), (size, size), dtype)
  return 2 * size**3 / median_seconds(jax.jit(jnp.matmul), (a, a), repeats)


def median_seconds(function: Callable, arguments: tuple, repeats: int) -> float:
  """Return the median seconds of `repeats` calls, after a first call that compiles."""
  jax.block_until_ready(function(*arguments))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds)


def bench_starts(what: str, model_name: str, batch: int, dtype: str = "float32") -> dict[str, Any]:
  """Measure a training step in two new processes, with an empty and with a filled compile cache.

  Args:
    what: `compile` or `memory`, the name of the result.
    model_name: One of SYSTEMS.
    batch: Clips per step.
    dtype: Compute type, `float32` or `bfloat16`.

  Returns:
    `cold` and `warm`, each a result of `bench`, and the `peak_bytes` of the warm process.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "atgcn_jax", "bench", "train", "--json", "--steps", "3"]
    command += ["--model", model_name, "--batch", str(batch), "--dtype", dtype]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": folder}
    cold, warm = (run_json(command, environment) for _ in range(2))
  both = {"cold": cold, "warm": warm, "peak_bytes": warm["peak_bytes"]}
  return {"what": what, "model": model_name, "batch": batch, **both}


def alone(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
  """Call a function in a new process and return its result."""
  fresh = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as pool:
    return pool.submit(work, *args).result()


def run_json(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
  """Run a command and return the JSON object on its last line of output.

  Raises:
    WorkFailed: The command fails.
  """
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise WorkFailed(f"{' '.join(command)} failed with exit status {done.returncode}: {last}")
  return json.loads(lines[-1])


def seconds_since_start() -> float | None:
  """Return the seconds since the start of this process, or None if /proc is not available."""
  try:
    fields = pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
  except OSError:
    return None
  began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
  return time.clock_gettime(time.CLOCK_BOOTTIME) - began
