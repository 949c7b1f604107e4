"""The notebooks run top to bottom on a small setting, and are committed without outputs."""

import json
import pathlib

import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[1].glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
  cells = json.loads(path.read_text())["cells"]
  assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
  import nbclient
  import nbformat

  monkeypatch.setenv("ATGCN_NOTEBOOK_CLIPS", "60")
  monkeypatch.setenv("ATGCN_NOTEBOOK_STEPS", "4")
  monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}
  )
  client.execute()
  outputs = [
    output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
  ]
  assert any(output.get("name") == "stdout" and "mAP" in output["text"] for output in outputs)
  assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
