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
# The workers and the processes that tests start inherit these variables. Temporary files are in one
# folder, which is removed at the end, except those of `tmp_path`, which show why a test failed.
if "PYTEST_XDIST_WORKER" not in os.environ:
  os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
  session = tempfile.TemporaryDirectory(prefix="atgcn-tests-", ignore_cleanup_errors=True)
  os.environ["TMPDIR"] = tempfile.tempdir = session.name
  os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(session.name, "compiled")
  # JAX locks the cache only where its size is limited.
  os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 * 2**30)
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  # Otherwise each process would compile the package, and each worker all tests.
  os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
  if "--all" not in sys.argv:
    os.environ["ATGCN_QUICK_TESTS"] = "yes"
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *QUICK_COMPILATION))

gc.set_threshold(10_000, 50)  # as in `atgcn`: tests trace programs most of their time

# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
  parser.addoption("--all", action="store_true", help="also run the slow tests")


def pytest_configure(config):
  """Leave the state of random generators to the tests where pytest-randomly shuffles them."""
  config.option.randomly_reset_seed = False


# Started first, so that no worker still runs one of them when the others have finished.
LONGEST = (
  *("test_resume", "test_processes", "test_export_onnx", "test_evaluation", "test_systems"),
  *("test_frontend", "test_export", "test_workers", "test_pretrained", "test_report"),
  *("test_stops", "test_augment", "test_torch_weights", "test_output_faults", "test_mobilenet"),
  *("test_docs_runs", "test_docs_studies", "test_notebooks", "test_reproduce", "test_buckets"),
)


def pytest_collection_modifyitems(config, items):
  items.sort(key=lambda item: (*LONGEST, item.path.stem).index(item.path.stem))
  if config.getoption("--all"):
    return
  for item in items:
    if "slow" in item.keywords:
      item.add_marker(pytest.mark.skip(reason="slow; run with --all"))


MUCH, GROWTH = 0.5 * 2**30, 0.1 * 2**30  # bytes


def own_bytes():
  """Return the memory of this process without files that processes share, 0 outside Linux."""
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():
    return 0
  _, resident, files, *_ = map(int, statm.read_text().split())
  return (resident - files) * os.sysconf("SC_PAGE_SIZE")


freed = {"to": 0.0}  # own bytes after memory was returned


def return_freed_memory():
  """Return freed memory to the system: a compilation frees 300 MB, which malloc would keep.

  This takes 15 ms, so it is not done again before the memory has grown.
  """
  if sys.platform == "linux" and own_bytes() > max(MUCH, freed["to"] + GROWTH):
    ctypes.CDLL(None).malloc_trim(0)
    freed["to"] = own_bytes()


@pytest.fixture(autouse=True)
def _return_freed_memory():
  yield
  return_freed_memory()


@pytest.fixture(autouse=True, scope="module")
def _drop_programs():
  """Drop compiled programs where they have grown: together they would take 6 GB per worker."""
  yield
  if "jax" in sys.modules and own_bytes() > MUCH:
    sys.modules["jax"].clear_caches()
    gc.collect()
    return_freed_memory()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference data; tests that need it are skipped where it is absent."""
  folder = pathlib.Path(os.environ.get("ATGCN_SHARED", "../shared"))
  if not (folder / "data").is_dir():
    pytest.skip(f"no reference data at {folder} (set ATGCN_SHARED)")
  return folder


@pytest.fixture
def plain_pages():
  """Leave the drawings out of report pages, which take most of the time of an evaluation."""
  from atgcn_jax.reports import page_figures, page_labels

  drawings = {
    **{"learning_curves": "curves", "class_bars": "bars"},
    **{"label_graph_figure": "graph", "label_map": "map"},
  }
  with pytest.MonkeyPatch.context() as patch:
    for name, kind in drawings.items():
      patch.setattr(page_figures, name, lambda *_, kind=kind: f'<svg class="{kind}"></svg>')
    patch.setattr(page_labels, "precision_recall_figure", lambda *_: "<svg></svg>")
    yield
