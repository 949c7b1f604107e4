"""Benchmark of the transfer of clips from a store to the device, next to a reference loader."""

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
from atgcn_jax.data.store.clip_store import ClipStore, open_store
from atgcn_jax.data.store.store_writing import write_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.step_inputs import host_feed
from atgcn_jax.runtime.process_setup import cache_folder, peak_bytes
from atgcn_jax.training import sharding
from atgcn_jax.training.step import normalised_log_mel

ROUNDS, BATCHES = 5, 1000  # number of rounds, batches per round
AUDIOSET = 2_041_789  # clips in AudioSet's training set


def bench_data(clips: int, batch: int, twin: str | None = None) -> dict[str, Any]:
  """Measure the rate of clips from a store of random 400x64 clips to float32 on the device.

  The store is temporary, and its pages are in the system's cache. The batches are class-balanced,
  of 527 labels.

  Args:
    clips: Number of clips in the store.
    batch: Clips per step, over all devices.
    twin: Script of the reference loader, which is run in turn. It takes `--file`, `--dataset` and
      `--batch` and prints a line of JSON. By default there is none.

  Returns:
    Medians over the rounds: `clips_per_second`, `seconds_per_step`, `gather_clips_per_second` for
    reading rows of the mapped file only, `twin_clips_per_second` and `ratio` (None without a twin).
    Memory of the process by number of batches: `resident_bytes`, and `own_bytes` without the mapped
    file. Tables of the balanced sampler for all of AudioSet: `sampler_bytes`, `sampler_seconds`
    and `sampler_peak_bytes` while they are built. `peak_bytes` of the process.

  Raises:
    UserError: The twin cannot be run, or the store does not fit on the disk.
    WorkFailed: The twin fails.
  """
  if twin is not None:
    check_twin(twin)
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
  """Run one round and return the seconds per batch.

  The memory of the process is recorded after half of the batches and after all of them.
  """
  start, before = time.perf_counter(), None
  for number in range(first + 1, first + BATCHES + 1):
    values = decoded(next(given))
    jax.block_until_ready(before)  # one batch is in progress while the next is requested
    before = values
    if number % (BATCHES // 2) == 0:
      for name, line in (("resident_bytes", "VmRSS:"), ("own_bytes", "RssAnon:")):
        memory[name][number] = memory_now(line)
  jax.block_until_ready(before)
  return (time.perf_counter() - start) / BATCHES


def gather_rate(store: ClipStore, batch: int, batches: int = 200) -> float:
  """Return the clips per second of reading random rows of the mapped file in batches."""
  picks = np.random.default_rng(0).integers(0, len(store), (batches, batch))
  start = time.perf_counter()
  for rows in picks:
    store.log_mel[rows]
  return batches * batch / (time.perf_counter() - start)


def sampler_figures(clips: int) -> dict[str, Any]:
  """Measure the size of the balanced sampler's tables, and the time and memory to build them."""
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
  """Yield a temporary store of random 400x64 log-mels, with the labels of `made_up_clips`.

  The store is written to a temporary folder in the cache folder.

  Raises:
    UserError: The disk has too little free space.
  """
  cache = cache_folder()
  needed, free = int(1.02 * clips * FRAMES * BANDS), shutil.disk_usage(cache).free
  if needed > free:
    raise UserError(
      f"--clips {clips}: need {needed / 1e9:.1f} GB, but {cache} has {free / 1e9:.1f} GB free; "
      "use fewer clips, or set XDG_CACHE_HOME to a folder on another disk"
    )
  with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
    path = pathlib.Path(folder) / "store.h5"
    _write(path, clips)
    store = open_store(path)
    for first in range(0, clips, 2000):  # reads and maps all pages
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
      # Adding a number to the same bytes is as random and far faster than new random bytes.
      shifted = log_mel[:count] + np.uint8(first // chunk % 256)
      yield shifted, random.uniform(-40, 20, count).astype(np.float32)

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


def check_twin(twin: str) -> None:
  """Check that the script of a reference loader can be run.

  Raises:
    UserError: It cannot.
  """
  if not pathlib.Path(twin).is_file():
    raise UserError(f"--twin {twin}: no such file; name the script of the reference loader")
  if importlib.util.find_spec("torch") is None:
    raise UserError(f"--twin {twin}: needs torch; install it or leave --twin out")


def memory_now(name: str) -> int:
  """Return a memory entry of Linux's /proc/self/status in bytes, or 0 if it does not exist."""
  try:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return 0
  return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
