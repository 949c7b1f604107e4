"""The same command twice at once: the second refuses, and nothing is computed or written twice."""

import pathlib
import shutil

import pytest
from runs_support import contents, make_store, trained
from test_reproduce import SMALL

from atgcn_jax import cli
from atgcn_jax.runs import scoring
from atgcn_jax.runs.folder_lock import held
from atgcn_jax.runs.resumable_scores import kept_scores

pytestmark = pytest.mark.usefixtures("plain_pages")

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "table1"


@pytest.fixture
def run(tmp_path):
  """Return a copy of the trained run, whose first evaluation is done in other tests."""
  return shutil.copytree(trained(), tmp_path / "run")


@pytest.fixture
def asked(monkeypatch):
  """Return the identities of the scores that are computed."""
  found, identity = [], scoring.scores_identity
  monkeypatch.setattr(
    scoring, "scores_identity", lambda *given: found.append(identity(*given)) or found[-1]
  )
  return found


@pytest.mark.parametrize(
  ("verb", "folder"), [("evaluate", "evaluation"), ("thresholds", "."), ("compare", "compare")]
)
def test_the_second_scoring_refuses(run, asked, capsys, monkeypatch, verb, folder):
  command = [verb, "--workdir", str(run)] if verb != "compare" else [verb, str(trained()), str(run)]
  assert cli.main(command) == 0
  scored = []
  monkeypatch.setattr(scoring, "score_clips", lambda *_, **__: scored.append(1))
  before = contents(run)
  capsys.readouterr()
  with kept_scores(run / folder) as keep:
    assert keep(asked[-1], 4) is not None
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("atgcn")]
    assert f"{run / folder}: another command is computing the same scores; wait" in line
    assert not scored
    assert before.items() <= contents(run).items()
  assert contents(run) == before


def test_one_command_uses_its_own_scores_twice(run, monkeypatch, capsys):
  """`compare` of a run and its copy computes the scores once."""
  computed, batches = [], scoring.batches
  monkeypatch.setattr(
    scoring, "batches", lambda *given: (computed.append(1) or one for one in batches(*given))
  )
  assert cli.main(["evaluate", "--workdir", str(run)]) == 0
  once = len(computed)
  assert cli.main(["compare", str(trained()), str(run)]) == 0
  assert len(computed) == 2 * once
  capsys.readouterr()


def test_the_second_reproduction_refuses(tmp_path, capsys):
  out, store = tmp_path / "out", make_store(tmp_path / "store.h5")
  command = ["reproduce", "table2", "--store", store, "--rows", "graph_none", "--seeds", 1]
  command = [*command, "--configs", CONFIGS, "--out", out, *SMALL]
  with held(out):
    before = contents(out)
    assert cli.main(list(map(str, command))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{out}: process" in line
    assert contents(out) == before
