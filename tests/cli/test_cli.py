"""Tests of the command line: help, exit status, one-line error messages."""

import gzip
import importlib.metadata
import json
import logging
import os
import runpy
import shutil
import signal
import sys
import warnings

import numpy as np
import pytest
import soundfile
from runs_support import (
  VOCABULARY,
  contents,
  start,
  tiny_config,
  trained,
  write_config,
)

from atgcn_jax import cli
from atgcn_jax.cli import results
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.runs.run import new_run
from atgcn_jax.training import saved_checkpoints

pytestmark = pytest.mark.usefixtures("plain_pages")

VERBS = (
  "train",
  "finetune",
  "evaluate",
  "compare",
  "tag",
  "detect",
  "embed",
  "similar",
  "suggest",
  "thresholds",
  "prepare",
  "soundscapes",
  "mixtures",
  "reproduce",
  "graph",
  "data-card",
  "metadata",
  "plan",
  "import-torch",
  "export",
  "bench",
)


@pytest.fixture(autouse=True)
def process():
  """Restore the process-wide state that `main` changes."""
  levels = {name: logging.getLogger(name).level for name in ("absl", "asyncio")}
  handler = signal.getsignal(signal.SIGTERM)
  level_of_tensorflow = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
  hook = sys.unraisablehook
  yield
  sys.unraisablehook = hook
  for name, level in levels.items():
    logging.getLogger(name).setLevel(level)
  signal.signal(signal.SIGTERM, handler)
  if level_of_tensorflow is None:
    os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)


def run(*arguments):
  """Run `atgcn ARGUMENTS` and return the exit status."""
  try:
    return cli.main(list(map(str, arguments)))
  except SystemExit as end:
    return end.code


@pytest.mark.parametrize("module", ["atgcn_jax", "atgcn_jax.cli"])
def test_the_command_is_also_a_module(module, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["atgcn", "--help"])
  with pytest.raises(SystemExit, match="0"):
    runpy.run_module(module, run_name="__main__")
  assert capsys.readouterr().out.startswith("usage: atgcn")


def test_the_command_is_installed_or_installable():
  entries = importlib.metadata.entry_points(group="console_scripts", name="atgcn")
  assert all(entry.value == "atgcn_jax.cli:main" for entry in entries)


def test_metrics_without_a_value():
  found = {"mAUC": 1.0, "d_prime": None, "mean_class_d_prime": None, "mAP_low": None}
  names = ("d_prime", "mean_class_d_prime", "mAP_low")
  assert [results._without_value(name, found) for name in names] == [
    "infinite, as the mean AUC is 1",
    "infinite for a label whose AUC is 1 or 0",
    "not defined",
  ]
  undefined = {results._without_value(name, found | {"mAUC": None}) for name in names}
  assert undefined == {"not defined"}


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help(verb, capsys):
  assert run(*([verb] if verb else []), "--help") == 0
  printed = capsys.readouterr()
  assert "usage: atgcn" in printed.out
  assert printed.err == ""


def test_help_names_every_verb(capsys):
  run("--help")
  out = capsys.readouterr().out
  assert all(verb in out for verb in VERBS)


SOUND_ROWS = 'a, 0, 10, "/m/0,/m/1"\nb, 0, 10, "/m/1"\n'


@pytest.fixture
def place(tmp_path):
  """Create a folder of invalid files, and return the paths that the commands use by name."""
  store = trained().parent / "store.h5"
  names = {
    "config": write_config(tmp_path / "config.py", store),
    "run": trained(),
    "store": store,
    "new": tmp_path / "new",
    "out": tmp_path / "out.npz",
    "folder": tmp_path,
  }
  rows = [f'{k},{mid},"{name}"' for k, (mid, name) in enumerate(zip(*vocabulary()))]
  names["labels"] = write(tmp_path / "labels.csv", "\n".join(["index,mid,display_name", *rows]))
  other = "index,mid,display_name\n0,/m/9,Other\n"
  names["otherlabels"] = write(tmp_path / "other.csv", other)
  names["file"] = write(tmp_path / "file", "a regular file")
  names["below"] = names["file"] / "below"
  names["glove"] = write(tmp_path / "glove.txt", "hum 1 2 3\nhiss 4 5 6\n")
  names["counts"] = write_counts(tmp_path / "counts.npz")
  names["cut"] = tmp_path / "cut.npz"
  names["cut"].write_bytes(names["counts"].read_bytes()[:300])
  names["empty"] = write(tmp_path / "empty.npz", "")
  names["cutstore"] = tmp_path / "cut.h5"
  names["cutstore"].write_bytes(store.read_bytes()[:4000])
  names["segments"] = write(tmp_path / "segments.csv", SOUND_ROWS)
  names["nosegments"] = write(tmp_path / "no.csv", "a, b\n")
  names["zip"] = tmp_path / "broken.csv.gz"
  names["zip"].write_bytes(gzip.compress(b"a" * 999)[:20])
  names["missing"] = tmp_path / "missing"
  return {key: str(value) for key, value in names.items()}


