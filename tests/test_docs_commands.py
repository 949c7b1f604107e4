"""Every command of the pages is understood, and those that measure or plan or study are run.

The commands that make and use clips and runs are run by test_docs_runs.py.
"""

import contextlib
import functools
import importlib.util
import io
import json
import os
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest
from runs_support import FRONTEND, REPOSITORY, VOCABULARY, waveforms
from test_bench_data import TWIN as LOADER
from test_reproduce import SMALL as SMALL_STUDY

from atgcn_jax import cli
from atgcn_jax.audio.frontend import log_mel
from atgcn_jax.data.store import encode, write_store
from atgcn_jax.labels.vocabulary import Vocabulary, write_vocabulary
from atgcn_jax.runs.config import DEFAULTS, config_with_overrides, default_config, load_config
from atgcn_jax.tools import bench, bench_data, bench_feed, bench_layers, compare

PAGES = [REPOSITORY / "README.md", REPOSITORY / "launch/README.md"]
PAGES += sorted((REPOSITORY / "docs").glob("*.md"))
OMITTED = "…"  # a command with something left out
PLACEHOLDERS = {"K": "60", "$OMPI_COMM_WORLD_RANK": "0"}  # that stand for a number


def commands(page: pathlib.Path) -> list[list[str]]:
  """The words of each `atgcn` command in a page's blocks of shell."""
  blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
  lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
  words = [shlex.split(line, comments=True) for line in lines if OMITTED not in line]
  return [words for words in words if words and words[0].split("/")[-1] == "atgcn"]


def in_any_form(page: pathlib.Path) -> list[list[str]]:
  """The words after `atgcn`, also of commands behind a setting or launcher or in a sentence."""
  text = page.read_text()
  blocks = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
  shell = "".join(block for language, block in blocks if language in ("", "sh"))
  lines = shell.replace("\\\n", " ").splitlines()
  prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
  # Without an option and its value it is but a name.
  lines += re.findall(r"`(atgcn [a-z][^`]* --[a-z-]+ [^`-][^`]*)`", prose)
  found = [re.search(r"(?:^|[ /])atgcn ([a-z].*)", line.split("bash -c '")[-1]) for line in lines]
  return [
    [PLACEHOLDERS.get(word, word) for word in shlex.split(match[1].rstrip("'"), comments=True)]
    for match in found
    if match and OMITTED not in match[0]
  ]


def name_of(page):
  return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page):
  for words in in_any_form(page):
    options, rest = cli.command_parser().parse_known_args(words)
    assert options.run, words
    unknown = [word for word in rest if not word.startswith("--config.")]
    assert not unknown, words
    config = REPOSITORY / getattr(options, "config", None) if hasattr(options, "config") else None
    if config and config.suffix == ".py":
      load_config(config, rest)
    else:
      config_with_overrides(default_config(), rest)


def test_pages_have_commands():
  assert sum(len(commands(page)) for page in PAGES) > 60


def test_scripts_of_the_pages_are_there():
  for page in PAGES:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
      for name in re.findall(r"(?:^|[ /])launch/[\w.]+\.sh", block, re.MULTILINE):
        assert (REPOSITORY / name.strip(" /")).is_file(), name


def test_links_between_pages_lead_somewhere():
  for page in PAGES:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose):
      assert (page.parent / target).exists(), f"{page.name}: {target}"


COMMON, DROPOUT = DEFAULTS["optim"], DEFAULTS["model"]["dropout"]
RECIPE = ("learning_rate", "schedule", "warmup_steps", "final_factor")
# How the commands begin that are run here, and what is put behind them to make them small.
SMALL = (
  ("bench", "--steps 1 --batch 8"),
  ("bench (graph|counts)", "--labels 60"),
  ("bench (data|feed)", "--clips 48"),
  # The convolutions of the others take the compiler a minute or more.
  ("plan", "--config.model.encoder=multilevel_attention_embeddings --config.model.head=linear"),
  ("plan", "--config.model.width=0.125"),
  ("graph --counts", "--set full"),
  ("reproduce", " ".join(word for word in SMALL_STUDY if "embedding_size" not in word)),
  ("reproduce", "--config.optim.steps=2 --seeds 1"),
  # Of one recipe, so that a program is compiled once for all pages.
  ("reproduce", " ".join(f"--config.optim.{key}={COMMON[key]}" for key in RECIPE)),
  ("reproduce", " ".join(f"--config.model.dropout.{k}={v}" for k, v in DROPOUT.items())),
  ("reproduce .* --folds", "--folds 5"),
  ("reproduce (table1|ablation)", "--rows atgcn_2"),
  ("reproduce table2", "--rows graph_ontology"),
  ("reproduce figure3", "--points 0.3"),
  ("reproduce .* --store soundscapes", "--store clips.h5"),
  ("train .* --config.data.placement=device", "--config.model.width=0.03125"),
  ("train .* --config.data.placement=device", "--config.optim.steps=2 --config.data.batch_size=8"),
  ("train .* --config.data.placement=device", "--config.evaluation.batch_size=8"),
)
# How the commands begin that are not run as they stand, why, and the tests that run the like.
EXCEPTIONS = {
  "tfds --store clips.h5 --out gs://bucket": ("there is no bucket", "test_buckets.py"),
  "train --config configs/atgcn_audioset.py --workdir gs://bucket": ("same", "test_buckets.py"),
  "evaluate --workdir gs://bucket": ("same", "test_buckets.py"),
  "tag --workdir gs://bucket": ("same", "test_buckets.py"),
  "train --config configs/atgcn_audioset.py --workdir DIR": ("by mpirun", "test_processes.py"),
  "metadata --out audioset/": ("of other names in a block", "test_docs_runs.py"),
  "finetune --from RUN": ("of other names in a block", "test_docs_runs.py"),
}
RUN: set[str] = set()  # what leaves nothing behind need not be run again for another page


