"""The first and the last lines of a training."""

import jax
import pytest
from runs_support import make_store, tiny_config

from atgcn_jax.data.splits import Splits
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.runs.banner import closing, opening, split_sizes
from atgcn_jax.runs.run import new_run

CLIPS = {"train": 30, "validation": 15, "test": 15}


def test_the_first_lines_name_system_devices_clips_steps_and_folder(tmp_path):
  config = tiny_config(tmp_path)
  run = new_run(config, open_store(config.data.store))
  lines = opening(run, "runs/one", CLIPS, start=0, steps=30, least_steps=30).splitlines()
  assert lines == [
    f"vectors with a label graph with 6 labels on 8 devices ({jax.devices()[0].device_kind})",
    "clips: train 30, validation 15, test 15; 30 steps of 8 clips",
    "results: runs/one",
  ]
  resumed = opening(run, "runs/one", CLIPS, start=12, steps=30, least_steps=30).splitlines()
  assert resumed == [*lines, "resumed from step 12 of 30"]
  ended = opening(run, "runs/one", CLIPS, start=30, steps=30, least_steps=30)
  assert ended.splitlines() == lines
  config.optim.passes = 8.0
  passes = opening(run, "runs/one", CLIPS, start=0, steps=30, least_steps=6).splitlines()
  assert passes == [
    *lines[:2],
    "steps: 8 passes over the clips (optim.passes) are more than optim.steps, 6; "
    "--config.optim.passes=0 takes optim.steps",
    lines[2],
  ]


@pytest.mark.parametrize(
  ("missing", "option"),
  [((), ""), (("test",), " --split validation"), (("test", "validation"), " --split train")],
)
def test_the_last_line_is_a_command_that_has_clips(missing, option):
  line = closing("my runs/one", CLIPS | dict.fromkeys(missing, 0))
  assert line == f"next: atgcn evaluate --workdir 'my runs/one'{option}"


def test_the_store_may_lack_the_test_fold(tmp_path):
  store = open_store(make_store(tmp_path / "store.h5", clips=12, folds=("a", "a", "b")))
  assert split_sizes(store, Splits(["a"], ["b"], ["test"])) == {
    "train": 8,
    "validation": 4,
    "test": 0,
  }
  with pytest.raises(UserError, match="validation_folds"):
    split_sizes(store, Splits(["a"], ["c"], ["b"]))
