"""Tests that the notebooks run at a small size and are committed without outputs."""

import ast
import builtins
import csv
import importlib
import inspect
import json
import os
import pathlib
import shutil
import types

import pytest

from atgcn_jax.data.layouts.esc50 import LABELS
from atgcn_jax.pretrained import cache
from atgcn_jax.pretrained.catalogue import DEFAULT, MODELS

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[2].glob("notebooks/*.ipynb"))

# The number of images in the output of each notebook, and words in its text output.
SHOWN = {
  "00_tag_any_sound": (2, ("527 labels, 32000 Hz", "Telephone", "a clip of my xylophone: my")),
  "01_quickstart": (3, ("mAP",)),
  "02_label_graph": (5, ("527 labels", "Bark gathers with", "label_graph.npz")),
  "03_evaluate_checkpoint": (3, ("mAP", "B - A", "labels that lose")),
  "04_your_own_sounds": (2, ("50 clips, 26 labels", "fine-tuned    mAP", "from scratch  mAP")),
  "05_train_on_tpu": (1, ("compil", "clips/s")),
}
DEVICES = {"05_train_on_tpu": "4"}  # one device in other notebooks, which compiles fastest
NEEDS_AUDIOSET = {"02_label_graph"}
NEEDS_WEIGHTS = {"00_tag_any_sound"}
NEEDS_SOUNDS = {"04_your_own_sounds"}
# The categories of ESC-10, by the first label of a recording.
CATEGORIES = {label: category for category, label in LABELS.items()}


@pytest.fixture(scope="module")
def small_setting(tmp_path_factory):
  """Return environment variables for all notebooks, which share a cache."""
  home = tmp_path_factory.mktemp("notebooks")
  return {
    "ATGCN_NOTEBOOK_CLIPS": "60",
    "ATGCN_NOTEBOOK_STEPS": "4",
    "XDG_CACHE_HOME": str(home / "cache"),
    "IPYTHONDIR": str(home / "ipython"),
  }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
  cells = json.loads(path.read_text())["cells"]
  assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_uses_is_there(path):
  """The imports, the attributes of modules, and the names of arguments."""
  code = "\n".join(
    line
    for cell in json.loads(path.read_text())["cells"]
    if cell["cell_type"] == "code"
    for line in "".join(cell["source"]).splitlines()
    if not line.lstrip().startswith(("!", "%"))
  )
  nodes, names = list(ast.walk(ast.parse(code))), {}
  for node in nodes:
    if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "atgcn_jax":
      module = importlib.import_module(node.module)
      for alias in node.names:
        if not hasattr(module, alias.name):
          importlib.import_module(f"{node.module}.{alias.name}")
        names[alias.asname or alias.name] = getattr(module, alias.name)
  assert names
  for node in nodes:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      owner = names.get(node.value.id)
      assert not isinstance(owner, types.ModuleType) or hasattr(owner, node.attr), ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
      given = {keyword.arg: None for keyword in node.keywords if keyword.arg}
      inspect.signature(names[node.func.id]).bind_partial(**given)


def first_cell(path):
  """Return the source of the first code cell of a notebook."""
  cells = json.loads(path.read_text())["cells"]
  return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_all_notebooks_begin_with_the_same_cell():
  assert len({first_cell(path) for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize(
  ("folder", "package", "uploaded", "expected"),
  [
    ("clone/notebooks", "", "", ".."),
    ("clone/notebooks", "a.whl", "", "a.whl"),
    ("empty", "git+https://host/atgcn", "", "git+https://host/atgcn"),
    ("empty", "", "atgcn.whl", "atgcn.whl"),
  ],
)
def test_the_first_cell_installs_a_missing_package(
  tmp_path, monkeypatch, folder, package, uploaded, expected
):
  (tmp_path / "clone").mkdir()
  (tmp_path / "clone/setup.cfg").touch()
  (tmp_path / folder).mkdir()
  monkeypatch.chdir(tmp_path / folder)
  installed: list[str] = []

  def importing(name, *arguments):
    if name == "atgcn_jax":
      if not installed:
        raise ImportError(name)
      return None
    if name == "google.colab":
      files = types.SimpleNamespace(upload=lambda: {uploaded: b""})
      return types.SimpleNamespace(files=files)
    return importlib.__import__(name, *arguments)

  source = first_cell(NOTEBOOKS[0]).replace('PACKAGE = ""', f"PACKAGE = {package!r}", 1)
  source = source.replace('%pip install -q "{PACKAGE}"', "installed.append(PACKAGE)")
  known = vars(builtins) | {"__import__": importing}
  exec(source, {"__builtins__": known, "installed": installed})
  assert installed == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, small_setting, request, tmp_path):
  import nbclient
  import nbformat

  pictures, words = SHOWN[path.stem]
  environment = os.environ | small_setting
  environment["JAX_NUM_CPU_DEVICES"] = DEVICES.get(path.stem, "1")
  if path.stem in NEEDS_AUDIOSET:
    shared = request.getfixturevalue("shared")
    environment["ATGCN_NOTEBOOK_DATA"] = str((shared / "data/audioset").resolve())
  if path.stem in NEEDS_WEIGHTS:
    model = MODELS[DEFAULT]
    folder = pathlib.Path(small_setting["XDG_CACHE_HOME"], "atgcn_jax", cache.FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(request.getfixturevalue("shared") / "data/weights" / model.file, folder)
  if path.stem in NEEDS_SOUNDS:
    data = request.getfixturevalue("shared").resolve() / "data"
    environment["ATGCN_NOTEBOOK_SOUNDS"] = str(as_downloaded(data, tmp_path / "sounds"))
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
  )
  client.execute(env=environment)
  outputs = [
    output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
  ]
  said = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
  assert not [word for word in words if word not in said]
  assert sum(is_picture(output.get("data", {})) for output in outputs) == pictures


def as_downloaded(data, folder):
  """Write one recording per category and fold of ESC-10 in the layout of ESC-50."""
  (folder / "esc50/audio").mkdir(parents=True)
  (folder / "esc50/meta").mkdir()
  for name in ("ontology.json", "class_labels_indices.csv"):
    (folder / name).symlink_to(data / "audioset" / name)
  chosen = {}
  with (data / "esc10/labels.csv").open(newline="") as file:
    for row in csv.DictReader(file):
      category = CATEGORIES[row["positive_labels"].split(",")[0]]
      chosen.setdefault((category, row["fold"]), row["filename"])
  with (folder / "esc50/meta/esc50.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(("filename", "fold", "target", "category", "esc10", "src_file", "take"))
    for (category, fold), name in chosen.items():
      table.writerow((name, fold, 0, category, True, 0, "A"))
      (folder / "esc50/audio" / name).symlink_to(data / "esc10/audio" / name)
  return folder


def is_picture(data) -> bool:
  return "image/png" in data or "<svg" in data.get("text/html", "")
