"""A few randomly changed files for each reader; `run_fuzz.py` feeds any number."""

import shutil

import fuzz_readers
import numpy as np
import pytest
from marks import slow

# The number of inputs is such that a reader takes at most about two seconds.
INPUTS = dict.fromkeys(fuzz_readers.READERS, 40)
INPUTS |= {
  "export": 8,
  "checkpoint": 8,
  "tfds": 8,
  "config.py": 20,
  "override": 20,
  "scores.npz": 20,
}
SLOW = ("export", "checkpoint", "tfds", "scores.npz")  # making the sound file takes seconds


@pytest.mark.parametrize("name", [slow(name) if name in SLOW else name for name in INPUTS])
def test_changed_files_are_read_or_refused(tmp_path, name):
  reader = fuzz_readers.READERS[name]
  sound = tmp_path / name
  reader.make(sound)
  assert fuzz_readers.outcome(reader, sound) == "read"
  found = []
  for number in range(INPUTS[name]):
    path = tmp_path / str(number) / name
    path.parent.mkdir()
    (shutil.copytree if sound.is_dir() else shutil.copyfile)(sound, path)
    reader.change(path, np.random.default_rng([1, number]))
    found.append(fuzz_readers.outcome(reader, path))
  assert set(found) <= {"read", "refused"}
  assert "refused" in found or name == "metrics"  # damaged lines of a log are skipped
