"""Readers of runs: checkpoints, exports, thresholds, calibrations, scores and logs."""

from __future__ import annotations

import functools
import json
import pathlib
import types
from typing import Any

import mutations
import numpy as np
import small_store
from fuzzing import Random, Reader, change_text, frontend_faults, ids_faults, vocabulary_faults

VOCABULARY = small_store.VOCABULARY


@functools.cache
def new_loaded() -> Any:
  """Return a tiny run with zeros for parameters, as loaded from a checkpoint of step 3."""
  import jax
  import runs_support

  from atgcn_jax.data.store.clip_store import open_store
  from atgcn_jax.runs.run import Loaded, new_run

  folder = runs_support.HOME / "fuzzed"
  folder.mkdir(exist_ok=True)
  config = runs_support.tiny_config(folder)
  run = new_run(config, open_store(config.data.store))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), run.abstract_state().variables)
  return Loaded(3, run, [{"step": 3, "mAP": 0.25, "mAUC": 0.5, "d_prime": 0.0}], state)


def make_export(path: pathlib.Path) -> None:
  from atgcn_jax.interop.export import write_export

  path.mkdir()
  write_export(path, new_loaded(), "huggingface", path)


def change_export(path: pathlib.Path, rng: Random) -> None:
  if rng.random() < 0.7:
    mutations.change_json_file(path / "config.json", rng)
    return
  file = path / "model.safetensors"
  data = file.read_bytes()
  length = int.from_bytes(data[:8], "little")
  if rng.random() < 0.5:
    file.write_bytes(mutations.change_bytes(data, rng))
    return
  header = json.dumps(mutations.change_json(json.loads(data[8 : 8 + length]), rng)).encode()
  file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def read_export(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.safetensors_folder import read_export

  return read_export(path)


def loaded_faults(loaded: Any) -> str:
  if type(loaded.step) is not int or loaded.step < 0:
    return f"the step is {str(loaded.step)[:40]!r}"
  if type(loaded.history) is not list:
    return f"the history is {type(loaded.history).__name__}"
  for record in loaded.history:
    if type(record) is not dict or type(record.get("step")) is not int:
      return "a record of the history has no step"
    if type(record.get("mAP")) not in (float, int, type(None)):
      return "a record of the history has no mAP"
  return run_faults(loaded.run)


def run_faults(run: Any) -> str:
  bands, classes = run.frontend.n_mels, len(run.vocabulary)
  if run.normaliser.mean.shape != (bands,) or run.normaliser.deviation.shape != (bands,):
    return "the normaliser has another shape than the front end"
  if run.propagation is not None and run.propagation.shape != (classes, classes):
    return "the graph has another shape than the vocabulary"
  if run.range_db is not None and type(run.range_db) not in (int, float):
    return f"range_db is {type(run.range_db).__name__}"
  texts = run.store_fingerprint, run.carried_labels
  if {type(text) for text in texts} != {str} or type(run.draws_unlabelled) is not bool:
    return "values of another type"
  return frontend_faults(run.frontend) or vocabulary_faults(run.vocabulary)


def make_checkpoint(path: pathlib.Path) -> None:
  import jax

  from atgcn_jax.training import checkpoint

  loaded = new_loaded()
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), loaded.run.abstract_state())
  state = state.replace(step=np.array(loaded.step, np.int32))
  description = loaded.run.description() | {"history": loaded.history}
  with checkpoint.open_manager(path) as manager:
    checkpoint.start_save(manager, state, loaded.run.constants(), description)


def change_checkpoint(path: pathlib.Path, rng: Random) -> None:
  from atgcn_jax.training import checksums

  (step,) = (path / "checkpoints").iterdir()
  files = [step / "run" / "metadata"] * 4
  files += [file for file in sorted(step.rglob("*")) if file.is_file() and file.name[0] in "_m"]
  file = files[rng.integers(len(files))]
  try:
    mutations.change_json_file(file, rng)
  except (ValueError, UnicodeDecodeError):
    file.write_bytes(mutations.change_bytes(file.read_bytes(), rng))
  (step / checksums.NAME).unlink(missing_ok=True)
  checksums.write_checksums(step)


