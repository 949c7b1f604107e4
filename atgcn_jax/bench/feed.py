"""Benchmark of the ways to feed a training step with clips."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from atgcn_jax.bench.data import ROUNDS, made_up_store
from atgcn_jax.bench.steps import system_of
from atgcn_jax.errors import UserError
from atgcn_jax.runs.step_inputs import Feed, device_feed, host_feed
from atgcn_jax.runtime.process_setup import peak_bytes


def bench_feed(clips: int, model_name: str, batch: int, steps: int, dtype: str) -> dict[str, Any]:
  """Measure a training step fed with a constant batch, by the host, and from the device's memory.

  Rounds of the three feeds are run in turn: five, but no more than a round has steps.

  Args:
    clips: Number of clips in the store, which is temporary.
    model_name: `cnn10` or `atgcn`, at full size.
    batch: Clips per step, over all devices.
    steps: Steps per round.
    dtype: Compute type, `float32` or `bfloat16`.

  Returns:
    `seconds_per_step` and `clips_per_second` of the step that the host feeds;
    `constant_seconds` of the step with a constant batch; for `host` and `device` each the median
    `_seconds`, the `_slowdown` relative to `constant_seconds` (0 for none) and `_wait`, the
    fraction of the time that the step waits for its input; `peak_bytes`.

  Raises:
    UserError: The system has another front end than the store.
  """
  if model_name not in ("cnn10", "atgcn"):
    raise UserError(f"--model {model_name}: feed has clips for cnn10 and atgcn; choose one of them")
  with made_up_store(clips) as store:
    system = system_of(model_name, dtype)
    rounds = min(ROUNDS, steps)
    count = steps * (rounds + 1)
    arguments = store, np.arange(clips), system.mesh, range(1 + count), batch, 0
    host, device = (make(*arguments, balanced=True) for make in (host_feed, device_feed))
    constant = Feed(iter([next(host.given)] * count), host.batch_of)
    feeds = {"constant": constant, "host": host, "device": device}
    by_host = system.train_step(batch_of=host.batch_of)
    by_device = system.train_step(batch_of=device.batch_of)
    train_steps = {"constant": by_host, "host": by_host, "device": by_device}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in feeds}
    state = system.state
    for _ in range(rounds + 1):
      for name, feed in feeds.items():
        state, seconds, waited = _fed(train_steps[name], state, feed.given, steps)
        taken[name].append((seconds, waited / seconds))
  median = {
    name: tuple(statistics.median(values) for values in zip(*times[1:]))  # the first compiles
    for name, times in taken.items()
  }
  base = median["constant"][0] / steps
  result: dict[str, Any] = {
    "who": f"atgcn_jax on jax {jax.__version__}",
    "what": "feed",
    "model": model_name,
    "clips": clips,
    "batch": batch,
    "dtype": dtype,
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "seconds_per_step": median["host"][0] / steps,
    "clips_per_second": batch * steps / median["host"][0],
    "constant_seconds": base,
  }
  for name in ("host", "device"):
    seconds, wait = median[name]
    result[f"{name}_seconds"] = seconds / steps
    result[f"{name}_slowdown"] = seconds / steps / base - 1
    result[f"{name}_wait"] = wait
  return result | {"peak_bytes": peak_bytes()}


def _fed(
  train_step: Callable, state: Any, given: Iterator[Any], steps: int
) -> tuple[Any, float, float]:
  """Run some steps in the same way as a run.

  Returns:
    The new state, the seconds of the steps, and the seconds of waiting for input.
  """
  start, waited, before = time.perf_counter(), 0.0, None
  for _ in range(steps):
    asked = time.perf_counter()
    fed = next(given)
    waited += time.perf_counter() - asked
    state, metrics = train_step(state, fed, 1.0)
    jax.block_until_ready(before)
    before = metrics
  jax.block_until_ready(state)
  return state, time.perf_counter() - start, waited
