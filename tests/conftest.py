"""Eight CPU devices for every test, one cache of compiled programs, and the shared data."""

import ctypes
import gc
import os
import pathlib
import signal
import sys
import tempfile

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Compilation takes longer than anything else here, so it is quick rather than good; with --all
# programs are compiled as for users.
QUICK_COMPILATION = (
  "--xla_backend_optimization_level=0",
  "--xla_llvm_disable_expensive_passes=true",
)
# The workers and the processes that tests start inherit these variables.
if "PYTEST_XDIST_WORKER" not in os.environ:
  compiled = tempfile.TemporaryDirectory(prefix="atgcn-compiled-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
  # JAX locks the cache only where its size is limited.
  os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 * 2**30)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  if "--all" not in sys.argv:
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *QUICK_COMPILATION))

# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
  parser.addoption("--all", action="store_true", help="also run the slow tests")


# Begun first, so that no worker is left with one of them when the others have done.
LONGEST = (
  "test_processes",
  "test_reproduce",
  "test_docs_runs",
  "test_docs_studies",
  "test_systems",
  "test_finetune",
  "test_notebooks",
  "test_resume",
  "test_buckets",
  "test_hosts",
)


def pytest_collection_modifyitems(config, items):
  items.sort(key=lambda item: (*LONGEST, item.path.stem).index(item.path.stem))
  if config.getoption("--all"):
    return
  for item in items:
    if "slow" in item.keywords:
      item.add_marker(pytest.mark.skip(reason="slow; run with --all"))


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
  """Drop compiled programs after each file: those of all tests together take 6 GB a worker."""
  yield
  if "jax" in sys.modules:
    sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
      ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference data; tests that need it are skipped where it is absent."""
  folder = pathlib.Path(os.environ.get("ATGCN_SHARED", "../shared"))
  if not (folder / "data").is_dir():
    pytest.skip(f"no reference data at {folder} (set ATGCN_SHARED)")
  return folder
