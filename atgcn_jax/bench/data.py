"""Timing of the way of clips from a store to the device, beside the usual loader."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from atgcn_jax.audio.frontend import FRONTENDS
from atgcn_jax.bench.graph import made_up_clips
from atgcn_jax.bench.steps import BANDS, CLASSES, FRAMES, NORMALISER, run_json
from atgcn_jax.data.sampling import clip_order
from atgcn_jax.data.store.clip_store import ClipStore, open_store, write_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.step_inputs import host_feed
from atgcn_jax.runtime.process_setup import cache_folder, peak_bytes
from atgcn_jax.training import sharding
from atgcn_jax.training.step import normalised_log_mel

TWIN = "../shared/bench/h5_loader.py"
ROUNDS, BATCHES = 5, 1000  # of each round
AUDIOSET = 2_041_789  # clips


def bench_data(clips: int, batch: int, twin: str | None = None) -> dict[str, Any]:
  """Clips a second from a store of random 400x64 clips to float32 on the device, and beside it.

  The store is made for this and removed; its pages are in the system's cache. The batches are
  class-balanced, of 527 labels.

  Args:
    clips: of the store.
    batch: clips a step, over all devices.
    twin: the usual loader, a script that takes `--file`, `--dataset` and `--batch` and prints a
      line of JSON; run in turn with ours. None: `TWIN`, if it is there and torch is.
  Returns:
    medians of the rounds `clips_per_second` and `seconds_per_step`,
    `gather_clips_per_second` of nothing but the reading of rows of the mapped file,
    `twin_clips_per_second` and `ratio` (None without a twin), `resident_bytes` of the process after
    so many batches and `own_bytes`, which are those without the mapped file, `sampler_bytes`,
    `sampler_seconds` and `sampler_peak_bytes` (while they are made) of the sampler's tables for all
    of AudioSet, and `peak_bytes`.
  Raises:
    UserError: if the twin cannot be run or the store does not fit on the disk.
    WorkFailed: if the twin fails.
  """
  twin = checked_twin(twin)
  with made_up_store(clips) as store:
    mesh = sharding.data_mesh()
    feed = host_feed(
      store, np.arange(clips), mesh, range(ROUNDS * BATCHES), batch, 0, balanced=True
    )
    decoded = jax.jit(lambda given: normalised_log_mel(given, NORMALISER))
    memory: dict[str, dict[int, int]] = {"resident_bytes": {}, "own_bytes": {}}
    ours, peers, gathers = [], [], []
    for first in range(0, ROUNDS * BATCHES, BATCHES):
      gathers.append(gather_rate(store, batch))
      ours.append(_through(feed.given, decoded, first, memory))
      if twin:
        command = [sys.executable, twin, "--file", store.path, "--dataset", "log_mel"]
        peers.append(run_json([*command, "--batch", str(batch)])["clips_per_second"])
  seconds = statistics.median(ours)
  rate, peer = batch / seconds, statistics.median(peers) if peers else None
  return {
    "who": f"atgcn_jax on jax {jax.__version__}",
    "what": "data",
    "clips": clips,
    "batch": batch,
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "seconds_per_step": seconds,
    "clips_per_second": rate,
    "gather_clips_per_second": statistics.median(gathers),
    "twin_clips_per_second": peer,
    "ratio": rate / peer if peer else None,
    **memory,
    **sampler_figures(AUDIOSET),
    "peak_bytes": peak_bytes(),
  }


def _through(
  given: Iterator[Any], decoded: Callable, first: int, memory: dict[str, dict[int, int]]
) -> float:
  """Seconds a batch of a round; notes the memory after its half and at its end."""
  start, before = time.perf_counter(), None
  for number in range(first + 1, first + BATCHES + 1):
    values = decoded(next(given))
    jax.block_until_ready(before)  # one batch is under way while the next is asked for
    before = values
    if number % (BATCHES // 2) == 0:
      for name, line in (("resident_bytes", "VmRSS:"), ("own_bytes", "RssAnon:")):
        memory[name][number] = memory_now(line)
  jax.block_until_ready(before)
  return (time.perf_counter() - start) / BATCHES


def gather_rate(store: ClipStore, batch: int, batches: int = 200) -> float:
  """Clips a second of reading random rows of the mapped file, a batch at a time."""
  picks = np.random.default_rng(0).integers(0, len(store), (batches, batch))
  start = time.perf_counter()
  for rows in picks:
    store.log_mel[rows]
  return batches * batch / (time.perf_counter() - start)


def sampler_figures(clips: int) -> dict[str, Any]:
  """Bytes of the balanced sampler's tables, seconds to make them, and the most bytes meanwhile."""
  offsets, labels = made_up_clips(clips, CLASSES)
  start = time.perf_counter()
  sampler = clip_order.balanced_sampler(np.arange(clips), offsets, labels, 0)
  seconds = time.perf_counter() - start
  tracemalloc.start()
  clip_order.balanced_sampler(np.arange(clips), offsets, labels, 0)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return {
    "sampler_clips": clips,
    "sampler_bytes": sampler.clips.nbytes + sampler.starts.nbytes,
    "sampler_seconds": seconds,
    "sampler_peak_bytes": peak,
  }


