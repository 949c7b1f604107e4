"""What the command sets up on the machine it runs on."""

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

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt in glibc's malloc.h


def home_cache() -> pathlib.Path | None:
  """`$XDG_CACHE_HOME/atgcn_jax`, by default in `~/.cache`; None for a user without a home."""
  try:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  except RuntimeError:  # neither HOME nor an entry in the system's list of users
    return None
  return pathlib.Path(base) / "atgcn_jax"


def cache_folder() -> pathlib.Path:
  """A folder for data that is kept between runs: `home_cache`, or else a temporary one.

  Raises:
    UserError: if neither can be written to.
  """
  return _writable_cache(home_cache())


@functools.cache
def _writable_cache(home: pathlib.Path | None) -> pathlib.Path:
  """This folder, or a temporary one, with a warning, where it cannot be made or written to."""
  fault = "no home folder is known" if home is None else _fault_of(home)
  if home is not None and not fault:
    return home
  try:
    temporary = _temporary_cache()
  except OSError as error:
    raise UserError(f"cache: {fault}, and no temporary folder ({error}); set TMPDIR") from error
  warnings.warn(
    f"cache: {fault}; {temporary} is used, set XDG_CACHE_HOME to a folder that can be written to",
    stacklevel=2,
  )
  os.environ.setdefault("MPLCONFIGDIR", str(temporary / "matplotlib"))
  return temporary


def _fault_of(folder: pathlib.Path) -> str:
  """Why this folder cannot be made or written to; empty if it can."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    return f"{folder} cannot be made ({error.strerror})"
  return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"


def _temporary_cache() -> pathlib.Path:
  """A folder that only this user can write to: the same one for each process where possible.

  Compiled programs are read from it, so a folder of its name that others own or can write to is
  not used.
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


def keep_compiled_programs() -> None:
  """Has JAX keep what it compiles in the cache folder, unless it was told of another place.

  Programs for a CPU fit that kind of CPU alone, so each kind has a folder.
  """
  settings = jax.config.values
  if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
    return
  try:
    folder = cache_folder() / "compiled" / _cpu_kind()
  except UserError as error:
    warnings.warn(f"compiled programs are not kept: {error}", stacklevel=2)
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
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
