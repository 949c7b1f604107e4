"""Processes killed in any phase lose nothing that was saved, and leave no incomplete file."""

import re
import subprocess
import sys

import pytest
from kill_sweep import AIMS, sweep, table
from runs_support import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_processes_lose_nothing_that_was_saved(tmp_path, kills):
  met = sweep(tmp_path, kills, seed=1, steps=10 * kills + 20)
  assert len(met) == kills
  assert len({kill.aim for kill in met}) >= min(kills, len(AIMS)) - 1
  print(table(met))


@pytest.mark.slow
def test_killed_commands_leave_no_incomplete_file(tmp_path):
  script = REPOSITORY / "tests" / "support" / "kill_outputs.py"
  verbs = ["graph", "thresholds", "soundscapes"]
  done = subprocess.run(
    [sys.executable, script, "--folder", tmp_path, "--most", "2", *verbs],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  kills = dict(re.findall(r"\| `(\w+)` \| \d+ \| (\d+) \| 0 \| 0 \|", done.stdout))
  assert [*kills] == verbs
  assert all(int(count) >= 2 for count in kills.values())
