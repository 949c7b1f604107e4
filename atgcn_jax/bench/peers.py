"""Comparison of this package with PyTorch, scikit-learn and librosa, run in turn."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

import jax

from atgcn_jax.bench.steps import alone, matrix_product_rate, run_json
from atgcn_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "scikit-learn", "librosa")
OURS = [sys.executable, "-m", "atgcn_jax", "bench"]


def compare_with_peers(twin: str, rounds: int) -> dict[str, Any]:
  """Run all comparisons that this machine supports, this package in turn with its peer.

  Args:
    twin: Script of the PyTorch side. It takes `--what`, `--model`, `--batch`, `--steps` and, on a
      GPU, `--device cuda --amp --compile`, and prints a line of JSON.
    rounds: Number of runs of each side; the result has the medians.

  Returns:
    `machine`, and `rows` with `name`, `ours`, `peer`, `ratio` (above 1 if this package is faster or
    takes less memory), `unit` and `limit`. The limit is the rate that the device's matrix products
    allow for all multiplications of the layers, or None if the row is not limited by them.

  Raises:
    UserError: The script does not exist.
    WorkFailed: A side fails.
  """
  if not pathlib.Path(twin).is_file():
    raise UserError(f"--twin {twin}: no such file; name the script of the PyTorch side")
  rows: list[dict[str, Any]] = []
  # This process does not use the device itself: it would keep most of its memory.
  facts = alone(_device_facts)
  on_gpu, dtype, peak = facts["on_gpu"], facts["dtype"], facts["peak"]
  for what, batches in (("train", (64, 256, 1024) if on_gpu else (16,)), ("infer", (1, 16))):
    for model in ("cnn10", "atgcn"):
      for batch in batches:
        arguments = ["--model", model, "--batch", str(batch), "--steps", "5"]
        ours = [*OURS, what, "--json", *arguments, "--dtype", dtype]
        peer = [sys.executable, twin, "--what", what, *arguments]
        if on_gpu:
          peer += ["--device", "cuda", "--amp", *(["--compile"] if what == "train" else [])]
        results = in_turn(ours, peer, rounds)
        name = f"{what} {model}, batch {batch}, {dtype}"
        limit = peak * batch / results[0][0]["flops"]
        rows.append(_row(name, results, "clips_per_second", "clips/s", limit))
        if what == "train":
          rows.append(_row(f"{name}: peak memory", results, "peak_bytes", "bytes"))
  for name, command in (
    ("mAP and mAUC, 20,371 x 527", [*OURS, "metrics", "--json"]),
    *(
      (f"log-mel {name}, batch 16", [*OURS, "frontend", "--json", "--frontend", name])
      for name in ("talnet", "panns")  # librosa has no equivalent of vggish
    ),
  ):
    results = in_turn(command, [*command, "--reference"], rounds)
    rows.append(_row(name, results, "seconds", "s"))
  return {"machine": facts["machine"], "rows": rows}


def _device_facts() -> dict[str, Any]:
  """Return the kind of device, the type of numbers, their rate of products, and `machine`."""
  on_gpu = jax.default_backend() == "gpu"
  dtype = "bfloat16" if on_gpu else "float32"
  peak = matrix_product_rate(dtype)
  return {"on_gpu": on_gpu, "dtype": dtype, "peak": peak, "machine": machine()}


def in_turn(ours: list[str], peer: list[str], rounds: int) -> tuple[list[dict], list[dict]]:
  """Run both commands in each round, after one run of `ours` to fill the compilation cache.

  Returns:
    The JSON objects that the commands print, for each side.
  """
  run_json(ours)
  pairs = [(run_json(ours), run_json(peer)) for _ in range(rounds)]
  return [first for first, _ in pairs], [second for _, second in pairs]


def _row(name, results, key, unit, limit=None) -> dict[str, Any]:
  ours, peer = (statistics.median(result[key] for result in side) for side in results)
  ratio = ours / peer if unit == "clips/s" else peer / ours
  return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "limit": limit}


def machine() -> dict[str, str]:
  """Return what results depend on: date, processor, device, system, Python, package versions."""
  found = {"date": datetime.date.today().isoformat(), "processor": _processor()}
  found["cores"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?")
  found["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
  found["system"] = platform.platform()
  found["python"] = platform.python_version()
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = "absent"
  return found


def _processor() -> str:
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return platform.processor()
  return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")


def peer_table(result: dict[str, Any]) -> str:
  """Return the result of `compare_with_peers` as a Markdown table."""
  lines = ["| what | ours | peer | ratio | limit |", "|---|---|---|---|---|"]
  for row in result["rows"]:
    cells = [_number(row[key], row["unit"]) for key in ("ours", "peer")]
    limit = "–" if row["limit"] is None else _number(row["limit"], row["unit"])
    lines.append(f"| {row['name']} | {cells[0]} | {cells[1]} | {row['ratio']:.2f} | {limit} |")
  about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
  return "\n".join([*lines, "", about])


def _number(value: float, unit: str) -> str:
  return f"{value / 1e9:.2f} GB" if unit == "bytes" else f"{value:.4g} {unit}"