@contextlib.contextmanager
def made_up_store(clips: int) -> Iterator[ClipStore]:
  """A store of random bytes as log-mels 400x64 and of labels as `made_up_clips` has them.

  It lies in a folder within the cache folder, which is removed.

  Raises:
    UserError: if the disk has no room for it.
  """
  cache = cache_folder()
  needed, free = int(1.02 * clips * FRAMES * BANDS), shutil.disk_usage(cache).free
  if needed > free:
    raise UserError(
      f"--clips {clips}: need {needed / 1e9:.1f} GB in {cache}, which has {free / 1e9:.1f} free; "
      "take fewer, or name another disk's folder in XDG_CACHE_HOME"
    )
  with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
    path = pathlib.Path(folder) / "store.h5"
    _write(path, clips)
    store = open_store(path)
    for first in range(0, clips, 2000):  # into the system's cache, and mapped
      store.log_mel[np.arange(first, min(first + 2000, clips))].max()
    yield store


def _write(path: pathlib.Path, clips: int) -> None:
  offsets, labels = made_up_clips(clips, CLASSES)
  names = tuple(map(str, range(CLASSES)))
  random = np.random.default_rng(0)
  chunk = min(clips, 2000)
  log_mel = random.integers(0, 256, (chunk, FRAMES, BANDS), np.uint8)

  def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(0, clips, chunk):
      count = min(chunk, clips - first)
      # The same bytes moved on by a number, which is as random and far quicker.
      moved = log_mel[:count] + np.uint8(first // chunk % 256)
      yield moved, random.uniform(-40, 20, count).astype(np.float32)

  write_store(
    path,
    chunks(),
    dtype="uint8",
    clip_ids=[f"clip {i}" for i in range(clips)],
    folds=["train"] * clips,
    labels=[row.tolist() for row in np.split(labels, offsets[1:-1])],
    vocabulary=Vocabulary(names, names),
    frontend=FRONTENDS["talnet"],
  )


def checked_twin(twin: str | None) -> str | None:
  """The script to run, or None where the usual one or torch is not there.

  Raises:
    UserError: if a script was named and cannot be run.
  """
  named, twin = twin is not None, twin or TWIN
  for missing, why in (
    (not pathlib.Path(twin).is_file(), "no such file; name the script of the usual loader"),
    (importlib.util.find_spec("torch") is None, "needs torch; install it or leave --twin out"),
  ):
    if missing and named:
      raise UserError(f"--twin {twin}: {why}")
    if missing:
      return None
  return twin


def memory_now(name: str) -> int:
  """Bytes of this process's memory by its name in Linux's /proc/self/status; else 0."""
  try:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return 0
  return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
