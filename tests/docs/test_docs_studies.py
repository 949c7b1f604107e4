"""Tests that run the commands of the pages that measure, plan or reproduce, at small sizes."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import re

import jax
import numpy as np
import pytest
from pages import PAGES, name_of, to_run
from runs_support import REPOSITORY, VOCABULARY, make_store
from test_bench_data import TWIN as LOADER
from test_reproduce import SMALL as SMALL_STUDY

from atgcn_jax import cli
from atgcn_jax.bench import data as bench_data
from atgcn_jax.bench import feed as bench_feed
from atgcn_jax.bench import layers as bench_layers
from atgcn_jax.bench import peers, steps
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.runs.config_defaults import DEFAULTS

COMMON, DROPOUT = DEFAULTS["optim"], DEFAULTS["model"]["dropout"]
RECIPE = ("learning_rate", "schedule", "warmup_steps", "final_factor")
# Patterns of commands, and the arguments that make them small.
SMALL = (
  ("bench", "--steps 1 --batch 8"),
  ("bench (graph|counts)", "--labels 60"),
  ("bench (data|feed)", "--clips 48"),
  # The convolutions of other systems take a minute or more to compile.
  ("plan", "--config.model.encoder=multilevel_attention_embeddings --config.model.head=linear"),
  ("plan", "--config.model.width=0.125"),
  ("reproduce", " ".join(word for word in SMALL_STUDY if "embedding_size" not in word)),
  ("reproduce", "--config.optim.steps=2 --seeds 1"),
  # One recipe for all, so that each program is compiled once for all pages.
  ("reproduce", " ".join(f"--config.optim.{key}={COMMON[key]}" for key in RECIPE)),
  ("reproduce", " ".join(f"--config.model.dropout.{k}={v}" for k, v in DROPOUT.items())),
  ("reproduce .* --folds", "--folds 5"),
  ("reproduce (table1|ablation)", "--rows atgcn_2"),
  ("reproduce table2", "--rows graph_ontology"),
  ("reproduce figure3", "--points 0.3"),
  ("reproduce .* --store soundscapes", "--store clips.h5"),
)
RUN: set[str] = set()  # commands without output files, which need not run again for another page


def smaller(words):
  """Return the arguments that make a command small."""
  text = " ".join(words)
  return [word for begin, more in SMALL if re.match(begin, text) for word in more.split()]


@pytest.fixture
def home(tmp_path, monkeypatch):
  """Create the files that the commands name, and turn off most optimisations of the compiler."""
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", True)
  write_home(tmp_path)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  yield
  jax.config.update("jax_disable_most_optimizations", before)


def write_home(folder):
  (folder / "configs").symlink_to(REPOSITORY / "configs")
  tops = [
    {"id": "low", "name": "Low", "child_ids": VOCABULARY.ids[:3]},
    {"id": "high", "name": "High", "child_ids": VOCABULARY.ids[3:]},
  ]
  leaves = [{"id": key, "name": key, "child_ids": []} for key in VOCABULARY.ids]
  for name in (".", "data/audioset", "DATA/audioset"):
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "ontology.json").write_text(json.dumps(tops + leaves))
    write_vocabulary(place / "class_labels_indices.csv", VOCABULARY)
    vectors = np.random.default_rng(0).standard_normal((6, 300)).astype("f")
    np.savez(place / "glove_300d.npz", mids=VOCABULARY.ids, vectors=vectors)
  named = Vocabulary(VOCABULARY.ids, ("Bark", *VOCABULARY.names[1:]))
  write_vocabulary(folder / "vocabulary.csv", named)
  counts = {"occurrences_full": np.full(6, 9), "cooccurrences_full": np.full((6, 6), 4)}
  np.savez(folder / "counts.npz", mids=VOCABULARY.ids, **counts)
  make_store(folder / "clips.h5")
  (folder / "STORE").symlink_to("clips.h5")
  make_store(folder / "DATA/mixtures.h5", folds="12345")
  (folder / "H5_LOADER.py").write_text(LOADER)
  (folder / "TWIN.py").write_text("""print('{"clips_per_second": 2, "peak_bytes": 3}')""")


@pytest.fixture
def narrow(monkeypatch):
  """Make benchmarks use narrow systems and few batches, and run subprocesses in this process."""
  full, run_json = steps.model_section, steps.run_json

  def model_section(model_name, dtype):
    section = full(model_name, dtype)
    section.width = 1 / 32
    return section

  @functools.cache
  def here(words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      assert cli.main([*words, *smaller(words)]) == 0, words
    return json.loads(said.getvalue().splitlines()[-1])

  def run_json_here(command, environment=None):
    if "--reference" in command:  # scikit-learn and librosa take most of a minute
      return {"seconds": 1.0}
    if "atgcn_jax" in command:
      return here(tuple(command[command.index("atgcn_jax") + 1 :]))
    return run_json(command, environment)

  found = importlib.util.find_spec
  with_torch = lambda name, *at: found(name, *at) or (name == "torch" or None)  # noqa: E731
  for module, names in (
    (steps, {"model_section": model_section, "run_json": run_json_here, "FRAMES": 48}),
    (bench_data, {"ROUNDS": 2, "BATCHES": 4, "AUDIOSET": 5000, "FRAMES": 48}),
    (bench_feed, {"ROUNDS": 1}),
    (bench_layers, {"FRAMES": 16, "BANDS": 16, "CHANNELS": (2, 3)}),
    (bench_layers, {"matrix_product_rate": lambda dtype: 1e9}),
    (peers, {"run_json": run_json_here, "matrix_product_rate": lambda dtype: 1e9}),
    (
      importlib.util,
      {"find_spec": with_torch},
    ),  # the script that replaces the reference loader needs no torch
  ):
    for name, value in names.items():
      monkeypatch.setattr(module, name, value)


def can_run(words):
  return words[0] != "plan" or importlib.util.find_spec("libtpu")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page, True)], ids=name_of)
def test_measuring_commands_run(page, home, narrow, monkeypatch, capfd):
  monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "cpu")  # `plan` sets it
  for words in filter(can_run, to_run(page, measuring=True)):
    text = " ".join(words)
    if text in RUN:
      continue
    capfd.readouterr()
    try:
      status = cli.main([*words, *smaller(words)])
    except SystemExit as end:
      status = end.code
    assert status == 0, (text, capfd.readouterr().err)
    if words[0] != "reproduce":
      RUN.add(text)
