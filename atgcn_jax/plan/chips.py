"""Peak rates of TPU chips, and a roofline model of a step with three limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from atgcn_jax.errors import UserError

GIB = 2**30
HOP_SECONDS = 1e-6  # latency from one chip to a neighbour


class Chip(NamedTuple):
  """One kind of chip, with its published peak rates, which no program reaches completely.

  Attributes:
    flops: FLOP/s of bfloat16 products. A float32 product also takes one pass in bfloat16, which is
      JAX's default precision on a TPU.
    hbm: Bytes of memory that the compiler makes available to a program.
    hbm_rate: Bytes per second read from and written to this memory.
    link_rate: Bytes per second over one link to a neighbour, in one direction.
    ring: An axis of the topology is a ring if its length is a multiple of this number, otherwise a
      line.
    most: Number of chips in the largest topology.
    host_rate: Bytes per second of a host's network; None if it is not published.
  """

  flops: float
  hbm: int
  hbm_rate: float
  link_rate: float
  ring: int
  most: int
  host_rate: float | None


# Source: Cloud TPU documentation, pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", read in
# November 2026; links of v4 from Jouppi et al., ISCA 2023. The documentation gives the rate of all
# links of a chip in both directions: 400, 1200 and 800 GB/s over 4, 6 and 4 links of v5e, v5p and
# v6e. `hbm` is the limit in the error message of libtpu 0.0.42 for a program that needs more.
CHIPS = {
  "v4": Chip(275e12, int(30.75 * GIB), 1200e9, 50e9, 4, 4096, None),
  "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 50e9, 16, 256, 25e9),
  "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 100e9, 4, 6144, 25e9),
  "v6e": Chip(918e12, int(31.25 * GIB), 1640e9, 100e9, 16, 256, 100e9),
}


def chip_of(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """Parse a topology such as `v5e:4x4`.

  Returns:
    The kind of chip, and the number of chips along each axis.

  Raises:
    UserError: The text has another form, the kind is unknown, or the topology is too large.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
  if match is None or match[1] not in CHIPS:
    raise UserError(
      f"--topology {topology}: not a TPU topology; write KIND:AxB or KIND:AxBxC, such as "
      f"v5e:4x4, where KIND is one of {', '.join(CHIPS)}"
    )
  chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
  if not 0 < math.prod(shape) <= chip.most:
    raise UserError(
      f"--topology {topology}: has {math.prod(shape)} chips, but a {match[1]} topology has 1 to "
      f"{chip.most}; choose another"
    )
  return chip, shape


def roofline(
  chip: Chip,
  shape: Iterable[int],
  flops: float,
  hbm_bytes: float,
  collectives: Iterable[tuple[str, int]],
) -> dict[str, float]:
  """Return a lower bound of the time of a step.

  Computation and memory access overlap. Collective operations are assumed not to overlap with them.

  Args:
    chip: Kind of chip.
    shape: Number of chips along each axis of the topology.
    flops: FLOPs of products per chip.
    hbm_bytes: Bytes read and written per chip.
    collectives: Kind and bytes of the result per chip, for each collective operation.

  Returns:
    Seconds of `compute`, `memory` and `collectives`, and of the `step`: the longer of the first two
    plus the third.

  Source: Williams, Waterman and Patterson, Communications of the ACM 2009.
  """
  shape = tuple(shape)
  compute, memory = flops / chip.flops, hbm_bytes / chip.hbm_rate
  together = sum(collective_seconds(chip, shape, kind, size) for kind, size in collectives)
  return {
    "compute": compute,
    "memory": memory,
    "collectives": together,
    "step": max(compute, memory) + together,
  }


def collective_seconds(chip: Chip, shape: tuple[int, ...], kind: str, size: int) -> float:
  """Return the seconds of one collective operation over all chips of a torus or mesh.

  The data is sent over all links of a chip at once: two per axis that is a ring, one per axis that
  is a line. The latency of the hops along all axes is added.

  Args:
    chip: Kind of chip.
    shape: Number of chips along each axis of the topology.
    kind: Name of the operation in XLA.
    size: Bytes of the result per chip.

  Source: Chan et al., Concurrency and Computation 2007, for the bytes; Austin et al., How to Scale
    Your Model, 2025, for the use of all axes at once and the latency of a hop.
  """
  chips = math.prod(shape)
  if chips == 1:
    return 0.0
  links = sum(2 if length % chip.ring == 0 else 1 for length in shape if length > 1)
  hops = sum(length - 1 for length in shape)
  sent = {
    "all-reduce": 2 * (chips - 1) / chips * size,
    "all-gather": (chips - 1) / chips * size,
    "reduce-scatter": (chips - 1) * size,
  }.get(kind, size)
  rounds = 2 if kind == "all-reduce" else 1
  return sent / (links * chip.link_rate) + rounds * hops * HOP_SECONDS
