"""Estimates of what training a config on a TPU topology takes, made without a TPU."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.plan.chips import chip_of, roofline
from atgcn_jax.plan.compiled_step import compiled_step
from atgcn_jax.plan.inputs import Data, check_model, clip_bytes, graph_of, plan_data, relations_of
from atgcn_jax.runs.checks import check_names
from atgcn_jax.runs.schedule import steps_of
from atgcn_jax.training.augment import Augmentation, clips_per_example

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan_training(config: Any, topology: str, batch: int | None = None) -> dict[str, Any]:
  """Compile the training step of a config for a topology and estimate what training takes.

  Args:
    config: A complete config.
    topology: Topology such as `v5e:16x16`.
    batch: Clips per step over all chips; by default `data.batch_size` of the config.

  Returns:
    Plain data for JSON. Memory, FLOPs, bytes and collectives are per chip. docs/scaling.md explains
    how the numbers are computed.

  Raises:
    UserError: The topology, the batch or the config is invalid.
    WorkFailed: The step does not fit; the message names the largest batch that fits.
  """
  chip, shape = chip_of(topology)
  chips = math.prod(shape)
  batch = config.data.batch_size if batch is None else batch
  if batch < 1 or batch % chips:
    below = max(batch, 0) // chips * chips
    near = " or ".join(str(size) for size in (below, below + chips) if size)
    raise UserError(
      f"--batch: {batch} clips per step cannot be split over {chips} chips of {topology}; use "
      f"{near}"
    )
  check_names(config)
  data = plan_data(config)
  graph, assumed = graph_of(config, data)
  check_model(config.model, config.graph.embedding_size, data.classes)
  relations = relations_of(config, data)
  on_chips = config.data.placement == "device"

  def attempt(clips_per_chip: int) -> Attempt:
    return attempted(
      chip.hbm,
      config,
      topology,
      clips_per_chip,
      classes=data.classes,
      frames=data.frames,
      bands=data.bands,
      dtype=np.dtype(data.dtype),
      propagation=graph,
      relations=relations,
      resident_clips=math.ceil(data.train_clips / chips) if on_chips else 0,
    )

  found = attempt(batch // chips)
  if found.step is None or found.needed_bytes > chip.hbm:
    clips = largest_fitting(
      lambda n: attempt(n).needed_bytes, chip.hbm, batch // chips, found.needed_bytes
    )
    needed = _bytes(found.needed_bytes) if math.isfinite(found.needed_bytes) else "too much memory"
    best = f"the largest batch that fits is {clips * chips}" if clips else "no batch fits"
    raise WorkFailed(
      f"does not fit: {batch} clips per step on {topology} need {needed} on each chip, which has "
      f"{_bytes(chip.hbm)}; {best}"
    )
  return figures(
    topology,
    batch,
    data,
    found.step,
    steps=steps_of(config.optim, data.train_clips, batch),
    dtype=config.model.dtype,
    clips_read=batch * clips_per_example(Augmentation(**config.augment)),
    checkpoints=config.checkpoint.keep + 2,  # the best one, and the one that is being written
    on_chips=on_chips,
  ) | {"assumed": data.assumed + assumed}


class Attempt(NamedTuple):
  """The result of compiling a step.

  Attributes:
    step: Result of `compiled_step`, or None if the compiler failed for lack of memory.
    needed_bytes: Bytes that the step needs on a chip; infinite if the compiler reports none.
  """

  step: dict[str, Any] | None
  needed_bytes: float


def attempted(limit: float, *args: Any, **sizes: Any) -> Attempt:
  """Call `compiled_step`, and accept that the step may need more memory than a chip has.

  Args:
    limit: Bytes of memory of a chip.
    *args: Arguments of `compiled_step`.
    **sizes: Further arguments of `compiled_step`.
  """
  try:
    step = compiled_step(*args, **sizes)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    # The message rounds the number of bytes, but a step that the compiler rejects never fits.
    return Attempt(None, max(bytes_asked(str(error)), math.nextafter(limit, math.inf)))
  return Attempt(step, sum(step["memory"].values()))


def bytes_asked(complaint: str) -> float:
  """Return the bytes that a program needs, from the compiler's message that they are too many."""
  found = re.search(r"Used ([\d.]+)([KMGT])|\(([\d.]+)([KMGT])\) exceeds", complaint)
  if found is None:
    return math.inf
  return float(found[1] or found[3]) * UNITS[found[2] or found[4]]


def largest_fitting(
  bytes_of: Callable[[int], float], limit: float, too_many: int, asked: float
) -> int:
  """Return the largest number of clips per chip that fits, or 0.

  Above 8 only multiples of 8 are tried, the size of a chip's tiles and of mixup's groups. The bytes
  grow almost linearly with the clips, so interpolation needs few trials.

  Args:
    bytes_of: Function from clips per chip to the bytes that they need.
    limit: Bytes of memory of a chip.
    too_many: Number of clips that does not fit.
    asked: Bytes that `too_many` clips need.
  """
  sizes = [n for n in (0, 1, 2, 4, *range(8, too_many, 8)) if n < too_many] + [too_many]
  low, high = 0, len(sizes) - 1  # sizes[low] fits, sizes[high] does not
  of_low, of_high = 0.0, asked
  halve = False
  while high - low > 1:
    guess = (low + high) // 2
    if not halve and math.isfinite(of_high):
      share = (limit - of_low) / (of_high - of_low)
      clips = sizes[low] + share * (sizes[high] - sizes[low])
      guess = bisect.bisect_right(sizes, clips) - 1
    guess = min(max(guess, low + 1), high - 1)
    found = bytes_of(sizes[guess])
    # After a guess that leaves more than half of the range, the next step bisects.
    span = high - low
    if found <= limit:
      low, of_low = guess, found
    else:
      high, of_high = guess, found
    halve = 2 * (high - low) > span and not halve
  return sizes[low]


