"""What TPU chips can do at most, and what follows for a step: a roofline of three ceilings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from atgcn_jax.errors import UserError

GIB = 2**30
HOP_SECONDS = 1e-6  # from chip to chip, before the first byte


class Chip(NamedTuple):
  """One kind of chip; peaks as published, of which no program reaches all.

  Attributes:
    flops: bfloat16 products a second. A float32 product takes one pass in bfloat16 too, which is
      JAX's default precision on a TPU.
    hbm: bytes of memory that the compiler leaves to a program.
    hbm_rate: bytes a second from and to it.
    link_rate: bytes a second over one link to a neighbour, one way.
    ring: an axis of the topology whose length is a multiple of this closes to a ring; others are
      lines.
    most: chips in the largest topology.
    host_rate: bytes a second of a host's network, None where it is not published.
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
# v6e. `hbm` is what the compiler of libtpu 0.0.42 says to a program that asks for more.
CHIPS = {
  "v4": Chip(275e12, int(30.75 * GIB), 1200e9, 50e9, 4, 4096, None),
  "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 50e9, 16, 256, 25e9),
  "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 100e9, 4, 6144, 25e9),
  "v6e": Chip(918e12, int(31.25 * GIB), 1640e9, 100e9, 16, 256, 100e9),
}


def chip_of(topology: str) -> tuple[Chip, tuple[int, ...]]:
  """The kind of chip of a topology such as `v5e:4x4`, and the chips along its axes.

  Raises:
    UserError: for another form, an unknown kind, or more chips than there are together.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
  if match is None or match[1] not in CHIPS:
    raise UserError(
      f"--topology {topology}: not a TPU topology; write KIND:AxB or KIND:AxBxC, such as "
      f"v5e:4x4, the kind one of {', '.join(CHIPS)}"
    )
  chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
  if not 0 < math.prod(shape) <= chip.most:
    raise UserError(
      f"--topology {topology}: {math.prod(shape)} chips, of {match[1]} there are 1 to {chip.most} "
      "together; take another"
    )
  return chip, shape


def roofline(
  chip: Chip,
  shape: Iterable[int],
  flops: float,
  hbm_bytes: float,
  collectives: Iterable[tuple[str, int]],
) -> dict[str, float]:
  """Seconds that a step takes at the least: `compute`, `memory`, `collectives`, and `step`.

  The step is the longer of the first two, which overlap, and the third, which is taken not to
  overlap with them.

  Args:
    shape: chips along the axes of the topology.
    flops: of products, a chip.
    hbm_bytes: read and written, a chip.
    collectives: kind and bytes of the result on a chip, over all chips.
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
  """Seconds of one collective operation over all chips of a torus or mesh.

  The bytes go over all links of a chip at once: two an axis that is a ring, one an axis that is a
  line. Beside them stands the way itself, of as many hops as the axes are long.

  Args:
    kind: as XLA calls it.
    size: bytes of the result on a chip.
  Source: Chan et al., Concurrency and Computation 2007, for the bytes; Austin et al., How to Scale
    Your Model, 2025, for all axes at once and the time of a hop.
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
