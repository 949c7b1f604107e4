"""Tests of the check of outputs: no output replaces an input, and unusable ones cost no work."""

import argparse

import pytest
from runs_support import contents

from atgcn_jax import cli
from atgcn_jax.cli.outputs import INPUTS, OUTPUTS, check_outputs

PATHS = ("FILE", "DIR", "PATH", "STORE", "CLIP", "LIST", "TABLE")  # how the help names paths
# Each command names files that exist, if the test below makes them, and does not reach its work.
REPLACED = {
  "tag --csv a.ogg a.ogg": "--csv a.ogg: is the same file as a.ogg",
  "tag --csv ./a.ogg a.ogg b.ogg": "is the same file as a.ogg",
  "tag --csv link.ogg a.ogg": "is the same file as a.ogg",
  "tag --csv sounds/c.ogg sounds": "--csv sounds/c.ogg: is one of the files in sounds",
  "tag --csv l.csv --add-labels l.csv a.ogg": "is the same file as --add-labels l.csv",
  "tag --explain Hum --csv new.png --plot new.png a.ogg": "is the same file as --csv new.png",
  "embed --out a.ogg a.ogg": "--out a.ogg: is the same file as a.ogg",
  "detect --out a.ogg a.ogg": "--out a.ogg: is the same file as a.ogg",
  "detect --score l.csv --out l.csv a.ogg": "is the same file as --score l.csv",
  "detect --score tables --out tables/t.csv a.ogg": "is one of the files in --score tables",
  "suggest --csv l.csv --labels l.csv a.ogg": "is the same file as --labels l.csv",
  "similar --csv c.npz --embeddings c.npz a.ogg": "is the same file as --embeddings c.npz",
  "prepare --audio sounds --labels l.csv --out l.csv": "is the same file as --labels l.csv",
  "prepare --audio sounds --labels l.csv --out sounds/c.ogg": "is one of the files in --audio",
  "graph --counts c.npz --vocabulary l.csv --out c.npz": "is the same file as --counts c.npz",
  "graph --counts c.npz --vocabulary l.csv --out new.png --plot new.png": "as --out new.png",
  "mixtures --audio sounds --labels l.csv --vocabulary tables/t.csv --counts c.npz --out tables": (
    "--out tables: its files are replaced, but --vocabulary tables/t.csv is in it"
  ),
  "export --workdir sounds --to onnx --out sounds": "but --workdir sounds is in it",
}
UNUSABLE = {
  "tag --csv missing/x.csv a.ogg": "--csv missing/x.csv: cannot be written (missing does not",
  "tag --csv a.ogg/x.csv b.ogg": "--csv a.ogg/x.csv: cannot be written (a.ogg is not a folder)",
  "tag --csv sounds a.ogg": "--csv sounds: must be a file, but is a folder",
  "tag --explain Hum --plot missing/x.png a.ogg": "--plot missing/x.png: cannot be written",
  "tag --explain Hum --plot x.txt a.ogg": "--plot x.txt: must end in .png, .svg or .pdf",
  "detect --out missing/x.csv a.ogg": "--out missing/x.csv: cannot be written",
  "detect --format raven --out l.csv a.ogg": "--out l.csv: ",
  "embed --out missing/x.npz a.ogg": "--out missing/x.npz: cannot be written",
  "similar --csv missing/x.csv --embeddings c.npz a.ogg": "--csv missing/x.csv: cannot be written",
  "suggest --csv missing/x.csv a.ogg": "--csv missing/x.csv: cannot be written",
  "graph --counts c.npz --vocabulary l.csv --out l.csv/g.npz": "--out l.csv/g.npz: ",
  "graph --counts c.npz --vocabulary l.csv --out g.npz --plot l.csv/g.png": "--plot l.csv/g.png: ",
  "data-card s.h5 --out l.csv": "--out l.csv: ",
  "metadata --out l.csv": "--out l.csv: ",
  "reproduce table1 --store soundscapes --out l.csv": "--out l.csv: ",
}
BUCKET = "gs://bucket/x: is in a bucket; name a path on a disk"
ON_DISK = (
  "prepare --audio sounds --labels l.csv --out gs://bucket/x",
  "graph --counts c.npz --vocabulary l.csv --out gs://bucket/x",
  "graph --counts c.npz --vocabulary l.csv --out g.npz --counts-out gs://bucket/x",
  "graph --counts c.npz --vocabulary l.csv --out g.npz --plot gs://bucket/x",
  "soundscapes --clips 1 --out gs://bucket/x",
  "mixtures --audio sounds --labels l.csv --vocabulary l.csv --counts c.npz --out gs://bucket/x",
  "data-card s.h5 --out gs://bucket/x",
  "metadata --out gs://bucket/x",
  "reproduce table1 --store soundscapes --out gs://bucket/x",
)
FINE = (
  "tag --csv sounds/tags.csv sounds",
  "tag --csv sounds/new.ogg sounds",
  "embed --out sounds/e.npz sounds",
  "detect --format raven --out sounds sounds",
  "prepare --audio sounds --labels l.csv --out new/folder/s.h5",
  "evaluate --workdir sounds --out sounds",
  "detect --format raven --out gs://bucket/tables a.ogg",
  "similar --csv gs://bucket/a.csv --embeddings gs://bucket/b.npz a.ogg",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
  """Create the files that the commands name in the current folder, and return the folder."""
  monkeypatch.chdir(tmp_path)
  for name in ("sounds", "tables"):
    (tmp_path / name).mkdir()
  for name in ("a.ogg", "b.ogg", "l.csv", "c.npz", "sounds/c.ogg", "sounds/tags.csv"):
    (tmp_path / name).write_text("mine")
  (tmp_path / "tables" / "t.csv").write_text("mine")
  (tmp_path / "link.ogg").symlink_to("a.ogg")
  return tmp_path


@pytest.mark.parametrize(
  ("line", "message"),
  [*REPLACED.items(), *UNUSABLE.items(), *((line, BUCKET) for line in ON_DISK)],
)
def test_an_output_that_cannot_be_used_is_refused_before_the_work(here, capsys, line, message):
  before = contents(here)
  assert cli.main(line.split()) == 2
  error = capsys.readouterr().err
  assert error.startswith(f"atgcn {line.split()[0]}: ")
  assert message in error
  assert error.count("\n") == 1
  assert contents(here) == before


@pytest.mark.parametrize("line", FINE)
def test_other_outputs_are_accepted(here, line):
  check_outputs(cli.command_parser().parse_args(line.split()))


def test_every_path_of_the_checked_verbs_is_an_input_or_an_output():
  (verbs,) = (
    action
    for action in cli.command_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
  )
  for verb, outputs in OUTPUTS.items():
    actions = verbs.choices[verb]._actions
    named = {action.dest for action in actions if action.metavar in PATHS}
    assert named == named & {*INPUTS, *outputs}, verb
    assert outputs.keys() <= named, verb
