"""What the command sets up on the machine it runs on."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pathlib
import platform
import resource
import sys

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt in glibc's malloc.h


def cache_folder() -> pathlib.Path:
  """Where made data is kept between runs: `$XDG_CACHE_HOME/atgcn_jax`, by default in `~/.cache`."""
  base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(base) / "atgcn_jax"


def keep_compiled_programs() -> None:
  """Has JAX keep what it compiles in the cache folder, unless it was told of another place.

  Programs for a CPU fit that kind of CPU alone, so each kind has a folder.
  """
  settings = jax.config.values
  if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled" / _cpu_kind()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def keep_freed_memory() -> None:
  """Has malloc keep what is freed: each step asks for the same gigabyte anew.

  Given back, its pages would have to be cleared and mapped again each time, which takes a sixth of
  a training step on a CPU. Only glibc knows how.
  """
  if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)


def peak_bytes() -> int:
  """The most memory in use so far: of a device where it counts it, else of the process."""
  memory = jax.local_devices()[0].memory_stats()
  if memory and "peak_bytes_in_use" in memory:
    return memory["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_kind() -> str:
  """A name for CPUs with the same instructions."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  told = next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return f"{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