def read_checkpoint(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.load import load_run
  from atgcn_jax.training import sharding

  return load_run(path, "best", sharding.data_mesh())


def make_thresholds(path: pathlib.Path) -> None:
  path.mkdir()
  labels = {label: {"name": label, "threshold": 0.5, "f1": 0.5} for label in VOCABULARY.ids}
  (path / "thresholds.json").write_text(json.dumps({"step": 3, "labels": labels}))


def change_thresholds(path: pathlib.Path, rng: Random) -> None:
  mutations.change_json_file(path / "thresholds.json", rng)


def read_thresholds(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.thresholds import read_thresholds

  return read_thresholds(path)


def thresholds_faults(thresholds: Any) -> str:
  if type(thresholds.step) is not int or thresholds.step < 0:
    return f"the step is {str(thresholds.step)[:40]!r}"
  bad = [value for value in thresholds.by_label.values() if not 0 <= value <= 1]
  return f"a threshold of {bad[0]}" if bad else ids_faults(thresholds.by_label)


def make_calibrations(path: pathlib.Path) -> None:
  from atgcn_jax.runs.calibrations import DEFAULTS, Calibrations, write_calibrations

  path.mkdir()
  write_calibrations(path, Calibrations(7, DEFAULTS.by_kind))


def change_calibrations(path: pathlib.Path, rng: Random) -> None:
  mutations.change_json_file(path / "added-labels.json", rng)


def read_calibrations(path: pathlib.Path) -> Any:
  from atgcn_jax.runs.calibrations import read_calibrations

  return read_calibrations(path)


def calibrations_faults(calibrations: Any) -> str:
  if type(calibrations.step) is not int:
    return f"the step is {str(calibrations.step)[:40]!r}"
  values = [value for line in calibrations.by_kind.values() for value in line]
  return "" if np.isfinite(values).all() and len(values) == 8 else f"the values are {values}"


@functools.cache
def config_and_store() -> Any:
  """Return the config of the tiny run, and something with the fingerprint of its store."""
  run = new_loaded().run
  return run.config, types.SimpleNamespace(fingerprint=run.store_fingerprint)


def make_scores(path: pathlib.Path) -> None:
  from atgcn_jax.runs.config import plain_config

  config, store = config_and_store()
  scores = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
  np.savez(
    path,
    scores=scores,
    labels=(scores > 0.5).astype(np.uint8),
    clip_ids=np.array(["a", "b", "c"]),
    names=np.array(["A", "B", "C", "D"]),
    config=np.array(json.dumps(plain_config(config))),
    store=np.array(store.fingerprint),
    step=np.array("latest"),
  )


def read_scores(path: pathlib.Path) -> Any:
  from atgcn_jax.paper.score_files import read_scores

  return read_scores(path, *config_and_store(), "latest")


def scores_faults(found: Any) -> str:
  if found is None:
    return ""
  scores, labels = found
  if scores.dtype != np.float32 or scores.shape != labels.shape or not np.isfinite(scores).all():
    return f"the scores are {scores.dtype}{scores.shape}, the labels {labels.shape}"
  return ""


def make_log(path: pathlib.Path) -> None:
  path.mkdir()
  records = [{"step": k, "loss": 0.5 / k, "steps_per_second": 3.0} for k in range(1, 6)]
  lines = [json.dumps(record) for record in [*records, {"step": 5, "mAP": 0.5, "mAUC": None}]]
  (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def change_log(path: pathlib.Path, rng: Random) -> None:
  change_text(path / "metrics.jsonl", rng)


def read_log(path: pathlib.Path) -> Any:
  from atgcn_jax.reports.page_figures import series
  from atgcn_jax.runs.records import read_records

  records = read_records(path)
  return [series(records, key) for key in ("loss", "mAP")]


def log_faults(curves: Any) -> str:
  bad = [values for _, values in curves if not np.isfinite(values).all()]
  return f"a curve has {bad[0]}" if bad else ""


READERS = {
  "export": Reader(make_export, change_export, read_export, loaded_faults),
  "checkpoint": Reader(make_checkpoint, change_checkpoint, read_checkpoint, loaded_faults),
  "thresholds": Reader(make_thresholds, change_thresholds, read_thresholds, thresholds_faults),
  "calibrations": Reader(
    make_calibrations, change_calibrations, read_calibrations, calibrations_faults
  ),
  "scores.npz": Reader(make_scores, mutations.change_npz, read_scores, scores_faults),
  "metrics": Reader(make_log, change_log, read_log, log_faults),
}
