"""Every verb that writes: full disk, unusable folder, stop and closed pipe, then the same command.

`test_stops.py` continues partial results, `test_write_faults.py` is about training, and
`tests/data/test_building.py` kills `prepare` at many points.
"""

import functools
import os
import pathlib
import re
import shutil
import signal
import sys

import numpy as np
import pytest
from marks import slow
from runs_support import (
  VOCABULARY,
  contents,
  make_store,
  no_space,
  onnx_python,
  prepare_here,
  trained,
  wav,
  waveforms,
)
from test_environments import closed_pipe
from test_prepare import make_sounds
from test_reproduce import SMALL

from atgcn_jax import cli
from atgcn_jax.cli import streams
from atgcn_jax.labels.vocabulary import write_vocabulary

pytestmark = pytest.mark.usefixtures("plain_pages")

# OUT is the folder for the output, IN that of the inputs, RUN a run directory in OUT.
COMMANDS = {
  "tag": "tag --workdir TRAINED --csv OUT/tags.csv IN/sounds",
  "embed": "embed --workdir TRAINED --out OUT/vectors.npz IN/sounds",
  "detect": "detect --workdir TRAINED --min-score 0.01 --out OUT/found.csv IN/sounds",
  "raven": "detect --workdir TRAINED --min-score 0.01 --format raven --out OUT/tables IN/sounds",
  "graph": "graph --counts IN/counts.npz --vocabulary IN/vocabulary.csv --method paper "
  "--out OUT/graph.npz --plot OUT/graph.png",
  "data-card": "data-card IN/store.h5 --out OUT/card",
  "evaluate": "evaluate --workdir TRAINED --store IN/store.h5 --out OUT/evaluation",
  "compare": "compare TRAINED TRAINED --store IN/store.h5 --out OUT/compare",
  "thresholds": "thresholds --workdir RUN",
  "prepare": "prepare --audio IN/clips/audio --labels IN/clips/labels.csv "
  "--vocabulary IN/clips/vocabulary.csv --workers 1 --out OUT/store.h5",
  "huggingface": "export --workdir TRAINED --to huggingface --out OUT/hub",
  "explain": "tag --workdir TRAINED --explain Hum --plot OUT/why.png IN/sounds/0.wav",
  "savedmodel": "export --workdir TRAINED --to savedmodel --out OUT/saved",
  "stablehlo": "export --workdir TRAINED --to stablehlo --out OUT/hlo",
  "onnx": "export --workdir TRAINED --to onnx --out OUT/onnx",
  "soundscapes": "soundscapes --clips 2 --out OUT/scenes",
  "tfds": "tfds --store IN/store.h5 --out OUT/tfds",
  "reproduce": "reproduce table2 --store IN/store.h5 --rows graph_none --seeds 1 "
  "--configs CONFIGS --out OUT/table " + " ".join(SMALL),
}
QUICK = ("tag", "detect", "raven", "graph", "data-card", "evaluate", "thresholds", "prepare")
VERBS = [verb if verb in QUICK else slow(verb) for verb in COMMANDS]
CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "table1"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """Return a folder of small inputs for all commands."""
  folder = tmp_path_factory.mktemp("inputs")
  make_inputs(folder)
  return folder


def make_inputs(folder):
  """Make the small inputs of all commands in a folder."""
  trained()  # its output is not for the tests
  for k, sound in enumerate(waveforms(3, 7)[0]):
    wav(folder / "sounds" / f"{k}.wav", sound)
  (folder / "clips").mkdir()
  make_sounds(folder / "clips", 3)
  make_store(folder / "store.h5")
  write_vocabulary(folder / "vocabulary.csv", VOCABULARY)
  pairs = np.ones((6, 6), int)
  np.savez(
    folder / "counts.npz", mids=VOCABULARY.ids, occurrences=9 * pairs[0], cooccurrences=pairs
  )


@pytest.fixture(autouse=True)
def _here(request, monkeypatch):
  if getattr(request.node, "callspec", None) and request.node.callspec.params.get("verb") == "onnx":
    onnx_python()
  prepare_here(monkeypatch)


def command(verb, inputs, out):
  """Return a function that runs a command in this process and returns its exit status."""
  out.mkdir(exist_ok=True)
  run = out / "run"
  if "RUN" in COMMANDS[verb].split() and not run.exists():
    shutil.copytree(trained(), run)
  places = {"TRAINED": trained(), "RUN": run, "OUT": out, "IN": inputs, "CONFIGS": CONFIGS}
  words = COMMANDS[verb].split()
  for name, place in places.items():
    words = [
      str(place) + word.removeprefix(name) if word.partition("/")[0] == name else word
      for word in words
    ]
  return functools.partial(cli.main, words)


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
  """Return a function from a verb to the files that it writes in an empty folder."""

  @functools.cache
  def of(verb):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert command(verb, inputs, out)() == 0
    return contents(out)

  return of


def complaint(captured):
  """Return the only line that does not report progress."""
  progress = re.compile(r"step |preparing|\[\d+/\d+\] \S+: (mAP|$)")
  (line,) = [line for line in captured.err.splitlines() if not progress.match(line)]
  return line