def figures(
  topology: str,
  batch: int,
  data: Data,
  step: dict[str, Any],
  *,
  steps: int,
  dtype: str,
  clips_read: int,
  checkpoints: int,
  on_chips: bool,
) -> dict[str, Any]:
  """Return the estimates that follow from a compiled step.

  Args:
    topology: Topology such as `v5e:16x16`.
    batch: Examples per step over all chips.
    data: Sizes of the data.
    step: Result of `compiled_step`.
    steps: Number of steps of the training.
    dtype: Compute type.
    clips_read: Clips that a step reads over all chips.
    checkpoints: Largest number of checkpoints on disk at a time.
    on_chips: Whether the training clips stay in the memory of the chips.
  """
  chip, shape = chip_of(topology)
  memory, chips, hosts = step["memory"], step["chips"], step["hosts"]
  seconds = roofline(chip, shape, step["product_flops"], step["hbm_bytes"], step["collectives"])
  single = max(seconds["compute"], seconds["memory"])
  per_clip = clip_bytes(data.classes, data.frames, data.bands, data.dtype)
  read = clips_read / hosts / seconds["step"]
  return {
    "topology": topology,
    "chips": chips,
    "hosts": hosts,
    "batch": batch,
    "clips_per_chip": batch // chips,
    "dtype": dtype,
    "classes": data.classes,
    "frames": data.frames,
    "bands": data.bands,
    "memory": memory,
    "memory_total": sum(memory.values()),
    "memory_of_chip": chip.hbm,
    "product_flops": step["product_flops"],
    "compiler_flops": step["flops"],
    "hbm_bytes": step["hbm_bytes"],
    "collectives": [
      {"kind": kind, "bytes": size, "count": step["collectives"].count((kind, size))}
      for kind, size in sorted(set(step["collectives"]), key=lambda found: -found[1])
    ],
    "seconds": seconds,
    "clips_per_second": batch / seconds["step"],
    "scaling_efficiency": single / seconds["step"],
    "steps": steps,
    "hours": steps * seconds["step"] / 3600,
    "input": {
      "clips_per_second_per_host": 0.0 if on_chips else read,
      "bytes_per_second_per_host": 0.0 if on_chips else read * per_clip,
      "network_bytes_per_second_per_host": chip.host_rate,
    },
    "disk": {
      "clips": data.clips,
      "store_bytes": data.stored_bytes,
      "store_bytes_read_per_host": data.stored_bytes // hosts if on_chips else data.stored_bytes,
      "checkpoint_bytes": step["state_bytes"],
      "checkpoints_bytes": checkpoints * step["state_bytes"],
    },
    "compile_seconds": step["compile_seconds"],
  }


def plan_text(found: Mapping[str, Any]) -> str:
  """Return the result of `plan_training` as text."""
  disk, inputs, seconds = found["disk"], found["input"], found["seconds"]
  rows: list[tuple[str, str]] = [
    ("topology", f"{found['topology']}: {found['chips']} chips, {found['hosts']} hosts"),
    ("batch", f"{found['batch']} clips per step, {found['clips_per_chip']} per chip"),
    *(("assumed", line) for line in found["assumed"]),
    ("memory per chip", ""),
    *((f"  {kind}", _bytes(size)) for kind, size in found["memory"].items()),
    ("  total", f"{_bytes(found['memory_total'])} of {_bytes(found['memory_of_chip'])}"),
    ("FLOPs per chip", f"{found['product_flops']:.4g} of products"),
    ("", f"{found['compiler_flops']:.4g} as counted by the compiler"),
    ("bytes per chip", f"{_bytes(found['hbm_bytes'])} read and written, counted by the compiler"),
    *(
      ("collectives", f"{row['count']} {row['kind']} of {_bytes(row['bytes'])}")
      for row in found["collectives"]
    ),
    ("step, predicted", f"{seconds['step'] * 1e3:.3g} ms: the longer of"),
    (
      "",
      f"products {seconds['compute'] * 1e3:.3g} ms and memory {seconds['memory'] * 1e3:.3g} ms,",
    ),
    ("", f"plus collectives {seconds['collectives'] * 1e3:.3g} ms, not overlapped"),
    ("rate, predicted", f"{found['clips_per_second']:,.0f} clips/s"),
    (
      "scaling, predicted",
      f"{found['scaling_efficiency']:.1%} of the rate of as many single chips",
    ),
    ("hours, predicted", f"{found['hours']:.3g} for {found['steps']:,} steps"),
    (
      "input per host",
      f"{inputs['clips_per_second_per_host']:,.0f} clips/s, "
      f"{inputs['bytes_per_second_per_host'] / 1e6:,.0f} MB/s",
    ),
    (
      "disk: clips",
      f"{_bytes(disk['store_bytes'])} for {disk['clips']:,} clips; each host reads "
      f"{_bytes(disk['store_bytes_read_per_host'])}",
    ),
    (
      "disk: checkpoints",
      f"{_bytes(disk['checkpoints_bytes'])}, {_bytes(disk['checkpoint_bytes'])} each",
    ),
  ]
  if found["compiler_flops"] < 0.8 * found["product_flops"]:
    rows.append(("note", "the compiler counts the body of a loop once; the real bytes are higher"))
  return "\n".join(f"{name:30}{text}".rstrip() for name, text in rows)


def _bytes(size: float) -> str:
  """Format a number of bytes with a suitable unit."""
  for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
    if size >= scale:
      return f"{size / scale:.4g} {unit}"
  return f"{size:.0f} B"
