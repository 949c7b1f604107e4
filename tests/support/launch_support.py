"""Shared functions of the tests of launch/."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
RUN = ["--", "--config", "configs/atgcn_audioset.py", "--workdir"]


def clean_environment(**more):
  """Return the environment without variables of schedulers and of earlier tests."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if not re.match("ATGCN|SLURM_|CUDA_|JAX_|PYTHON$", name)
  }
  return {**kept, "LC_ALL": "C.UTF-8", **more}


def call(script, *arguments, cwd=ROOT, **environment):
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    cwd=cwd,
    env=clean_environment(**environment),
    capture_output=True,
    text=True,
    timeout=60,
  )


def program(folder, name, text):
  """Write an executable script and return its path."""
  path = folder / name
  path.write_text(f"#!/usr/bin/env bash\n{text}\n")
  path.chmod(0o755)
  return path
