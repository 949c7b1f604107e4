"""`atgcn bench`: run the benchmark that the options name and format its result."""

from __future__ import annotations

import os
from typing import Any

from atgcn_jax.errors import UserError, reason

EDGES = 30  # edges of each label in the benchmark of the label graph


def run(options: Any) -> tuple[dict[str, Any], str]:
  """Run a benchmark.

  Args:
    options: Options of the command line.

  Returns:
    The result as plain data for JSON, and as text.

  Raises:
    UserError: If an option does not fit the benchmark.
  """
  what = options.what
  if what in ("train", "infer"):
    from atgcn_jax.bench.operations import operation_table
    from atgcn_jax.bench.steps import bench

    if options.trace:
      _make_trace_folder(options.trace)
    result = bench(
      what, options.model, options.batch, options.steps, options.dtype, trace=options.trace
    )
    if options.trace:
      figures = {name: value for name, value in result.items() if name != "operations"}
      return result, f"{_lines(figures)}\n\n{operation_table(result['operations'])}"
  elif what == "layers":
    from atgcn_jax.bench.layers import bench_layers, layer_table

    result = bench_layers(options.batch, options.steps, options.dtype)
    return result, layer_table(result)
  elif what in ("compile", "memory"):
    from atgcn_jax.bench.steps import bench_starts

    result = bench_starts(what, options.model, options.batch, options.dtype)
  elif what in ("metrics", "frontend"):
    from atgcn_jax.bench import host as bench_host

    reference = options.reference
    if what == "metrics":
      metrics = bench_host.reference_metrics if reference else bench_host.bench_metrics
      result = metrics(20371, 527, options.steps)
    else:
      log_mels = bench_host.reference_frontend if reference else bench_host.bench_frontend
      result = log_mels(options.frontend, options.batch, options.steps)
  elif what == "graph":
    from atgcn_jax.bench.graph import bench_graph

    if options.labels <= EDGES:
      raise UserError(
        f"--labels {options.labels}: must be at least {EDGES + 1} for graph, whose labels have "
        f"{EDGES} edges each"
      )
    result = bench_graph(options.labels, EDGES, options.steps, options.hubs)
  elif what == "counts":
    from atgcn_jax.bench.graph import bench_counts

    result = bench_counts(2041789, options.labels)
  elif what == "data":
    from atgcn_jax.bench.data import bench_data

    result = bench_data(options.clips, options.batch, options.twin)
  elif what == "feed":
    from atgcn_jax.bench.feed import bench_feed

    result = bench_feed(options.clips, options.model, options.batch, options.steps, options.dtype)
  else:
    from atgcn_jax.bench.peers import compare_with_peers, peer_table

    if not options.twin:
      raise UserError("--twin: compare needs the script of the PyTorch side; name it")
    result = compare_with_peers(options.twin, options.steps)
    return result, peer_table(result)
  return result, _lines(result)


def _make_trace_folder(folder: str) -> None:
  """Make the folder of a trace now: the profiler would find a fault only after the benchmark."""
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"--trace {folder}: this folder cannot be made ({reason(error)}); name another"
    ) from error


def _lines(figures: dict[str, Any]) -> str:
  return "\n".join(f"{name:24} {value}" for name, value in figures.items())
