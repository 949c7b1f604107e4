"""Export to ONNX, by a converter in an environment of its own.

The converter needs an older Orbax than this package, so both cannot share an environment.
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
from atgcn_jax.runs.run import Loaded

FILE = "model.onnx"
CHILD = "atgcn_jax.interop.onnx_child"


def converter() -> pathlib.Path:
  """Return the Python interpreter of the converter's environment.

  The environment is the folder named in ATGCN_ONNX, by default `onnx` in the environment of this
  process.

  Raises:
    UserError: The environment does not exist.
  """
  place = pathlib.Path(os.environ.get("ATGCN_ONNX") or pathlib.Path(sys.prefix, "onnx"))
  python = place / "bin" / "python"
  if not python.is_file():
    raise UserError(
      f"--to onnx: the converter's environment is not in {place}; create it with ./launch/onnx.sh, "
      "or name its folder in ATGCN_ONNX"
    )
  return python.absolute()


def write_onnx(folder: pathlib.Path, loaded: Loaded, workdir: pathlib.Path) -> None:
  """Write `model.onnx`, from `waveforms` [B, S] to `scores` [B, K], for any B and S.

  Args:
    folder: Existing folder to write to.
    loaded: The checkpoint.
    workdir: Run directory.

  Raises:
    UserError: The converter's environment does not exist.
    WorkFailed: The conversion fails.
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
        "JAX_TRACEBACK_FILTERING": "off",  # otherwise JAX's last line is about tracebacks
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
      f"--to onnx: {system} could not be converted ({reason:.200}); recreate the converter's "
      "environment with ./launch/onnx.sh, or export to stablehlo or savedmodel"
    )
