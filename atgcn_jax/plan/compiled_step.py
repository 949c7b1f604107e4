"""The training step compiled for a TPU topology without TPUs: memory, FLOPs and collectives."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import signal
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from atgcn_jax import models
from atgcn_jax.bench.flops import product_flops
from atgcn_jax.errors import UserError
from atgcn_jax.runs.parts import optimiser_of
from atgcn_jax.runs.start import layout_of
from atgcn_jax.training import resident, sharding
from atgcn_jax.training.augment import Augmentation, clips_per_example
from atgcn_jax.training.losses import loss_of
from atgcn_jax.training.state import initial_state
from atgcn_jax.training.step import Normaliser, make_train_step

COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}


def topology_devices(name: str) -> list[Any]:
  """Return the devices of a TPU topology such as `v5e:4x4`.

  This needs the package libtpu, but no TPU.

  Raises:
    UserError: libtpu is not installed, or the topology does not exist.
  """
  from jax.experimental import topologies

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(f"topology {name}: needs the package libtpu; run pip install 'atgcn_jax[tpu]'")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Nothing runs on a TPU, so other processes may use the library at the same time.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  form: dict[str, Any] = {}
  if name.startswith("v4:"):
    form["chip_config_name"] = "megacore"  # a chip's two cores are one device
  if math.prod(int(size) for size in re.findall(r"\d+", name.partition(":")[2])) == 1:
    form["chips_per_host_bounds"] = (1, 1, 1)
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    with _no_stderr():
      found = topologies.get_topology_desc(platform="tpu", topology_name=name, **form)
    return found.devices
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"topology {name}: {reason}; choose one such as v5e:4x4") from error
  finally:
    for number, handler in handlers.items():  # the library installs its own handlers
      if handler is not None:
        signal.signal(number, handler)


@contextlib.contextmanager
def _no_stderr():
  """Discard stderr, where the library prints that it finds no TPU."""
  saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)


def traced_step(
  config: Any,
  devices: list[Any],
  clips_per_device: int,
  *,
  frames: int = 400,
  bands: int = 64,
  classes: int = 527,
  dtype: Any = jnp.uint8,
  propagation: Any = None,
  relations: Mapping[str, Any] | None = None,
  resident_clips: int = 0,
) -> jax.stages.Traced:
  """Trace the training step of a config for some devices, from shapes only.

  Args:
    config: A complete config, of which `model`, `augment`, `loss`, `optim` and `sharding` are used.
    devices: Devices of a topology, or real devices.
    clips_per_device: Clips per step and device.
    frames: Number of frames in a clip.
    bands: Number of mel bands.
    classes: Number of labels.
    dtype: Type of the stored log-mels.
    propagation: Propagation matrix of the graph head, dense or sparse; by default a random dense
      matrix.
    relations: Label relations for the loss; see `label_relations`.
    resident_clips: Number of clips stored in the memory of each device. If 0, batches come from
      the host.
  """
  layout = layout_of(devices, **config.sharding)
  mesh = layout.mesh
  rng = np.random.default_rng(0)
  if propagation is None:
    graph = rng.random((classes, classes), "f")
    propagation = graph / graph.sum(axis=1, keepdims=True)
  model = models.build(
    config.model,
    num_classes=classes,
    propagation=propagation,
    label_embeddings=rng.standard_normal((classes, config.graph.embedding_size), "f"),
  )
  augmentation = Augmentation(**config.augment)
  adam = optimiser_of(config.optim, frozen_encoder=config.model.freeze_encoder)
  state = jax.eval_shape(lambda: initial_state(model, adam, 0, (frames, bands)))
  batch_of: dict[str, Any] = {}
  if resident_clips:
    batch_of["batch_of"] = resident.gathering(mesh, frames, bands, classes)
  step: Any = make_train_step(
    model,
    adam,
    mesh,
    normaliser=Normaliser(np.zeros(bands, "f"), np.ones(bands, "f")),
    augmentation=augmentation,
    seed=0,
    loss=loss_of(relations or {}, **config.loss),
    kept=sharding.where_kept(layout, state, classes) if layout.in_parts else None,
    **batch_of,
  )
  clips = clips_per_device * len(devices) * clips_per_example(augmentation)
  given: dict[str, Any] = {
    "log_mel": jax.ShapeDtypeStruct((clips, frames, bands), dtype),
    "peak_db": jax.ShapeDtypeStruct((clips,), jnp.float32),
    "labels": jax.ShapeDtypeStruct((clips, classes), jnp.uint8),
  }
  if resident_clips:
    stored = resident_clips * len(devices)
    given = {
      "rows": jax.ShapeDtypeStruct((clips,), jnp.int32),
      "clips": {
        "log_mel": jax.ShapeDtypeStruct((stored, frames * bands), dtype),
        "peak_db": jax.ShapeDtypeStruct((stored,), jnp.float32),
        "labels": jax.ShapeDtypeStruct((stored, math.ceil(classes / 8)), jnp.uint8),
      },
    }
  return step.trace(state, given, jax.ShapeDtypeStruct((), jnp.float32))


def compiled_step(config: Any, topology: str, clips_per_chip: int, **sizes: Any) -> dict[str, Any]:
  """Compile the training step of a config for a TPU topology and return what it needs.

  Args:
    config: A complete config.
    topology: Topology such as `v5e:4x4`.
    clips_per_chip: Clips per step and chip.
    **sizes: Further arguments of `traced_step`.

  Returns:
    Per chip: `memory`, the result of `memory_by_kind`; `flops` and `hbm_bytes` as counted by the
    compiler, which counts the body of a loop once; `product_flops` of the traced products;
    `collectives`, a list of (kind, bytes). For all chips together: `chips`, `hosts` and
    `state_bytes`. Also `compile_seconds`, and the compiled program as `compiled`.

  Raises:
    jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED, if the memory of a chip is too small.
  """
  devices = topology_devices(topology)
  traced = traced_step(config, devices, clips_per_chip, **sizes)
  lowered = traced.lower()
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  cost: Any = compiled.cost_analysis()
  return {
    "topology": topology,
    "chips": len(devices),
    "hosts": len({device.process_index for device in devices}),
    "clips_per_chip": clips_per_chip,
    "memory": memory_by_kind(traced, compiled),
    "flops": cost["flops"],
    "hbm_bytes": cost["bytes accessed"],
    "product_flops": product_flops(traced.jaxpr.jaxpr) / len(devices),
    "collectives": collectives(compiled.as_text() or ""),
    "state_bytes": sum(
      math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(traced.args_info[0][0])
    ),
    "compile_seconds": seconds,
    "compiled": compiled,
  }


def memory_by_kind(traced: jax.stages.Traced, compiled: jax.stages.Compiled) -> dict[str, int]:
  """Return the bytes per chip of a compiled training step by content.

  The values add up to all memory that the step needs. `clips` are the clips stored on the chips,
  `padding` is what the chip's tiles add to the arguments, and `outputs` are those that do not reuse
  the memory of an argument.
  """
  state, given, _ = traced.args_info[0]
  placed = compiled.input_shardings[0]
  memory: Any = compiled.memory_analysis()

  def size(arrays, shardings) -> int:
    sizes = jax.tree.map(
      lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, arrays, shardings
    )
    return sum(jax.tree.leaves(sizes))

  kinds = {
    "parameters": size(state.params, placed[0].params),
    "batch statistics": size(state.batch_stats, placed[0].batch_stats),
    "optimiser state": size(state.opt_state, placed[0].opt_state),
  }
  batch = size(given, placed[1])
  if "clips" in given:
    kinds["clips"] = size(given["clips"], placed[1]["clips"])
    batch -= kinds["clips"]
  kinds["batch"] = batch
  kinds["padding"] = memory.argument_size_in_bytes - sum(kinds.values())
  return kinds | {
    "activations and temporaries": memory.temp_size_in_bytes,
    "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "program": memory.generated_code_size_in_bytes,
  }


def collectives(hlo: str) -> list[tuple[str, int]]:
  """Return the kind and bytes of each collective operation in the text of a compiled program."""
  found = re.findall(rf"= (\(?.*?) ({COLLECTIVES})(?:-start)?\(", hlo)
  return [(kind, _bytes(shape)) for shape, kind in found]


def _bytes(shapes: str) -> int:
  return sum(
    BYTES.get(kind, 4) * math.prod(int(n) for n in size.split(",") if n)
    for kind, size in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
  )
