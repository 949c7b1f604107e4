"""Tests of imports: which package may import which, and what no module may import on import."""

import ast
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import atgcn_jax

PACKAGE = pathlib.Path(atgcn_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((PACKAGE.parent / "configs").glob("*.py"))
# Each package may import those in its entry.
RUNS = {
  *("audio", "labels", "models", "metrics", "ontology_metrics", "event_metrics", "intervals"),
  *("data", "training"),
}
TRAINED = {*RUNS, "runs"}
EVERY = {*TRAINED, "reports", "interop", "pretrained", "serving"}
MAY_IMPORT = {
  "errors": set(),
  "runtime": set(),
  "audio": set(),
  "labels": set(),
  "models": set(),
  "metrics": set(),
  "intervals": {"metrics"},
  "ontology_metrics": {"metrics"},
  "event_metrics": set(),
  "data": {"audio", "labels"},
  "training": {"audio", "models", "metrics"},
  "runs": RUNS,
  "reports": TRAINED,
  "interop": TRAINED,
  "pretrained": {*TRAINED, "interop"},
  "serving": {*TRAINED, "pretrained", "reports"},
  "paper": EVERY,
  "bench": EVERY,
  "plan": {*EVERY, "bench"},
  "cli": {*EVERY, "paper", "bench", "plan"},
  "__main__": {"cli"},
  "": {"serving"},  # the public names, imported on first access
}
BY_ALL = {"errors", "runtime", "__version__"}
HEAVY = ("tensorflow", "tensorflow_datasets", "ml_collections")


def part_of(path):
  """Return the subpackage or top-level module that a file belongs to."""
  first = path.relative_to(PACKAGE).parts[0]
  return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(path):
  """Yield the full name of every module that a file imports, also inside functions."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: line {node.lineno}: a relative import"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_parts(path):
  for name in imported(path):
    package, _, rest = name.partition(".")
    if package == "atgcn_jax":
      yield rest.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_part_may(path):
  part = part_of(path)
  assert set(imported_parts(path)) <= MAY_IMPORT[part] | {part} | BY_ALL


def test_imports_are_found():
  assert len(MODULES) > 30
  assert {"runs", "paper", "plan"} <= set(
    imported_parts(PACKAGE / "cli/studies.py")
  )  # imported in functions
  assert set(imported_parts(PACKAGE / "data/store/clip_store.py")) == {
    "audio",
    "data",
    "errors",
    "labels",
  }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_import_only_ml_collections(path):
  assert {name.partition(".")[0] for name in imported(path)} <= {"ml_collections", "__future__"}


def names(*parts):
  """Return the names of all modules in some subpackages."""
  found = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "atgcn_jax.")]
  chosen = [name for name in found if not parts or name.split(".")[1] in parts]
  assert chosen
  return chosen


def python(script, *arguments):
  done = subprocess.run(
    [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


@pytest.mark.slow  # the next test finds the same, except where an import is tried
def test_arrays_need_neither_tensorflow_nor_configs():
  script = (
    "import importlib, sys\n"
    "for name in sys.argv[1].split(','): sys.modules[name] = None\n"
    "for name in sys.argv[2:]: importlib.import_module(name)\n"
    "print(len(sys.argv) - 2)"
  )
  modules = names("models", "training", "metrics", "labels", "audio")
  assert python(script, ",".join(HEAVY), *modules) == [str(len(modules))]


def test_importing_everything_imports_nothing_heavy():
  script = (
    "import importlib, sys\n"
    "for name in sys.argv[1:]: importlib.import_module(name)\n"
    f"print(*(name for name in {HEAVY} if name in sys.modules))"
  )
  assert python(script, *names()) == []


def test_the_package_and_its_command_are_quick_to_import():
  script = (
    "import sys, atgcn_jax, atgcn_jax.cli\n"
    "print(*(name for name in ('jax', 'numpy', 'scipy', 'matplotlib') if name in sys.modules))"
  )
  assert python(script) == []


def test_labels_and_metrics_need_no_jax():
  script = (
    "import importlib, sys\n"
    "sys.modules['jax'] = None\n"
    "for name in sys.argv[1:]: importlib.import_module(name)"
  )
  python(script, *names("labels", "metrics", "errors"))


@pytest.mark.slow
def test_importing_tensorflow_does_not_import_keras():
  script = (
    "import sys\n"
    "from atgcn_jax.runtime.tensorflow import import_tensorflow\n"
    "import_tensorflow()\n"
    "print('keras' in sys.modules)"
  )
  assert python(script) == ["False"]
