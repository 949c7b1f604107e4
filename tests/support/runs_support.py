"""A tiny store and a tiny config, with which complete runs take seconds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import filelock
import jax
import numpy as np
import pytest
import small_store
import soundfile

from atgcn_jax.audio.frontend import Frontend, log_mel
from atgcn_jax.audio.quantisation import quantise
from atgcn_jax.data.store import store_builder
from atgcn_jax.data.store.store_writing import write_store
from atgcn_jax.errors import UserError
from atgcn_jax.interop import onnx
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.runs.config import load_config
from atgcn_jax.runs.load import (
  find_checkpoints,
  read_run,
  set_aside_damaged,
  with_training_state,
)
from atgcn_jax.runs.run import new_run
from atgcn_jax.runs.run_store import store_of
from atgcn_jax.runs.training_loop import train
from atgcn_jax.training import checkpoint, sharding

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HOME = pathlib.Path(tempfile.gettempdir())  # in tests, the folder of the session (conftest.py)

# One second of sound becomes 32 frames of 16 bands.
FRONTEND = Frontend(
  name="tiny",
  sample_rate=4000,
  n_fft=256,
  win_length=250,
  hop=125,
  pad_mode="constant",
  power=1,
  n_mels=16,
  fmin=0.0,
  fmax=2000.0,
  top_db=80.0,
  drop_last=True,
  seconds=1.0,
)
VOCABULARY = Vocabulary(
  tuple(f"/m/{k}" for k in range(6)), ("Hum", "Drone", "Whistle", "Piping", "Hiss", "Squeak")
)
# Importing optional packages takes most of the time of a short command.
WITHOUT_OPTIONAL = """
import runpy, sys
sys.modules.update({"tensorflow": None, "google.cloud.storage": None})
runpy.run_module("atgcn_jax", run_name="__main__", alter_sys=True)
"""
TONES_HZ = (150, 350, 600, 900, 1250, 1700)  # frequency of the tone of each label

CONFIG = """
def get_config():
  return dict(
    seed=3,
    model=dict(
      encoder="vectors",
      clip_units=(1024,),
      head="graph",
      width=1 / 32,
      dropout=dict(block=0.1, pooled=0.2, embedding=0.2),
    ),
    graph=dict(source="store", embeddings="builtin", embedding_size=20),
    data=dict(store={store!r}, batch_size=8),
    augment=dict(mixup_alpha=0.0, time_width=6, band_width=3),
    optim=dict(
      steps=30, learning_rate=1e-2, plateau_factor=0.5, plateau_patience=1
    ),
    evaluation=dict(every=4, batch_size=8),
    checkpoint=dict(every=3, keep=2),
    log=dict(every=1),
  )
"""


def waveforms(clips: int, seed: int) -> tuple[np.ndarray, list[list[int]]]:
  """Return waveforms float32[clips, 4000], with the tones of their labels in noise, and labels."""
  random = np.random.default_rng(seed)
  time = np.arange(FRONTEND.samples) / FRONTEND.sample_rate
  labels = [sorted({i % 6, (i * 7 + i // 6) % 6}) for i in range(clips)]
  sound = 0.02 * random.standard_normal((clips, FRONTEND.samples))
  for row, chosen in zip(sound, labels):
    for k in chosen:
      row += random.uniform(0.05, 0.3) * np.sin(2 * np.pi * TONES_HZ[k] * time + k)
  return sound.astype(np.float32), labels


def make_store(
  path: pathlib.Path,
  *,
  clips: int = 60,
  seed: int = 0,
  dtype: str = "uint8",
  vocabulary: Vocabulary = VOCABULARY,
  frontend: Frontend = FRONTEND,
  folds: Sequence[str] = ("train", "train", "validation", "test"),
  broken: bool = False,
  unlabelled: int = 0,
) -> pathlib.Path:
  """Make a store whose clips are in these folds in turn.

  In a `broken` store, every fourth clip has NaN. The first `unlabelled` clips have no labels.
  """
  sound, labels = waveforms(clips, seed)
  labels[:unlabelled] = [[]] * unlabelled
  decibels = np.array(log_mel(sound, frontend))
  write_store(
    path,
    [quantise(decibels, dtype)],
    dtype=dtype,
    clip_ids=[f"clip{i}" for i in range(clips)],
    folds=[folds[i % len(folds)] for i in range(clips)],
    labels=labels,
    vocabulary=vocabulary,
    frontend=frontend,
  )
  if broken:
    small_store.spoil(path, np.arange(0, clips, 4))
  return path


def write_config(path: pathlib.Path, store: pathlib.Path) -> pathlib.Path:
  """Write the tiny config to a file."""
  path.write_text(CONFIG.format(store=str(store)))
  return path


def tiny_config(folder: pathlib.Path, *overrides: str) -> Any:
  """Return the tiny config with `KEY=VALUE` overrides; make its file and store if they are missing.

  An existing file is not written again: another process of the tests may be reading it.
  """
  store, file = folder / "store.h5", folder / "config.py"
  if not store.exists():
    make_store(store)
  if not file.exists():
    write_config(file, store)
  return load_config(file, [f"--config.{override}" for override in overrides])


@functools.cache
def trained() -> pathlib.Path:
  """Return the read-only folder of a tiny run with its 30 steps, trained without interruption."""
  return _trained("trained")


@functools.cache
def trained_cnn10() -> pathlib.Path:
  """Return the read-only folder of such a run of a narrow CNN10, which takes longer to compile."""
  return _trained("trained_cnn10", "model.encoder=cnn10")


def _trained(name: str, *overrides: str) -> pathlib.Path:
  """Return the folder of a run, which the first process of the session that needs it trains."""
  folder = HOME / name
  folder.mkdir(exist_ok=True)
  with filelock.FileLock(HOME / f"{name}.lock"):
    if not (folder / "run").exists():
      with contextlib.redirect_stderr(io.StringIO()):  # not the output of the test that comes first
        train(tiny_config(folder, *overrides), folder / "unfinished")
      (folder / "unfinished").rename(folder / "run")
  return folder / "run"


def wav(path: pathlib.Path, samples: np.ndarray, rate: int = FRONTEND.sample_rate, **options: Any):
  """Write samples to a sound file, by default as floats, and return its path."""
  path.parent.mkdir(exist_ok=True)
  soundfile.write(path, samples, rate, **{"subtype": "FLOAT", **options})
  return path


def prepare_here(monkeypatch: pytest.MonkeyPatch) -> None:
  """Make `prepare` work in this process, because other processes take seconds to start."""

  def in_processes(work, chunks, processes):
    yield from map(work, chunks)

  monkeypatch.setattr(store_builder, "in_processes", in_processes)


def onnx_python() -> pathlib.Path:
  """Return the Python interpreter of the converter to ONNX; skip the test if there is none."""
  try:
    return onnx.converter()
  except UserError as error:
    pytest.skip(str(error))


@contextlib.contextmanager
def no_space():
  """Make every write to a file fail after some bytes, as on a full disk."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def same_bits(one: Any, other: Any) -> bool:
  """Return whether two trees have the same structure and the same bits."""
  if jax.tree.structure(one) != jax.tree.structure(other):
    return False
  leaves = [map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)]
  return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(*leaves))


