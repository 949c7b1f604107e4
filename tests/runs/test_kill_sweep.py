"""Training processes killed in any phase of a save lose nothing that was saved."""

import pytest
from kill_sweep import AIMS, sweep, table


@pytest.mark.slow
@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_processes_lose_nothing_that_was_saved(tmp_path, kills):
  met = sweep(tmp_path, kills, seed=1, steps=10 * kills + 20)
  assert len(met) == kills
  assert len({kill.aim for kill in met}) >= min(kills, len(AIMS)) - 1
  print(table(met))