def write(path, text):
  path.write_text(text)
  return path


def vocabulary():
  return VOCABULARY.ids, VOCABULARY.names


def write_counts(path):
  pairs = np.ones((6, 6), np.int64) - np.eye(6, dtype=np.int64)
  np.savez(
    path,
    mids=VOCABULARY.ids,
    occurrences_balanced=np.full(6, 4),
    cooccurrences_balanced=pairs,
  )
  return path


TRAIN = "train --config {config} --workdir {new}"
GRAPH = "graph --vocabulary {labels} --out {out}"
COUNTED = GRAPH + " --counts {counts} --set balanced"
MIXTURES = "mixtures --audio {folder} --labels {labels} --vocabulary {labels} --counts {counts}"
MIXTURES += " --out {new}"
TORCH = "import-torch {} --config {{config}} --workdir {{new}}"
NAMED = " --config.data.vocabulary={labels} --config.graph.source={counts}"
NAMED += " --config.graph.counts_set=balanced"
MISTAKES = {
  "": "VERB",
  "sing": "sing",
  "train": "--config",
  "train --config {config}": "--workdir",
  TRAIN + " --speed 3": "--speed",
  TRAIN + " {file}": "file",
  "train --config {missing} --workdir {new}": "missing",
  "train --config {file} --workdir {new}": "file",
  "train --config {folder} --workdir {new}": "no such config file",
  "train --config {config} --workdir {file}": "--workdir",
  "train --config {config} --workdir {below}": "--workdir",
  TRAIN + " --config.optim.stepz=3": "optim.stepz",
  TRAIN + " --config.sharding.label_parts=3": "sharding.label_parts",
  TRAIN + " --config.sharding.label_parts=0": "sharding.label_parts",
  TRAIN + " --profile 5": "--profile 5",
  TRAIN + " --profile 99:1": "--profile 99:1",
  TRAIN + " --config.optim.steps=many": "optim.steps",
  TRAIN + " --config.data.store={missing}": "missing",
  TRAIN + " --config.data.store={file}": "file",
  TRAIN + " --config.data.store={cutstore}": "cut.h5",
  TRAIN + " --config.data.store={folder}": "clip store",
  TRAIN + " --config.graph.source={missing}": "missing",
  TRAIN + " --config.graph.source={cut}": "cut.npz",
  TRAIN + " --config.graph.source={empty}": "empty.npz",
  TRAIN + " --config.graph.source={counts}": "counts.npz",
  TRAIN + " --config.graph.source={counts} --config.graph.counts_set=half": "half",
  TRAIN + " --config.graph.source={folder}": "",
  TRAIN + " --config.graph.embeddings={glove}": "glove.txt",
  TRAIN + " --config.graph.embeddings={cut}": "cut.npz",
  TRAIN + " --config.graph.embeddings={counts}": "counts.npz",
  TRAIN + " --config.graph.embedding_size=0": "embedding_size",
  TRAIN + " --config.graph.method=magic": "magic",
  TRAIN + " --config.graph.method=ontology": "graph.ontology",
  TRAIN + " --config.graph.method=ontology --config.graph.ontology={file}": "file",
  TRAIN + " --config.model.layers=0": "model.layers",
  TRAIN + " --config.model.activation=gelu": "gelu",
  TRAIN + " --config.optim.learning_rate=-1.0": "optim.learning_rate",
  TRAIN + " --config.data.vocabulary={missing}": "missing",
  TRAIN + " --config.data.vocabulary={otherlabels}": "other.csv",
  "evaluate": "--workdir",
  "evaluate --workdir {missing}": "no run",
  "evaluate --workdir {folder}": "no run",
  "evaluate --workdir {file}": "no run",
  "evaluate --workdir {run} --step 7": "--step 7",
  "evaluate --workdir {run} --step soon": "--step soon",
  "evaluate --workdir {run} --step -1": "--step",
  "evaluate --workdir {run} --split half": "--split",
  "evaluate --workdir {run} --store {missing}": "missing",
  "evaluate --workdir {run} --store {file}": "file",
  "evaluate --workdir {run} --store {cutstore}": "cut.h5",
  "evaluate --workdir {run} --config.seed=1": "--config.seed",
  "evaluate --workdir {run} --labels {missing}": "missing",
  "evaluate --workdir {run} --labels {otherlabels}": "label /m/9",
  "evaluate --workdir {run} --labels {empty}": "empty.npz",
  "evaluate --workdir {run} --labels {store}": "store.h5",
  "compare": "RUN_A",
  "compare {run}": "RUN_B",
  "compare {run} {missing}": "no run",
  "compare {missing} {run}": "no run",
  "compare {run} {run} --step 7": "--step 7",
  "compare {run} {run} --store {file}": "file",
  "compare {run} {run} --labels {otherlabels}": "label /m/9",
  "compare {run} {run} --out {file}": "--out",
  "compare {run} {run} --out {below}": "--out",
  "compare {run} {run} --processes 2": "--processes",
  "tag --workdir {run}": "FILE",
  "tag --workdir {missing} {file}": "no run",
  "tag --workdir {run} --top 0 {file}": "--top 0",
  "tag --workdir {run} --top few {file}": "--top",
  "tag --workdir {run} --step 7 {file}": "--step 7",
  "tag --workdir {run} {file}": "file",
  "tag --workdir {run} {folder}": "folder",
  "tag --workdir {run} --above-threshold {file}": "--above-threshold",
  "tag --workdir {run} --above-threshold --top 3 {file}": "--top",
  "tag --workdir {run} --hop-seconds 1 {file}": "--hop-seconds",
  "tag --workdir {run} --timeline --hop-seconds 0 {file}": "--hop-seconds 0",
  "tag --workdir {run} --timeline --hop-seconds 2 {file}": "--hop-seconds 2",
  "tag --workdir {run} --timeline --hop-seconds nan {file}": "--hop-seconds nan",
  "tag --workdir {run} --csv {out} {file}": "file",
  "tag --workdir {run} --csv {below} {file}": "--csv",
  "embed --workdir {run} {file}": "--out",
  "embed --workdir {missing} --out {out} {file}": "no run",
  "embed --workdir {run} --out {out} {file}": "file",
  "embed --workdir {run} --out {out} {folder}": "folder",
  "embed --workdir {run} --out {below} {file}": "--out",
  "embed --workdir {run} --out {out} --hop-seconds 1 {file}": "--hop-seconds",
  "embed --workdir {run} --out {out} --windows --hop-seconds 2 {file}": "--hop-seconds 2",
  "similar a.wav": "--embeddings",
  "similar --embeddings {missing} a.wav": "missing",
  "similar --embeddings {file} a.wav": "file",
  "similar --embeddings {counts} a.wav": "counts.npz",
  "similar --embeddings {counts} --top 0 a.wav": "--top 0",
  "similar --embeddings {counts} --store {store} a.wav": "not allowed with",
  "similar --store {store} a.wav": "--workdir",
  "similar --store {missing} --workdir {run} a.wav": "missing",
  "suggest --workdir {run} --top 0 {file}": "--top 0",
  "suggest --workdir {run} {file}": "file",
  "suggest --workdir {run} --csv {below} {file}": "--csv",
  "tag --workdir {run} --offline {file}": "--offline: only valid for pretrained models",
  "tag --model mn04 --step 7 {file}": "--step 7: a pretrained model has one step",
  "detect --workdir {run} --collar 0.1 {file}": "--collar: only valid with --score",
  "tag --workdir {run} --explain Hum --csv {out} {file}": "--csv: not valid with --explain",
  "tag --workdir {run} --explain Hum --timeline {file}": "--timeline: not valid with --explain",
  "suggest --workdir {run} --labels {missing} {file}": "missing",
  "evaluate --workdir {run} --audio {missing}": "missing",
  "thresholds": "--workdir",
  "thresholds --workdir {missing}": "no run",
  "thresholds --workdir {run} --step 7": "--step 7",
  "thresholds --workdir {run} --store {cutstore}": "cut.h5",
  "prepare --audio {folder}": "--out",
  "prepare --audio {folder} --out {new}": "--labels",
  "prepare --audio {missing} --labels {labels} --out {new}": "",
  "prepare --audio {folder} --labels {missing} --out {new}": "missing",
  "prepare --audio {folder} --labels {file} --out {new}": "file",
  "prepare --audio {folder} --labels {labels} --out {new} --frontend ears": "ears",
  "prepare --audio {folder} --labels {labels} --out {new} --workers 0": "--workers 0",
  "prepare --audio {folder} --labels {labels} --out {new} --layout tape": "--layout",
  "prepare --audio {folder} --labels {labels} --out {new} --esc10": "--esc10",
  "prepare --audio {folder} --out {new} --layout panns": "--vocabulary",
  "prepare --audio {file} --vocabulary {labels} --out {new} --layout panns": "file",
  "prepare --audio {file} --vocabulary {labels} --out {new} --layout talnet": "file",
  "prepare --audio {folder} --labels {file} --out {new} --layout segments --fold x": "file",
  "prepare --audio {folder} --labels {file} --out {new} --layout sonyc": "file",
  "soundscapes": "--out",
  "soundscapes --out {new} --clips 0": "--clips 0",
  "soundscapes --out {below} --clips 1": "below",
  "soundscapes --out {new} --seed -1": "--seed -1: must be at least 0",
  MIXTURES + " --seed -1": "--seed -1: must be at least 0",
  MIXTURES + " --clips 0": "--clips 0: must be at least 1",
  MIXTURES + " --rate 1000000000": "--rate 1000000000: must be 1000 to 192000 Hz",
  GRAPH: "--counts",
  COUNTED + " --segments {segments}": "--segments",
  COUNTED + " --counts-out {below}": "--counts-out",
  COUNTED + " --counts-out {counts}": "--counts-out",
  GRAPH + " --counts {counts}": "counts.npz",
  GRAPH + " --counts {counts} --set half": "--set",
  GRAPH + " --counts {counts} --set full": "counts.npz",
  GRAPH + " --counts {cut} --set balanced": "cut.npz",
  GRAPH + " --counts {empty} --set balanced": "empty.npz",
  GRAPH + " --counts {missing} --set balanced": "missing",
  GRAPH + " --segments {nosegments}": "no.csv",
  GRAPH + " --segments {missing}": "missing",
  GRAPH + " --segments {zip}": "broken.csv.gz",
  COUNTED + " --method magic": "magic",
  COUNTED + " --method ontology": "ontology",
  COUNTED + " --method ontology --ontology {missing}": "missing",
  COUNTED + " --threshold 7": "threshold",
  COUNTED + " --threshold some": "--threshold",
  COUNTED + " --neighbour-weight 7": "neighbour_weight",
  "graph --vocabulary {missing} --counts {counts} --set balanced --out {out}": "missing",
  "graph --vocabulary {file} --counts {counts} --set balanced --out {out}": "file",
  "graph --vocabulary {labels} --counts {counts} --set balanced --out {below}": "--out",
  GRAPH + " --segments {segments} --set full": "--set: only valid with --counts",
  COUNTED + " --against author": "--against: only valid with --label",
  COUNTED + " --plot {new}": "must end in .png",
  TORCH.format("{missing}"): "data.vocabulary",
  TORCH.format("{missing}") + NAMED: "missing",
  TORCH.format("{cut}") + NAMED: "cut.npz",
  TORCH.format("{counts}") + NAMED: "counts.npz",
  "import-torch {counts} --config {missing} --workdir {new}": "missing",
  "bench": "what",
  "bench fly": "fly",
  "bench train --batch 0": "--batch",
  "bench infer --model cnn99": "cnn99",
  "bench graph --labels 30": "--labels 30: must be at least 31 for graph",
  "bench infer --trace {file}": "--trace",
  "bench train --trace {below}": "--trace",
  "bench compare": "--twin",
  "bench data --clips 0": "--clips",
  "bench data --clips 9 --twin {missing}": "--twin",
  "bench feed --clips 999999999999": "--clips",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(line, place, capfd):
  before = contents(trained())
  assert run(*line.format(**place).split()) == 2
  printed = capfd.readouterr()
  errors = printed.err.splitlines()
  assert len(errors) == 1, printed.err
  assert errors[0].startswith("atgcn")
  assert MISTAKES[line] in errors[0]
  assert "Traceback" not in errors[0]
  assert contents(trained()) == before
  assert not os.path.exists(place["out"])
  assert saved_checkpoints.saved_steps(place["new"]) == []


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("evaluate --workdir {loop}", "{loop}: no run"),
    ("tag --workdir {loop} a.wav", "{loop}: no run"),
    ("train --config {config} --workdir {loop}", "{loop} is a broken link; choose another"),
    ("train --config {config} --workdir {loop}/run", "{loop} is a broken link; choose another"),
    ("train --config {config} --workdir {gone}", "{gone} is a broken link; choose another"),
  ],
)
def test_a_broken_link_is_no_run_directory(line, message, place, capfd):
  places = place | {"loop": f"{place['folder']}/loop", "gone": f"{place['folder']}/gone"}
  os.symlink("loop", places["loop"])
  os.symlink("missing/folder", places["gone"])
  assert run(*line.format(**places).split()) == 2
  error = capfd.readouterr().err
  assert message.format(**places) in error
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("tag --workdir R |", "FILE: is empty; give a file"),
    ("tag --workdir R a.wav | b.wav", "FILE: is empty; give a file"),
    ("tag --workdir | a.wav", "--workdir: is empty; give a folder"),
    ("tag --workdir R --explain | a.wav", "--explain: is empty; give a label"),
    ("tag --workdir R --csv= a.wav", "--csv: is empty; give a file"),
    ("train --config c.py --workdir |", "--workdir: is empty; give a folder"),
    ("train --config c.py --workdir R --coordinator |", "--coordinator: is empty; give a value"),
    ("evaluate --workdir R --store |", "--store: is empty; give a clip store"),
    ("evaluate --workdir R --labels |", "--labels: is empty; give a file"),
    ("detect --workdir R --score a.csv --score | a.wav", "--score: is empty; give a value"),
    ("prepare --audio a | --labels c.csv --out o.h5", "--audio: is empty; give a file or a folder"),
    ("models get |", "NAME: is empty; give a name"),
    ("import-torch | --config c.py --workdir R", "state: is empty; give a value"),
  ],
)
def test_an_empty_argument_is_refused(line, message, capsys):
  assert run(*("" if word == "|" else word for word in line.split())) == 2
  assert capsys.readouterr().err == f"atgcn {line.split()[0]}: {message}\n"


