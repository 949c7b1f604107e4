"""Run directories and output folders on a file system that is mounted read-only.

`test_environments.py` simulates this where nothing can be mounted.
"""

import json
import shutil
import subprocess

import pytest
from marks import slow
from runs_support import CONFIG, prepare_here, trained
from test_output_faults import COMMANDS, QUICK, VERBS, command, complaint, inputs  # noqa: F401
from test_write_faults import mount

from atgcn_jax import cli


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
  """Return a read-only folder with the folder `out`, which has a run."""
  folder = tmp_path_factory.mktemp("disk")
  mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", folder)
  try:
    shutil.copytree(trained(), folder / "out" / "run")
    mount("-o", "remount,ro", folder)
    yield folder
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
  prepare_here(monkeypatch)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("verb", VERBS)
def test_outputs_to_a_read_only_folder(disk, inputs, capsys, verb):  # noqa: F811
  again = command(verb, inputs, disk / "out")
  capsys.readouterr()
  assert again() in (1, 2)
  line = complaint(capsys.readouterr())
  assert str(disk / "out") in line
  assert len(line) < 400


@pytest.mark.filterwarnings("default")
def test_an_evaluation_without_files(disk, capsys):
  assert cli.main(["evaluate", "--workdir", str(disk / "out/run"), "--json"]) == 0
  captured = capsys.readouterr()
  assert "Read-only file system" in complaint(captured)
  assert json.loads(captured.out.splitlines()[-1])["mAP"] > 0


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
  "words",
  [
    "train --config IN/config.py --workdir OUT/new",
    "finetune --from OUT/run --store IN/store.h5 --workdir OUT/new",
    "metadata --out OUT/metadata --mirror http://127.0.0.1:9",
  ],
)
def test_commands_that_write_only(disk, inputs, capsys, words):  # noqa: F811
  (inputs / "config.py").write_text(CONFIG.format(store=str(inputs / "store.h5")))
  words = words.replace("IN/", f"{inputs}/").replace("OUT/", f"{disk}/out/").split()
  assert cli.main(words) in (1, 2)
  captured = capsys.readouterr()
  assert not captured.out
  assert str(disk / "out") in complaint(captured)


READING = [
  verb if verb in QUICK else slow(verb)
  for verb, words in COMMANDS.items()
  if "TRAINED" in words.split()
]


@pytest.mark.parametrize("verb", READING)
def test_a_read_only_run_is_used(disk, inputs, tmp_path, monkeypatch, capsys, verb):  # noqa: F811
  monkeypatch.setattr("test_output_faults.trained", lambda: disk / "out" / "run")
  again = command(verb, inputs, tmp_path / "out")
  capsys.readouterr()
  assert again() == 0
  assert any((tmp_path / "out").rglob("*"))
  said = capsys.readouterr().err.splitlines()
  assert all(": wrote " in line for line in said)
