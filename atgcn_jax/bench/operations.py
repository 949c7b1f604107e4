"""The operations that take longest in a profile."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from jax.profiler import ProfileData

LINES = ("Stream", "XLA Ops")  # first words of the lines of a device: of a GPU, and of a TPU


def longest_operations(folder: str | os.PathLike, count: int = 20) -> list[dict[str, Any]]:
  """Return the operations of the newest profile in a folder that took longest.

  Args:
    folder: Folder of `jax.profiler.trace`.
    count: Number of operations to return.

  Returns:
    For each operation, longest first, its `name` in the compiled program, the `kernel` that a GPU
    ran for it (otherwise empty), `seconds` over all steps and threads, and its `share` of the
    seconds of all operations. An operation that contains others, such as a loop, includes them.
  """
  newest = max(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
  seconds: collections.defaultdict[tuple[str, str], float] = collections.defaultdict(float)
  for operation, duration in _timed(ProfileData.from_file(str(newest))):
    seconds[operation] += duration / 1e9
  total = sum(seconds.values())
  return [
    {"name": name, "kernel": kernel, "seconds": taken, "share": taken / total}
    for (name, kernel), taken in sorted(seconds.items(), key=lambda item: -item[1])[:count]
  ]


def _timed(profile: ProfileData) -> Iterator[tuple[tuple[str, str], float]]:
  """Yield ((name, kernel), nanoseconds) of each event: on the devices, or else on the CPU."""
  devices = [plane for plane in profile.planes if plane.name.startswith("/device:")]
  for plane in devices or profile.planes:
    for line in plane.lines:
      if devices and not line.name.startswith(LINES):
        continue
      for event in line.events:
        name = str(dict(event.stats).get("hlo_op", ""))
        # Kernels of a recorded graph may have no name of an operation.
        if devices or (name and not event.name.startswith("end: ")):
          kernel = event.name if event.name != name else ""
          yield (name or event.name, kernel), event.duration_ns


def operation_table(operations: list[dict[str, Any]]) -> str:
  """Return the result of `longest_operations` as a Markdown table."""
  lines = ["| operation | kernel | time | share |", "|---|---|---|---|"]
  for one in operations:
    time = f"{one['seconds'] * 1e3:.2f} ms"
    lines.append(f"| {one['name']} | {one['kernel'][:60]} | {time} | {one['share']:.1%} |")
  return "\n".join(lines)