def test_options_that_may_be_repeated():
  parse = cli.command_parser().parse_args
  assert parse(["detect", "--score", "a", "--score", "b", "c.wav"]).score == ["a", "b"]
  assert parse(["detect", "c.wav"]).score == []


def test_the_commands_work_without_the_mistakes(place):
  assert run(*COUNTED.format(**place).split()) == 0
  assert run(*(GRAPH + " --segments {segments}").format(**place).split()) == 0


def test_broken_rows_of_a_segment_list_are_reported_and_the_rest_is_used(place, tmp_path, capsys):
  names = place | {"segments": str(write(tmp_path / "rows.csv", SOUND_ROWS + "c, 10, 0, /m/0\n"))}
  with warnings.catch_warnings():
    warnings.simplefilter("default")
    assert run(*(GRAPH + " --segments {segments}").format(**names).split()) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert "rows.csv: 1 broken row left out (line 3: times 10 to 0" in line
  with np.load(place["out"]) as stored:
    assert stored["occurrences"].tolist()[:2] == [1, 2]


def test_failures_of_the_work_end_with_1(place, monkeypatch, capsys):
  def of_nan(*_, **__):
    return np.full((15, 6), np.nan), np.zeros((15, 6))

  monkeypatch.setattr("atgcn_jax.runs.scoring.score_clips", of_nan)
  before = contents(trained())
  assert run("evaluate", "--workdir", place["run"]) == 1
  assert "not finite" in capsys.readouterr().err.splitlines()[-1]
  assert contents(trained()) == before


