"""Tests of exports, which are loaded in processes that cannot import this package."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from marks import slow
from runs_support import (
  FRONTEND,
  REPOSITORY,
  VOCABULARY,
  contents,
  make_store,
  trained,
  trained_cnn10,
  waveforms,
)

from atgcn_jax import Tagger, cli
from atgcn_jax.audio import sound_files, windows
from atgcn_jax.interop import export as exporting
from atgcn_jax.interop.export import export
from atgcn_jax.interop.exported_function import windows_of
from atgcn_jax.interop.model_card import model_card
from atgcn_jax.labels.estimates import Calibration
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs.calibrations import DEFAULTS, Calibrations, write_calibrations
from atgcn_jax.runs.load import load_run
from atgcn_jax.runs.thresholds import tune
from atgcn_jax.training import sharding

pytestmark = pytest.mark.usefixtures("plain_pages")

STEP = "30"
FORMATS = ("stablehlo", "savedmodel", "huggingface")  # formats that need no other environment
PAGE = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
# Runs the code of docs/export.md for each sound, where the package cannot be imported.
OUTSIDE = """
import sys, numpy as np
class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] == 'atgcn_jax':
      raise ImportError('not here')
sys.meta_path.insert(0, Absent())
try:
  import atgcn_jax
  raise SystemExit('the package is there')
except ImportError:
  pass
sounds, found = np.load('sounds.npz'), {}
code = open('snippet.py').read()
for name in sounds:
  names = {'sound': sounds[name]}
  exec(code, names)
  found[name] = np.asarray(names['scores'])
