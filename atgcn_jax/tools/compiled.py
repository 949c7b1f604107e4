"""The training step compiled for TPUs that are not there: its memory, FLOPs and collectives."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax import models
from atgcn_jax.errors import UserError
from atgcn_jax.models.cnn10 import CHANNELS
from atgcn_jax.models.layers import scaled
from atgcn_jax.training import augment, sharding
from atgcn_jax.training.optim import optimiser
from atgcn_jax.training.state import initial_state
from atgcn_jax.training.step import Normaliser, make_train_step

COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def topology_devices(name: str) -> list[Any]:
  """The devices of a TPU topology such as `v5e:4x4`; needs the `libtpu` package, but no TPU.

  Raises:
    UserError: without libtpu, or for a topology that there is not.
  """
  from jax.experimental import topologies

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(f"topology {name}: needs the package libtpu; pip install 'jax[tpu]'")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"topology {name}: {reason}; name one such as v5e:4x4") from error


def lowered_step(
  config: Any,
  devices: list[Any],
  clips_per_device: int,
  *,
  frames: int = 400,
  bands: int = 64,
  classes: int = 527,
) -> jax.stages.Lowered:
  """A config's training step on uint8 log-mels, lowered for these devices from shapes alone.

  Args:
    config: a whole config; its sections `model`, `augment` and `optim` are used.
    devices: of a topology, or real ones.
  """
  mesh = sharding.data_mesh(devices)
  rng = np.random.default_rng(0)
  graph = rng.random((classes, classes), "f")
  model = models.build(
    config.model,
    num_classes=classes,
    propagation=graph / graph.sum(axis=1, keepdims=True),
    label_embeddings=rng.standard_normal((classes, config.graph.embedding_size), "f"),
  )
  adam = optimiser(config.optim)
  step: Any = make_train_step(
    model,
    adam,
    mesh,
    normaliser=Normaliser(np.zeros(bands, "f"), np.ones(bands, "f")),
    augment_config=config.augment,
    seed=0,
  )
  clips = clips_per_device * len(devices) * augment.clips_per_example(config.augment)
  batch = {
    "log_mel": jax.ShapeDtypeStruct((clips, frames, bands), jnp.uint8),
    "peak_db": jax.ShapeDtypeStruct((clips,), jnp.float32),
    "labels": jax.ShapeDtypeStruct((clips, classes), jnp.uint8),
  }
  state = jax.eval_shape(lambda: initial_state(model, adam, 0, (frames, bands)))
  return step.lower(state, batch, jax.ShapeDtypeStruct((), jnp.float32))


def compiled_step(
  config: Any, topology: str, clips_per_chip: int, *, classes: int = 527, **sizes: int
) -> dict[str, Any]:
  """Compile a config's training step for a TPU topology and say what a chip is asked for.

  Args:
    config: as for `lowered_step`, which also takes `sizes`.
    topology: such as `v5e:4x4`.
  Returns: per chip `temp_bytes`, `argument_bytes`, `output_bytes`, `flops` as the compiler counts
    them and `layer_flops` as counted by hand; `collectives`, a list of (kind, bytes a chip);
    `chips`, `compile_seconds`, and the compiled program as `compiled`.
  """
  devices = topology_devices(topology)
  lowered = lowered_step(config, devices, clips_per_chip, classes=classes, **sizes)
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  memory: Any = compiled.memory_analysis()
  cost: Any = compiled.cost_analysis()
  return {
    "topology": topology,
    "chips": len(devices),
    "clips_per_chip": clips_per_chip,
    "temp_bytes": memory.temp_size_in_bytes,
    "argument_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "flops": cost["flops"],
    "layer_flops": step_flops(config, clips_per_chip, classes=classes, **sizes),
    "collectives": collectives(compiled.as_text() or ""),
    "compile_seconds": seconds,
    "compiled": compiled,
  }


def collectives(hlo: str) -> list[tuple[str, int]]:
  """Kind and bytes of each collective operation in the text of a compiled program."""
  found = re.findall(rf"= (\(?.*?) ({COLLECTIVES})(?:-start)?\(", hlo)
  return [(kind, _bytes(shape)) for shape, kind in found]


def _bytes(shapes: str) -> int:
  return sum(
    BYTES.get(kind, 4) * math.prod(int(n) for n in size.split(",") if n)
    for kind, size in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
  )


def layer_flops(config: Any, *, frames: int = 400, bands: int = 64, classes: int = 527) -> int:
  """FLOPs of one clip's way forward through the convolutions and products of the encoder and head.

  A multiplication and an addition count two; zeros at the edges are counted like other inputs.
  The label graph's products are not here, since all clips share them: `graph_flops`.

  Args:
    config: a config's `model` section.
  """
  total, inputs, height, width = 0, 1, frames, bands
  for channels in CHANNELS:
    outputs = scaled(channels, config.width)
    total += 2 * height * width * 9 * (inputs + outputs) * outputs
    inputs, height, width = outputs, height // 2, width // 2
  embedding = scaled(512, config.width)
  return total + 2 * inputs * embedding + 2 * embedding * classes


def graph_flops(config: Any, embedding_size: int, *, classes: int = 527) -> int:
  """FLOPs of one way forward through the label graph; none for a linear head.

  Args:
    config: a config's `model` section.
  """
  if config.head != "graph":
    return 0
  sizes = [embedding_size, *[scaled(config.hidden, config.width)] * (config.layers - 1)]
  sizes.append(scaled(512, config.width))
  return sum(2 * classes * b * (a + classes) for a, b in itertools.pairwise(sizes))


def step_flops(config: Any, clips: int, *, classes: int = 527, **sizes: int) -> int:
  """FLOPs of one training step's layers: forward, and twice that backward.

  Args:
    config: a whole config.
  """
  model = config.model
  forward = clips * layer_flops(model, classes=classes, **sizes)
  return 3 * (forward + graph_flops(model, config.graph.embedding_size, classes=classes))
