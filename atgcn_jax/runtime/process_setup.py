"""Setup of the process on its machine: cache folders, compilation cache and memory."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import resource
import stat
import sys
import tempfile
import warnings

import jax

from atgcn_jax.errors import UserError

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def home_cache() -> pathlib.Path | None:
  """Return `$XDG_CACHE_HOME/atgcn_jax`, or None if it is not set and the user has no home.

  XDG_CACHE_HOME defaults to `~/.cache`.
  """
  try:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  except RuntimeError:  # HOME is not set and the user database has no entry.
    return None
  return pathlib.Path(base) / "atgcn_jax"


def cache_folder() -> pathlib.Path:
  """Return a folder for data that is shared by runs: `home_cache`, or else a temporary folder.

  Raises:
    UserError: If neither folder is writable.
  """
  return _writable_cache(home_cache())


@functools.cache
def _writable_cache(home: pathlib.Path | None) -> pathlib.Path:
  """Return `home`, or a temporary folder with a warning if `home` is not writable."""
  fault = "no home folder is known" if home is None else _fault_of(home)
  if home is not None and not fault:
    return home
  try:
    temporary = _temporary_cache()
  except OSError as error:
    raise UserError(f"cache: {fault}, and no temporary folder ({error}); set TMPDIR") from error
  warnings.warn(
    f"cache: {fault}; {temporary} is used, set XDG_CACHE_HOME to a writable folder",
    stacklevel=2,
  )
  os.environ.setdefault("MPLCONFIGDIR", str(temporary / "matplotlib"))
  return temporary


def _fault_of(folder: pathlib.Path) -> str:
  """Return why a folder cannot be created or is not writable; empty if it is writable."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    return f"{folder} cannot be created ({error.strerror})"
  return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"


def _temporary_cache() -> pathlib.Path:
  """Return a temporary folder that only this user can write to.

  All processes use the same folder if possible. Compiled programs are read from it, so a folder
  with that name is not used if others own it or can write to it.
  """
  shared = pathlib.Path(tempfile.gettempdir(), f"atgcn_jax-{os.getuid()}")
  try:
    shared.mkdir(mode=0o700, exist_ok=True)
    found = shared.lstat()
  except OSError:
    found = None
  own = found and stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
  if found and own and not found.st_mode & 0o022 and os.access(shared, os.W_OK | os.X_OK):
    return shared
  return pathlib.Path(tempfile.mkdtemp(prefix="atgcn_jax-"))


def compute_reproducibly() -> None:
  """Make results on a GPU reproducible bit for bit, as `deterministic` of a config asks for.

  JAX reads this when it starts, so it has no effect after the first use of a device.
  """
  flag = "--xla_gpu_deterministic_ops=true"
  flags = os.environ.get("XLA_FLAGS", "").split()
  if flag not in flags:
    os.environ["XLA_FLAGS"] = " ".join([*flags, flag])


def keep_compiled_programs() -> None:
  """Enable JAX's persistent compilation cache in the cache folder, unless it has another folder.

  A program for a CPU runs only on the same kind of CPU, so each kind has its own folder.
  """
  settings = jax.config.values
  if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  try:
    folder = cache_folder() / "compiled" / _cpu_kind()
  except UserError as error:
    warnings.warn(f"compiled programs are not cached: {error}", stacklevel=2)
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def keep_freed_memory() -> None:
  """Make malloc keep freed memory for reuse. Has an effect only with glibc.

  Each training step allocates the same gigabyte again. Clearing and mapping its pages each time
  takes a sixth to a third of a training step on a CPU. All threads allocate from one arena, because
  malloc returns the freed memory of further arenas to the system in any case.
  """
  if libc := _glibc():
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
  """Return the memory that malloc keeps for reuse to the system. Has an effect only with glibc.

  A process that lives long, with threads that allocate arrays of many sizes, would grow otherwise.
  """
  if libc := _glibc():
    libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
  """Return the C library of the process if it is glibc."""
  is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
  return ctypes.CDLL(None) if is_glibc else None


def peak_bytes() -> int:
  """Return the peak memory use in bytes of the first device, or else of the process."""
  memory = jax.local_devices()[0].memory_stats()
  if memory and "peak_bytes_in_use" in memory:
    return memory["peak_bytes_in_use"]
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu_kind() -> str:
  """Return a name that is equal for CPUs with the same instructions."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
  return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