assert 'atgcn_jax' not in sys.modules
np.savez('scores.npz', **found)
"""


@pytest.fixture(scope="module", params=[trained, slow(trained_cnn10)])
def workdir(request):
  return request.param()


@pytest.fixture(scope="module")
def tagger(workdir):
  return Tagger.restore(workdir, STEP)


@pytest.fixture(scope="module")
def exports(workdir, tmp_path_factory):
  """Return a folder with an export in each format, named as in docs/export.md."""
  folder = tmp_path_factory.mktemp("exports")
  for to in FORMATS:
    export(workdir, to, folder / f"demo-{to}", STEP)
  return folder


@pytest.fixture(scope="module")
def sounds():
  """Return batches of sound float32[B, S] by name, of one and three clips and several lengths."""
  made = waveforms(6, 5)[0]
  found = {
    "one": made[:1],
    "three": made[1:4],
    "short": made[:3, :1500],
    "long": np.concatenate([made[:2], made[2:4], made[4:6, :2000]], axis=1),
    "cut": np.concatenate([made[:1], made[1:2, :300]], axis=1),
  }
  recordings = pathlib.Path(os.environ.get("ATGCN_SHARED", "../shared")) / "data/esc10/audio"
  for path in sorted(recordings.glob("*.ogg"))[:1]:
    found["recording"] = sound_files.load_waveform(path, FRONTEND.sample_rate)[None]
  return found


@pytest.mark.parametrize("to", ["stablehlo", "savedmodel"])
def test_programs_do_not_state_where_they_were_made(exports, to):
  for path in (exports / f"demo-{to}").rglob("*"):
    assert path.is_dir() or not re.search(rb"\w\.py\b", path.read_bytes()), path


def outside(code, folder, sounds, python=sys.executable):
  """Run a snippet of the page on sounds, in a process that cannot import the package."""
  np.savez(folder / "sounds.npz", **sounds)
  (folder / "snippet.py").write_text(code)
  (folder / "outside.py").write_text(OUTSIDE)
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [python, "outside.py"],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  with np.load(folder / "scores.npz") as found:
    return dict(found)


def assert_scores_of(tagger, sounds, found):
  """Check that `found` holds the scores of the tagger for each sound."""
  assert found.keys() == sounds.keys()
  for name, batch in sounds.items():
    expected = np.stack([tagger.scores(sound) for sound in batch])
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(found[name], expected, atol=1e-4, err_msg=name)
  spread = np.ptp(np.concatenate(list(found.values())), axis=0).max()
  assert spread > 0.05, "scores that do not differ show nothing"


@pytest.mark.parametrize("format_", ["StableHLO", "SavedModel"])
def test_exports_give_the_scores_of_the_tagger(format_, exports, sounds, tagger):
  found = outside(SNIPPETS[format_], exports, sounds)
  assert_scores_of(tagger, sounds, found)


def test_the_huggingface_export_gives_the_same_bits(exports, sounds, tagger, monkeypatch):
  monkeypatch.chdir(exports)
  names = {"sound": sounds["long"]}
  exec(SNIPPETS["Hugging Face"], names)
  np.testing.assert_array_equal(names["scores"], tagger.scores(sounds["long"][0]))
  for batch in sounds.values():
    np.testing.assert_array_equal(names["tagger"].scores(batch[0]), tagger.scores(batch[0]))
  assert names["tagger"].tag(batch[0]) == tagger.tag(batch[0])
  assert Tagger.restore("demo-huggingface", STEP).run.vocabulary == VOCABULARY


@pytest.mark.parametrize(("tuned_at", "goes_along"), [(STEP, True), ("best", False)])
def test_thresholds_of_the_exported_step_are_copied(tmp_path, tuned_at, goes_along):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  tune(workdir, step=tuned_at)
  export(workdir, "huggingface", tmp_path / "exported", STEP)
  found = Tagger.restore(tmp_path / "exported").thresholds
  if not goes_along:
    assert found is None
    return
  expected = Tagger.restore(workdir, STEP).thresholds
  assert np.isfinite(expected).any()
  np.testing.assert_array_equal(found, expected)


def test_calibrations_of_the_exported_checkpoint_are_copied(tmp_path):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  (tmp_path / "labels.yaml").write_text("Buzz: 0.9 Hum, 0.9 Drone")
  sound, by_kind = waveforms(1, 9)[0][0], {kind: Calibration(1.5, 0.4) for kind in DEFAULTS.by_kind}
  checkpoint = Tagger.restore(workdir).checkpoint()
  for of, goes_along in ((checkpoint, True), ("other", False)):
    write_calibrations(workdir, Calibrations(int(STEP), by_kind, of))
    export(workdir, "huggingface", tmp_path / "exported", STEP)
    assert (tmp_path / "exported" / "added-labels.json").exists() == goes_along
    if goes_along:  # also without a warning
      scores = [
        Tagger.restore(folder).with_labels(tmp_path / "labels.yaml").scores(sound)
        for folder in (workdir, tmp_path / "exported")
      ]
      np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(("size", "step"), [(7, 7), slow(10, 5), slow(10, 10), slow(40, 4)])
def test_windows_are_those_of_the_tagger(size, step):
  for samples in range(1, 4 * size):
    sound = np.arange(1, samples + 1, dtype=np.float32)
    cut = windows.cut([sound], size, size, shortest=windows.shortest_tail(size))
    expected = np.stack([windows.shortened(window, step).waveform for window in cut])
    found = windows_of(jax.numpy.asarray(sound[None]), size, step)
    np.testing.assert_array_equal(found[0], expected)


def test_a_step_can_be_chosen(tmp_path, sounds, tagger):
  loaded = load_run(trained(), "best", sharding.data_mesh(jax.devices()[:1]))
  export(trained(), "stablehlo", tmp_path / "demo-stablehlo", "best")
  found = outside(SNIPPETS["StableHLO"], tmp_path, {"three": sounds["three"]})["three"]
  other = Tagger(loaded.run, loaded.state)
  expected = np.stack([other.scores(sound) for sound in sounds["three"]])
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected - [tagger.scores(sound) for sound in sounds["three"]]).max() > 1e-3


def test_config_json_has_the_labels(exports):
  for to in FORMATS:
    config = json.loads((exports / f"demo-{to}" / "config.json").read_text())
    assert config["format"] == to
    assert config["step"] == int(STEP)
    assert config["sample_rate"] == FRONTEND.sample_rate
    assert config["window_samples"] == FRONTEND.samples
    assert config["label_ids"] == list(VOCABULARY.ids)
    assert config["label_names"] == list(VOCABULARY.names)


def test_the_model_card_is_of_the_run(exports, workdir, tmp_path):
  card = (exports / "demo-huggingface" / "README.md").read_text()
  validated = next(r for r in load_history(workdir) if r["step"] == int(STEP))
  assert f"| mAP | {validated['mAP']:.4f} |" in card
  assert "| labels | 6 |" in card
  assert all(f"- {name} (`{label_id}`)" in card for label_id, name in zip(*_labels()))
  workdir = shutil.copytree(workdir, tmp_path / "run")
  assert cli.main(["evaluate", "--workdir", str(workdir), "--step", STEP]) == 0
  export(workdir, "huggingface", tmp_path / "out", STEP)
  evaluated = json.loads((workdir / "evaluation" / f"test-{STEP}.json").read_text())
  card = (tmp_path / "out" / "README.md").read_text()
  tested = card.split(f"## Evaluation: test, step {STEP}")[1].split("##")[0]
  assert f"| mAP | {evaluated['mAP']:.4f} |" in tested
  assert f"| clips | {evaluated['clips']} |" in tested
  for path in (tmp_path / "out").iterdir():
    assert str(trained().parent).encode() not in path.read_bytes(), "folders of this machine"


def test_the_model_card_leaves_out_estimates(tmp_path):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  loaded = load_run(workdir, STEP, sharding.data_mesh(jax.devices()[:1]))
  result = {"step": int(STEP), "store_fingerprint": loaded.run.store_fingerprint}
  folder = workdir / "evaluation"
  folder.mkdir(exist_ok=True)
  of_run = {"split": "test", "mAP": 0.25}
  estimated = {"split": "all", "mAP": 0.75, "added": "new.csv"}
  for name, more in ((f"test-{STEP}", of_run), (f"all-{STEP}-new", estimated)):
    (folder / f"{name}.json").write_text(json.dumps(result | more))
  card = model_card(loaded, workdir)
  assert "| mAP | 0.2500 |" in card
  assert "0.7500" not in card


@pytest.mark.slow
def test_the_model_card_names_the_data_of_evaluations(tmp_path):
  workdir = shutil.copytree(trained(), tmp_path / "run")
  other = make_store(tmp_path / "other.h5", clips=41, seed=9)
  (tmp_path / "few.txt").write_text("/m/0\n")
  found = [evaluate(workdir, step=STEP, store_path=store) for store in (str(other), None)]
  evaluate(workdir, step=STEP, split="all")
  evaluate(workdir, step="best", split="train")
  evaluate(workdir, step=STEP, split="validation", labels_path=str(tmp_path / "few.txt"))
  folder = workdir / "evaluation"
  (folder / "broken.json").write_text("{")
  (folder / f"train-{STEP}.json").write_text(json.dumps({"step": int(STEP), "split": "train"}))
  card = model_card(load_run(workdir, STEP, sharding.data_mesh(jax.devices()[:1])), workdir)
  parts = dict(part.split("\n", 1) for part in card.split("## Evaluation: ")[1:])
  step = f", step {STEP}"
  named = f"test of other.h5, fingerprint {found[0]['store_fingerprint'][:8]}{step}"
  unknown = f"train of a store that was not recorded{step}"
  assert list(parts) == [f"validation{step}", f"test{step}", f"all{step}", named, unknown]
  for title, result in zip((named, f"test{step}"), found):
    assert f"| mAP | {result['mAP']:.4f} |" in parts[title]
  assert "| clips | 10 |" in parts[named]
  assert "| clips | 15 |" in parts[f"test{step}"]


def load_history(workdir):
  return load_run(workdir, STEP, sharding.data_mesh(jax.devices()[:1])).history


def _labels():
  return VOCABULARY.ids, VOCABULARY.names


# The command, and output folders that are not empty.


def run(*arguments):
  try:
    return cli.main(["export", *map(str, arguments)])
  except SystemExit as end:
    return end.code


def test_the_command_replaces_only_its_own_export(tmp_path, capfd):
  out = tmp_path / "out"
  arguments = ["--workdir", trained(), "--out", out]
  assert run(*arguments, "--to", "stablehlo", "--step", "best") == 0
  assert run(*arguments, "--to", "huggingface") == 0
  printed = capfd.readouterr()
  assert printed.out.splitlines() == [
    f"{out}: {to} of {trained()}" for to in ("stablehlo", "huggingface")
  ]
  assert printed.err == ""
  assert sorted(contents(out)) == ["README.md", "config.json", "model.safetensors"]
  (out / "config.json").write_text("{}")
  before = contents(out)
  assert run(*arguments, "--to", "huggingface") == 2
  assert contents(out) == before
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path):
  assert run("--workdir", trained(), "--to", "huggingface", "--out", tmp_path) == 0
  assert Tagger.restore(tmp_path).run.vocabulary == VOCABULARY


MISTAKES = {
  "--to stablehlo --workdir {run} --out {full}": "full",
  "--to stablehlo --workdir {run} --out {file}": "file",
  "--to stablehlo --workdir {run} --out {file}/x": "--out",
  "--to stablehlo --workdir {run} --out {missing}/x": "--out",
  "--to stablehlo --workdir {run} --out gs://bucket/x": "gs://bucket/x",
  "--to stablehlo --workdir {missing} --out {new}": "no run",
  "--to stablehlo --workdir {run} --out {new} --step 7": "--step 7",
  "--to tape --workdir {run} --out {new}": "--to",
  "--to stablehlo --workdir {run}": "--out",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(line, tmp_path, capfd):
  place = {name: tmp_path / name for name in ("full", "file", "missing", "new")}
  place["full"].mkdir()
  (place["full"] / "letters.txt").write_text("dear")
  place["file"].write_text("no folder")
  before = contents(tmp_path)
  assert run(*line.format(run=trained(), **place).split()) == 2
  (error,) = capfd.readouterr().err.splitlines()
  assert error.startswith("atgcn export: ")
  assert MISTAKES[line] in error
  assert contents(tmp_path) == before
  assert not place["new"].exists()


def test_a_failed_export_leaves_no_files(tmp_path, monkeypatch, capfd):
  def full(*_):
    raise OSError("no space left on device")

  export(trained(), "huggingface", tmp_path / "out", STEP)
  before = contents(tmp_path)
  monkeypatch.setattr(exporting.stablehlo, "write_stablehlo", full)
  assert run("--workdir", trained(), "--to", "stablehlo", "--out", tmp_path / "out") == 1
  assert len(capfd.readouterr().err.splitlines()) == 1
  assert contents(tmp_path) == before
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "fewer labels"])
def test_a_damaged_folder_is_refused(name, exports, tmp_path, capfd):
  folder = shutil.copytree(exports / "demo-huggingface", tmp_path / "folder")
  if name == "fewer labels":
    config = json.loads((folder / "config.json").read_text())
    config["run"]["config"]["model"]["hidden"] = 999
    (folder / "config.json").write_text(json.dumps(config))
  else:
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
  assert cli.main(["tag", "--workdir", str(folder), "sound.wav"]) == 2
  (error,) = capfd.readouterr().err.splitlines()
  assert str(folder) in error
  assert "export the run again" in error


def test_an_export_has_one_step(exports, capfd):
  folder = exports / "demo-huggingface"
  assert cli.main(["tag", "--workdir", str(folder), "--step", "7", "sound.wav"]) == 2
  assert "--step 7" in capfd.readouterr().err