def assert_nothing_is_half_written(out, whole):
  """Files of a command are under their final names only if they are complete."""
  found = contents(out)
  for name in found.keys() & whole.keys():
    # A run has checksums instead, and a SavedModel has other bytes each time.
    if "/runs/" not in name and not name.startswith(("run/", "saved/")):
      assert found[name] == whole[name], name


def assert_same(out, whole):
  """Compare the files of a command, except those that hold times or random names."""
  compare_files(contents(out), whole)


def place(name):
  """Return the name of a file, or of the checkpoint or log that it is part of."""
  for folder, depth in (("checkpoints", 1), ("tensorboard", 0)):
    before, found, rest = name.partition(f"/{folder}/")
    if found:
      return before + found + "/".join(rest.split("/")[:depth])
  return name


# Formats of files that have the same bytes each time.
EXACT = (
  ".csv",
  ".npz",
  ".png",
  ".md",
  ".json",
  ".h5",
  ".txt",
  ".safetensors",
  ".stablehlo",
  ".onnx",
)


def compare_files(found, whole):
  names, expected = set(map(place, found)), set(map(place, whole))
  assert names == expected, sorted(names ^ expected)
  for name, content in whole.items():
    if name.endswith(EXACT):
      if "/runs/" in name or "/scores/" in name or "saved" in name or "run/" in name:
        continue
      assert found[name] == content, name


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk(tmp_path, inputs, undisturbed, capsys, verb):
  whole, again = undisturbed(verb), command(verb, inputs, tmp_path / "out")
  capsys.readouterr()
  with no_space():
    assert again() in (1, 2)
  line = complaint(capsys.readouterr())
  assert "File too large" in line or "cannot be written" in line or "could not be" in line
  assert len(line) < 400
  assert_nothing_is_half_written(tmp_path / "out", whole)
  assert again() == 0
  assert_same(tmp_path / "out", whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, slow(signal.SIGINT)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_stop_just_before_a_file_appears(
  tmp_path, inputs, undisturbed, capsys, monkeypatch, verb, number
):
  whole, again = undisturbed(verb), command(verb, inputs, tmp_path / "out")
  capsys.readouterr()

  def stopping(rename):
    def renamed(source, target, **options):
      if str(tmp_path) in str(target):
        monkeypatch.undo()
        prepare_here(monkeypatch)
        os.kill(os.getpid(), number)
      return rename(source, target, **options)

    return renamed

  for owner, name in ((os, "replace"), (pathlib.Path, "replace"), (pathlib.Path, "rename")):
    monkeypatch.setattr(owner, name, stopping(getattr(owner, name)))
  assert again() == 128 + number
  assert complaint(capsys.readouterr())
  assert_nothing_is_half_written(tmp_path / "out", whole)
  assert again() == 0
  assert_same(tmp_path / "out", whole)


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_in_place_of_the_folder(tmp_path, inputs, capsys, verb):
  if verb == "thresholds":
    pytest.skip("its output is in the run directory")
  (tmp_path / "file").write_text("x")
  again = command(verb, inputs, tmp_path / "out")
  shutil.rmtree(tmp_path / "out")
  (tmp_path / "out").symlink_to(tmp_path / "file")
  capsys.readouterr()
  assert again() in (1, 2)
  line = complaint(capsys.readouterr())
  assert str(tmp_path / "out") in line
  assert (tmp_path / "file").read_text() == "x"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


PRINTING = [
  verb if verb in ("graph", "data-card", "evaluate") else slow(verb)
  for verb in COMMANDS
  if verb not in ("tag", "detect", "raven")  # these print nothing
]


@pytest.mark.parametrize("verb", PRINTING)
def test_a_closed_pipe(tmp_path, inputs, undisturbed, monkeypatch, capsys, verb):
  whole, again = undisturbed(verb), command(verb, inputs, tmp_path / "out")
  capsys.readouterr()
  with open(closed_pipe(), "w") as out, monkeypatch.context() as patch:
    patch.setattr(sys, "stdout", out)
    assert again() == streams.PIPE_CLOSED
  assert not [line for line in capsys.readouterr().err.splitlines() if "atgcn" in line]
  assert_nothing_is_half_written(tmp_path / "out", whole)
  assert again() == 0
  assert_same(tmp_path / "out", whole)


@pytest.mark.parametrize("verb", ["tag", "embed", "detect", "graph", slow("prepare")])
def test_devices_and_pipes_are_not_replaced(tmp_path, inputs, capsys, verb):
  again = command(verb, inputs, tmp_path / "out")
  words = again.args[0]
  option = next(word for word in words if word in ("--csv", "--out"))
  path = pathlib.Path(words[words.index(option) + 1])
  os.mkfifo(path)
  capsys.readouterr()
  assert again() == 2
  assert f"{path}: is not a regular file" in complaint(capsys.readouterr())
  assert path.is_fifo()


def test_a_planted_link_is_not_followed(tmp_path, inputs, monkeypatch):
  """The temporary name is new, so nothing is written through a link of that name."""
  monkeypatch.setattr("secrets.token_hex", lambda _: "known")
  victim = tmp_path / "victim"
  victim.write_text("x")
  out = tmp_path / "out"
  again = command("data-card", inputs, out)
  (out / "card").mkdir()
  (out / "card" / ".store-card.json.known.tmp").symlink_to(victim)
  assert again() == 2
  assert victim.read_text() == "x"
