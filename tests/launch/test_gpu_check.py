"""Tests of the check on a GPU: limits, records, the summary, and that each step can be started."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from launch_support import LAUNCH, ROOT, call


@pytest.fixture(scope="module")
def launched():
  """The modules of launch/."""
  sys.path.insert(0, str(LAUNCH))
  yield [importlib.import_module(name) for name in ("gpu_check", "gpu_steps", "gpu_summary")]
  sys.path.remove(str(LAUNCH))


def python(text):
  return sys.executable, "-c", text


@pytest.fixture
def run(launched, tmp_path):
  """Return a function that runs steps and returns the records by name."""
  check, steps, _ = launched

  def of(seconds, *chosen):
    book = check.Book(tmp_path, "Trial")
    made = [steps.Step(*one[:4], *one[4:]) for one in chosen]
    check.run_steps(made, seconds, tmp_path, {"COLOUR": "blue"}, book)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    return {record["name"]: record for record in map(json.loads, lines)}

  return of


def test_each_step_is_recorded_and_the_next_one_runs(run, tmp_path):
  found = run(
    60,
    ("good", "a", 20, python("import os, json; print(json.dumps({'x': os.environ['COLOUR']}))")),
    ("bad", "a", 20, python("print('first'); raise SystemExit('no memory')")),
    ("slow", "b", 1, python("import time; print('began', flush=True); time.sleep(60)")),
    ("absent", "c", 20, python("1 / 0"), (tmp_path / "missing",)),
    ("last", "d", 20, python("print('end')"), (), (("COLOUR", "red"),)),
  )
  assert {name: record["status"] for name, record in found.items()} == {
    **{"absent": "left out", "good": "done", "bad": "failed", "slow": "cut", "last": "done"}
  }
  assert found["good"]["result"] == {"x": "blue"}
  assert found["bad"]["reason"] == "exit status 1: no memory"
  assert found["slow"]["result"] == {"output": ["began"]}
  assert found["slow"]["seconds"] < 15
  summary = (tmp_path / "summary.md").read_text()
  assert "| slow | b | cut | " in summary
  assert f"needs {tmp_path / 'missing'}" in summary
  assert "no memory" in (tmp_path / "log.txt").read_text()


def test_steps_without_time_are_left_out_and_short_ones_fill_the_rest(run):
  quick = python("print()")
  found = run(32, ("long", "a", 90, quick), ("short", "a", 8, quick), ("never", "b", 90, quick))
  assert list(found) == ["short", "long", "never"]
  assert found["short"]["status"] == "done"
  found = run(12, ("one", "a", 40, quick))
  assert found["one"]["reason"] == "no time was left"


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(launched, run, monkeypatch):
  monkeypatch.setattr(launched[0], "GRACE", 0.2)
  wait = "import time; time.sleep(99)"
  deaf = (
    "import signal, subprocess, sys\n"
    f"subprocess.Popen([sys.executable, '-c', '{wait}'])\n"
    f"signal.signal(15, signal.SIG_IGN); print(1, flush=True); {wait}"
  )
  began = time.monotonic()
  found = run(60, ("deaf", "a", 3, python(deaf)))
  assert found["deaf"]["exit"] == -signal.SIGKILL
  assert time.monotonic() - began < 30


def test_without_a_gpu_it_ends_with_one_line(launched, tmp_path, monkeypatch, capsys):
  check, steps, _ = launched
  no_gpu = steps.Step("machine", "", 60, python("print('no device: none'); raise SystemExit(2)"))
  monkeypatch.setattr(steps, "steps_of", lambda *_: [no_gpu, no_gpu._replace(part="a")])
  arguments = ["--minutes", "1", "--out", str(tmp_path), "--work", str(tmp_path / "w")]
  assert check.main(arguments) == 2
  assert capsys.readouterr().err.splitlines() == [
    "gpu_check.sh: exit status 2: no device: none; use --rehearse to run on the CPU"
  ]


def test_the_summary_compares_with_torch_and_the_matrix_product(launched):
  ours = {"clips_per_second": 300.0, "flops_per_second": 4e14, "peak_bytes": 2e9}
  tests = {"test_x": {"outcome": "passed", "seconds": 1, "error": 0.00012}}
  results = {
    "machine": {"bfloat16 FLOP/s": 8e14, "jax": "0.0"},
    "train x 2": ours | {"dtype": "bfloat16"},
    "train x 2 torch": {"clips_per_second": 200.0, "peak_bytes": 1e9},
    "gradients": tests,
    "table2 seeds 1": {"output": ["| graph | mAP |", "|---|---|"]},
    "table2 seeds 2": {"output": ["| graph | better |", "|---|---|"]},
  }
  records = [{"name": n, "part": "b", "status": "done", "result": r} for n, r in results.items()]
  text = launched[2].summary("Trial", records)
  assert "300 clips/s, 1.50 of torch, 50% of the matrix product, 2.00 GB |" in text
  assert "1 passed, error 0.00012 |" in text
  assert "## table2\n\n| graph | better |" in text
  assert "| graph | mAP |" not in text


@pytest.mark.parametrize("small", [True, False])
def test_every_step_names_files_and_verbs_that_exist(launched, tmp_path, small):
  _, steps, _ = launched
  sizes = steps.SMALL if small else steps.Sizes()
  made = steps.steps_of(sizes, pathlib.Path("/shared"), tmp_path)
  assert len({step.name for step in made}) == len(made)
  assert [step.part for step in made] == sorted(step.part for step in made)
  for step in made:
    assert all(isinstance(word, str) for word in step.command), step
    scripts = [word for word in step.command if word.endswith(".py") and word[0] != "/"]
    assert all((ROOT / word).is_file() for word in scripts), step
  atgcn = [step.command[3:] for step in made if step.command[:3] == steps.ATGCN]
  assert {words[0] for words in atgcn} == {"bench", "prepare", "reproduce", "mixtures"}
  parse = (
    "import json, sys; from atgcn_jax import cli\n"
    "for words in json.load(sys.stdin): cli.command_parser().parse_known_args(words)"
  )
  given = json.dumps(atgcn)
  done = subprocess.run(python(parse), cwd=ROOT, input=given, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  ("words", "line"),
  [
    (["--minutes", "0"], "--minutes: must be a positive integer, got '0'"),
    (["--parts", "ae"], "--parts: must be letters of abcd, got 'ae'"),
    (["--wheels", "/nowhere"], "--wheels /nowhere: has no wheels; see --help"),
  ],
)
def test_refused_options(words, line):
  done = call("gpu_check.sh", *words)
  assert (done.returncode, done.stderr) == (2, f"gpu_check.sh: {line}\n")


def test_a_step_of_the_rehearsal(tmp_path):
  only = ["--minutes", "3", "--out", tmp_path, "--work", tmp_path / "w", "--only", "machine"]
  command = [sys.executable, LAUNCH / "gpu_check.py", "--rehearse", *only]
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()
  (record,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
  assert record["result"]["float32 FLOP/s"] > 0


@pytest.mark.slow
def test_the_rehearsal_runs_every_step_to_its_end(shared, tmp_path):
  environment = {**os.environ, "PYTHON": sys.executable, "ATGCN_SHARED": str(shared.resolve())}
  command = ["bash", LAUNCH / "gpu_check.sh", "--rehearse", "--minutes", "30", "--out", tmp_path]
  done = subprocess.run(command, env=environment, capture_output=True, text=True)
  records = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
  unfinished = [record for record in records if record["status"] in ("failed", "cut")]
  assert (done.returncode, unfinished) == (0, [])
