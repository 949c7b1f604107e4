"""Stores, runs and exports of earlier versions open, evaluate, tag and resume in this one."""

import json
import pathlib
import tarfile

import numpy as np
import pytest
from runs_support import FRONTEND, records, waveforms
from write_version import STEPS, config_of

from atgcn_jax import Tagger
from atgcn_jax.data.store import clip_store
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.tfds import description
from atgcn_jax.errors import UserError
from atgcn_jax.reports.evaluation import evaluate
from atgcn_jax.runs import saved_form
from atgcn_jax.runs.thresholds import read_thresholds
from atgcn_jax.runs.training_loop import train

pytestmark = pytest.mark.usefixtures("plain_pages")

ARCHIVES = sorted(pathlib.Path(__file__).parent.glob("*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def old(request, tmp_path):
  """Return the folder of the files of a version."""
  with tarfile.open(request.param) as tar:
    tar.extractall(tmp_path, filter="data")
  return tmp_path


def facts_of(folder):
  return json.loads((folder / "facts.json").read_text())


def test_the_files_are_small_and_name_their_versions():
  assert ARCHIVES
  assert sum(path.stat().st_size for path in ARCHIVES) < 200_000


def test_stores_open(old):
  facts = facts_of(old)
  for name, fingerprint, total in zip(("store", "half"), facts["fingerprints"], facts["sums"]):
    store = open_store(old / f"{name}.h5")
    assert store.fingerprint == fingerprint
    assert float(store.log_mel.astype(np.float64).sum()) == total
    assert store.clip_ids[0] == "clip0"


def test_a_run_and_an_export_tag_as_before(old):
  facts, sound = facts_of(old), waveforms(1, 5)[0][0]
  for folder in ("run", "hub"):
    tagger = Tagger.restore(old / folder)
    np.testing.assert_allclose(tagger.scores(sound), facts["scores"], rtol=1e-4)
    np.testing.assert_allclose(tagger.embed(sound), facts["embedding"], rtol=1e-3, atol=1e-4)
  thresholds = read_thresholds(old / "run")
  expected = {k: v for k, v in facts["thresholds"].items() if v is not None}
  assert (thresholds.step, thresholds.by_label) == (facts["step"], expected)


def test_a_run_evaluates_as_before(old):
  facts = facts_of(old)
  found = evaluate(old / "run", store_path=str(old / "store.h5"))
  assert (found["step"], found["store_fingerprint"]) == (STEPS, facts["fingerprints"][0])
  assert found["mAP"] == pytest.approx(facts["mAP"], abs=1e-6)


def test_a_run_resumes(old):
  train(config_of(old, f"optim.steps={STEPS + 3}"), old / "run")
  assert records(old / "run")[-1][0] == STEPS + 3
  assert Tagger.restore(old / "run").step == STEPS + 3
  with pytest.raises(UserError, match=r"seed: 3 → 4"):
    train(config_of(old, "seed=4"), old / "run")


def test_a_later_format_is_refused_by_its_number():
  saved = {"config": {}, "label_ids": [], "label_names": [], "range_db": None, "format": 2}
  saved |= {"store_fingerprint": "", "frontend": FRONTEND.as_json()}
  with pytest.raises(ValueError, match="it has format 2 of a later version, and this one reads 1"):
    saved_form.checked_description(saved)
  del saved["format"]  # as before the numbers
  assert saved_form.checked_description(saved)["range_db"] is None


def test_the_numbers_of_the_formats_are_documented():
  """A new number needs a row in the documentation and files of that version here."""
  page = (pathlib.Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
  numbers = {"run": saved_form.FORMAT} | {
    kind: int(name.rpartition(" ")[2])
    for kind, name in (("store", clip_store.FORMAT), ("TFDS", description.FORMAT))
  }
  for kind, number in numbers.items():
    assert f"| {kind} | {number} |" in page