def smaller(words):
  """What is put behind a command; none for one that is not run here."""
  text = " ".join(words)
  return [word for begin, more in SMALL if re.match(begin, text) for word in more.split()]


def test_every_command_is_run_or_excepted():
  left = set(EXCEPTIONS)
  for page in PAGES:
    in_blocks = [words for _, *words in commands(page)]  # all known to test_docs_runs.py
    for words in in_any_form(page):
      excepted = {begin for begin in EXCEPTIONS if " ".join(words).startswith(begin)}
      assert excepted or smaller(words) or words in in_blocks, (page.name, words)
      left -= excepted
  assert not left
  for _, tests in EXCEPTIONS.values():
    assert (REPOSITORY / "tests" / tests).is_file()


def store(path, folds):
  """The path of a store whose clips are of these folds in turns."""
  sound, labels = waveforms(60, 0)
  write_store(
    path,
    [encode(np.array(log_mel(sound, FRONTEND)), "uint8")],
    dtype="uint8",
    clip_ids=[f"clip{i}" for i in range(60)],
    folds=[folds[i % len(folds)] for i in range(60)],
    labels=labels,
    vocabulary=VOCABULARY,
    frontend=FRONTEND,
  )


@pytest.fixture
def home(tmp_path, monkeypatch):
  """A folder with what the commands name; programs take longer to compile than to run there."""
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
  store(folder / "clips.h5", ("train", "train", "validation", "test"))
  (folder / "STORE").symlink_to("clips.h5")
  store(folder / "DATA/mixtures.h5", "12345")
  store(folder / "data/audioset.h5", ("train", "eval"))
  (folder / "H5_LOADER.py").write_text(LOADER)
  (folder / "TWIN.py").write_text("""print('{"clips_per_second": 2, "peak_bytes": 3}')""")


@pytest.fixture
def narrow(monkeypatch):
  """Benches of narrow systems and few batches; what they start of ours is run in this process."""
  full, run_json = bench.config_of, bench.run_json

  def config_of(model_name, dtype):
    config = full(model_name, dtype)
    config.model.width = 1 / 32
    return config

  @functools.cache
  def here(words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
      assert cli.main([*words, *smaller(words)]) == 0, words
    return json.loads(said.getvalue().splitlines()[-1])

  def run_json_here(command, environment=None):
    if "--reference" in command:  # scikit-learn's and librosa's side takes most of a minute
      return {"seconds": 1.0}
    if "atgcn_jax" in command:
      return here(tuple(command[command.index("atgcn_jax") + 1 :]))
    return run_json(command, environment)

  found = importlib.util.find_spec
  with_torch = lambda name, *at: found(name, *at) or (name == "torch" or None)  # noqa: E731
  for module, names in (
    (bench, {"config_of": config_of, "run_json": run_json_here, "FRAMES": 48}),
    (bench_data, {"ROUNDS": 2, "BATCHES": 4, "AUDIOSET": 5000, "FRAMES": 48}),
    (bench_feed, {"ROUNDS": 1}),
    (bench_layers, {"FRAMES": 16, "BANDS": 16, "CHANNELS": (2, 3)}),
    (bench_layers, {"matrix_product_rate": lambda dtype: 1e9}),
    (compare, {"run_json": run_json_here, "matrix_product_rate": lambda dtype: 1e9}),
    (importlib.util, {"find_spec": with_torch}),  # the loader beside ours is a script here
  ):
    for name, value in names.items():
      monkeypatch.setattr(module, name, value)


def is_run(words):
  return bool(smaller(words)) and (words[0] != "plan" or importlib.util.find_spec("libtpu"))


STUDIES = [page for page in PAGES if any(smaller(words) for words in in_any_form(page))]


@pytest.mark.parametrize("page", STUDIES, ids=name_of)
def test_measuring_commands_run(page, home, narrow, monkeypatch, capfd):
  monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "cpu")  # `plan` sets it
  for words in filter(is_run, in_any_form(page)):
    text = " ".join(words)
    if text in RUN:
      continue
    capfd.readouterr()
    try:
      status = cli.main([*words, *smaller(words)])
    except SystemExit as end:
      status = end.code
    assert status == 0, (text, capfd.readouterr().err)
    if words[0] in ("bench", "plan"):
      RUN.add(text)
