"""Write small files of this version, which later versions must read: stores, a run, an export.

  python tests/upgrades/write_version.py

It writes `tests/upgrades/VERSION.tar.gz` and is run once for each version whose formats changed.
Earlier files are not written again. `test_upgrades.py` reads them all.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import sys
import tarfile
import tempfile
from typing import Any

HERE = pathlib.Path(__file__).parent
STEPS = 6
CHANGES = (
  "model.encoder=cnn10",
  "model.clip_units=(1024, 1024)",
  "augment.mixup_alpha=0.2",
  f"optim.steps={STEPS}",
  "checkpoint.every=3",
  "checkpoint.keep=1",
  "evaluation.every=3",
  "log.every=1",
)


def config_of(folder: pathlib.Path, *changes: str) -> Any:
  """Return the config of the run in a folder, on the store in that folder."""
  from runs_support import load_config, write_config

  file = write_config(folder / "config.py", folder / "store.h5")
  return load_config(file, [f"--config.{change}" for change in (*CHANGES, *changes)])


def write_files(folder: pathlib.Path) -> dict[str, Any]:
  """Write the files of this version to a folder, and return facts about them."""
  import numpy as np
  from runs_support import make_store, waveforms

  from atgcn_jax import Tagger
  from atgcn_jax.data.store.clip_store import open_store
  from atgcn_jax.interop.export import export
  from atgcn_jax.reports.evaluation import evaluate
  from atgcn_jax.runs.thresholds import tune
  from atgcn_jax.runs.training_loop import train

  store = open_store(make_store(folder / "store.h5", clips=16))
  half = open_store(make_store(folder / "half.h5", clips=8, dtype="float16"))
  run = folder / "run"
  train(config_of(folder), run)
  with tempfile.TemporaryDirectory() as out:
    found = evaluate(run, out=out)
  thresholds = tune(run)
  export(run, "huggingface", folder / "hub")
  tagger = Tagger.restore(run)
  return {
    "fingerprints": [store.fingerprint, half.fingerprint],
    "sums": [int(store.log_mel.astype(int).sum()), float(half.log_mel.astype(np.float64).sum())],
    "step": found["step"],
    "mAP": found["mAP"],
    "thresholds": {label: one["threshold"] for label, one in thresholds["labels"].items()},
    "scores": tagger.scores(waveforms(1, 5)[0][0]).tolist(),
    "embedding": tagger.embed(waveforms(1, 5)[0][0]).tolist(),
  }


def main() -> None:
  """Write the archive."""
  import atgcn_jax

  place = HERE / f"{atgcn_jax.__version__}.tar.gz"
  with tempfile.TemporaryDirectory() as name, tarfile.open(place, "w:gz", compresslevel=9) as tar:
    folder = pathlib.Path(name)
    facts = json.dumps(write_files(folder)).encode()
    for part in ("store.h5", "half.h5", "run", "hub"):
      for file in sorted(path for path in [folder / part, *(folder / part).rglob("*")]):
        if file.is_file() and "tensorboard" not in file.parts:
          add(tar, str(file.relative_to(folder)), file.read_bytes())
    add(tar, "facts.json", facts)
  print(f"{place}: {place.stat().st_size} bytes")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
  """Add a file without the facts of this machine."""
  entry = tarfile.TarInfo(name)
  entry.size = len(content)
  tar.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # which compiles sooner
  sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support")]
  main()
