"""Export to ONNX, by a converter that lives in an environment of its own.

The converter asks for an older Orbax than ours, so that it cannot be installed beside this package.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.interop import huggingface
from atgcn_jax.runs.load import Loaded

FILE = "model.onnx"
CHILD = "atgcn_jax.interop.onnx_child"


def converter() -> pathlib.Path:
  """The Python of the converter's environment: that named in ATGCN_ONNX, or `onnx` in our own.

  Raises:
    UserError: if it is not there.
  """
  place = pathlib.Path(os.environ.get("ATGCN_ONNX") or pathlib.Path(sys.prefix, "onnx"))
  python = place / "bin" / "python"
  if not python.is_file():
    raise UserError(
      f"--to onnx: the converter's environment is not in {place}; make it with ./launch/onnx.sh, "
      "or name its folder in ATGCN_ONNX"
    )
  return python.absolute()


def write_onnx(folder: pathlib.Path, loaded: Loaded, workdir: pathlib.Path) -> None:
  """Write `model.onnx`, from `waveforms` [B, S] to `scores` [B, K], of any B and S.

  Args:
    workdir: of the run.
  Raises:
    UserError: if the converter's environment is not there.
    WorkFailed: if it fails.
  """
  python = converter()
  package = pathlib.Path(__file__).resolve().parents[2]
  with tempfile.TemporaryDirectory() as source:
    config = huggingface.write_huggingface(pathlib.Path(source), loaded, workdir)
    pathlib.Path(source, "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
      [python, "-m", CHILD, source, folder.absolute() / FILE],
      env={
        **os.environ,
        "PYTHONPATH": str(package),
        "JAX_PLATFORMS": "cpu",
        "JAX_TRACEBACK_FILTERING": "off",  # else JAX's last line is about tracebacks
      },
      cwd=source,
      capture_output=True,
      text=True,
      check=False,
    )
  if done.returncode:
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    system = loaded.run.config.model.encoder
    raise WorkFailed(
      f"--to onnx: {system} could not be converted ({reason:.200}); make the converter's "
      "environment anew with ./launch/onnx.sh, or export to stablehlo or savedmodel"
    )