def saved_run(workdir: pathlib.Path, config: Any) -> pathlib.Path:
  """Save a run at step 0, without training it, and return its folder."""
  made = new_run(config, store_of(config))
  with checkpoint.open_manager(workdir) as manager:
    description = made.description() | {"history": []}
    checkpoint.start_save(manager, made.initial_state(), made.constants(), description)
  return workdir


def saved(workdir: pathlib.Path) -> Any:
  """Return the newest checkpoint of a run."""
  loaded = newest_sound(workdir, sharding.Layout(sharding.data_mesh()))
  assert loaded is not None
  return loaded


def newest_sound_step(workdir: pathlib.Path) -> int | None:
  """Return the step from which training would resume, and move damaged checkpoints aside."""
  found = find_checkpoints(workdir)
  set_aside_damaged(workdir, found)
  return found.sound


def newest_sound(workdir: pathlib.Path, layout: sharding.Layout) -> Any:
  """Return the checkpoint from which training would resume, or None."""
  step = newest_sound_step(workdir)
  return None if step is None else with_training_state(read_run(workdir, step), workdir, layout)


def records(workdir: pathlib.Path) -> list[tuple[int, tuple[str, ...], float]]:
  """Return step, keys, and loss or mAP of each line of metrics.jsonl, without measured times."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [(line["step"], tuple(line), line.get("loss", line.get("mAP"))) for line in lines]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Return the contents of all files in a folder and its subfolders, by relative path."""
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(*arguments: Any, before: tuple[str, ...] = (), **variables: str) -> subprocess.Popen:
  """Start `atgcn ARGUMENTS` in its own process, with the words `before` in front of the command.

  Without --all it works as if TensorFlow and google-cloud-storage were not installed.
  """
  program = ("-c", WITHOUT_OPTIONAL) if "ATGCN_QUICK_TESTS" in os.environ else ("-m", "atgcn_jax")
  environment = {key: os.environ[key] for key in os.environ if key != "TF_CPP_MIN_LOG_LEVEL"}
  return subprocess.Popen(
    [*before, sys.executable, *program, *map(str, arguments)],
    cwd=REPOSITORY,
    env=environment | variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_many(processes: int, *arguments: Any, devices: int = 8) -> list[subprocess.Popen]:
  """Start the same command in several joined processes, with equal shares of the devices."""
  port = free_port()
  own = str(devices // processes)
  return [
    start(*arguments, *joining(port, processes, i), JAX_NUM_CPU_DEVICES=own)
    for i in range(processes)
  ]


def joining(port: int, processes: int, index: int, host: str = "127.0.0.1") -> list[str]:
  """Return the options with which a process joins the others."""
  coordinator = f"{host}:{port}"
  ours = {"--coordinator": coordinator, "--processes": processes, "--process-id": index}
  return [str(word) for pair in ours.items() for word in pair]


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]