def test_a_keyboard_interrupt_is_one_line(place, monkeypatch, capsys):
  def interrupted(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr("atgcn_jax.reports.evaluation.evaluate_and_write", interrupted)
  assert run("evaluate", "--workdir", place["run"]) == 130
  assert capsys.readouterr().err == "atgcn evaluate: stopped\n"


def test_warnings_of_the_project_are_one_line(monkeypatch, capsys):
  with warnings.catch_warnings():
    cli._show_warning("the file is damaged", UserWarning, "/x/atgcn_jax/y.py", 3)
    cli._show_warning("something in a library", UserWarning, "/x/jax/y.py", 3)
    cli._show_warning("soon gone", DeprecationWarning, "/x/atgcn_jax/y.py", 3)
  assert capsys.readouterr().err == "atgcn: the file is damaged\n"


def graph(tmp_path, name, *arguments):
  assert run("graph", "--out", tmp_path / name, *arguments) == 0
  with np.load(tmp_path / name) as stored:
    return dict(stored)


def test_the_graph_of_counts_and_of_segments(shared, tmp_path):
  audioset, golden = shared / "data" / "audioset", shared / "golden"
  labels = ["--vocabulary", audioset / "class_labels_indices.csv"]
  counted = ["--counts", audioset / "cooccurrence.npz", "--set", "balanced"]
  segments = ["--segments", audioset / "balanced_train_segments.csv"]
  one = graph(tmp_path, "one.npz", *labels, *counted)
  other = graph(tmp_path, "other.npz", *labels, *segments)
  assert one.keys() == other.keys()
  for key in one:
    np.testing.assert_array_equal(one[key], other[key])
  with np.load(golden / "adjacency_balanced.npz") as expected:
    np.testing.assert_allclose(one["propagation"], expected["paper_balanced"], atol=1e-6)
    author = graph(tmp_path, "author.npz", *labels, *counted, "--method", "author")
    np.testing.assert_allclose(author["propagation"], expected["author_balanced"], atol=1e-6)


def test_the_counts_of_several_lists(tmp_path, place):
  one = write(tmp_path / "one.csv", SOUND_ROWS)
  other = write(tmp_path / "other.csv", 'd, 0, 10, "/m/0,/m/1"\n')
  counts, labels = tmp_path / "made" / "counts.npz", ["--vocabulary", place["labels"]]
  listed = graph(tmp_path, "one.npz", *labels, "--segments", one, other, "--counts-out", counts)
  first = graph(tmp_path, "two.npz", *labels, "--segments", one)
  both = np.isin(np.arange(6), (0, 1))
  np.testing.assert_array_equal(listed["occurrences"], first["occurrences"] + both)
  pairs = np.outer(both, both) & ~np.eye(6, dtype=bool)
  np.testing.assert_array_equal(listed["cooccurrences"], first["cooccurrences"] + pairs)
  counted = graph(tmp_path, "three.npz", *labels, "--counts", counts)
  assert counted.keys() == listed.keys()
  for key in counted:
    np.testing.assert_array_equal(counted[key], listed[key])
  config = tiny_config(trained().parent, f"graph.source={counts}", "graph.method=author")
  author = graph(tmp_path, "four.npz", *labels, "--counts", counts, "--method", "author")
  made = new_run(config, open_store(config.data.store))
  np.testing.assert_array_equal(made.propagation, author["propagation"])


def test_a_graph_file_as_the_graph_of_a_run(tmp_path, place, capsys):
  # The file stores label ids, so the labels may be in another order.
  rows = [f'{k},/m/{5 - k},"{VOCABULARY.names[5 - k]}"' for k in range(6)]
  reversed_labels = write(
    tmp_path / "reversed.csv", "\n".join(["index,mid,display_name", *rows]) + "\n"
  )

  stored = graph(
    tmp_path,
    "g.npz",
    *("--vocabulary", reversed_labels, "--counts", place["counts"], "--set", "balanced"),
  )
  assert list(stored["mids"]) == list(VOCABULARY.ids[::-1])
  config = tiny_config(trained().parent, f"graph.source={tmp_path / 'g.npz'}")
  made = new_run(config, open_store(config.data.store))
  np.testing.assert_array_equal(made.propagation, stored["propagation"][::-1, ::-1])
  counted = tiny_config(
    trained().parent, f"graph.source={place['counts']}", "graph.counts_set=balanced"
  )
  again = new_run(counted, open_store(config.data.store))
  np.testing.assert_allclose(again.propagation, made.propagation, atol=1e-7)


@pytest.mark.slow
def test_processes_print_no_messages_of_libraries(tmp_path):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  before, newest = saved_checkpoints.saved_steps(workdir)[-2:]
  for path in (workdir / saved_checkpoints.FOLDER / str(newest) / "variables").rglob("d/*"):
    path.write_bytes(path.read_bytes()[:20])
  sound = tmp_path / "sound.wav"
  soundfile.write(sound, np.sin(np.arange(5000) / 5), 4000)
  processes = [
    start("evaluate", "--workdir", workdir, "--json"),
    start("tag", "--workdir", trained(), "--json", sound, tmp_path / "missing.wav"),
  ]
  (evaluated, reported), (tagged, complaint) = (p.communicate() for p in processes)
  assert [p.returncode for p in processes] == [0, 1]
  assert json.loads(evaluated.splitlines()[-1])["step"] == before
  assert len(json.loads(tagged)["tags"]) == 5
  assert len(reported.splitlines()) == 1
  assert f"checkpoint {newest} is damaged" in reported
  assert len(complaint.splitlines()) == 1
  assert "missing.wav" in complaint
