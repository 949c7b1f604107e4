"""Checkpoints with a file that is missing, cut short or changed: reported, never loaded."""

import json
import random
import shutil

import pytest
from runs_support import contents, newest_sound, newest_sound_step, same_bits, trained
from test_checkpoint import save_all

from atgcn_jax import cli
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.runs.load import load_run
from atgcn_jax.training import checksums, saved_checkpoints, sharding
from atgcn_jax.training.checksums import Damaged

pytestmark = pytest.mark.usefixtures("plain_pages")


def files_of(folder):
  return sorted(path for path in folder.rglob("*") if path.is_file())


def spoilt(content, rng, flips):
  """Yield (fault, bytes or None) for one file: each kind of damage, bit flips at random places."""
  yield "is missing", None
  for cut in {0, len(content) // 2, len(content) - 1}:
    yield f"cut short, {cut:,} of {len(content):,} bytes", content[:cut]
  yield f"{len(content) + 1:,} of {len(content):,} bytes", content + b"\0"
  places = range(len(content)) if len(content) < flips else rng.sample(range(len(content)), flips)
  for place in {0, len(content) - 1, *places}:
    flipped = bytearray(content)
    flipped[place] ^= 1 << rng.randrange(8)
    yield "its bytes have changed", bytes(flipped)


@pytest.mark.parametrize("flips", [2, pytest.param(300, marks=pytest.mark.slow)])
def test_every_damage_to_every_file_is_found_and_named(tmp_path, flips):
  save_all(tmp_path, {1: 0.2, 2: 0.3})
  folder, rng = tmp_path / saved_checkpoints.FOLDER / "2", random.Random(0)
  files = files_of(folder)
  # Metadata, the completion marker, the arrays and their indices.
  names = {path.name for path in files}
  assert {"_CHECKPOINT_METADATA", "commit_success.txt", "manifest.ocdbt"} <= names
  tried = 0
  for path in files:
    content = path.read_bytes()
    for fault, bad in spoilt(content, rng, flips):
      path.unlink(missing_ok=True)
      if bad is not None:
        path.write_bytes(bad)
      with pytest.raises(Damaged) as error:
        saved_checkpoints.verify_checkpoint(tmp_path, 2)
      reported = str(error.value)
      assert str(path.relative_to(folder)) in reported
      assert fault in reported or path.name == checksums.NAME
      tried += 1
    path.write_bytes(content)
  saved_checkpoints.verify_checkpoint(tmp_path, 2)
  assert tried > (6 + flips // 4) * len(files)


def test_for_each_damaged_file_the_previous_checkpoint_is_used(tmp_path):
  save_all(tmp_path / "whole", {1: 0.2, 2: 0.3})
  folder = tmp_path / "whole" / saved_checkpoints.FOLDER / "2"
  for name in [path.relative_to(folder) for path in files_of(folder)]:
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    path = run / saved_checkpoints.FOLDER / "2" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged") as reported:
      assert newest_sound_step(run) == 1
    assert len(reported) == 1
    assert str(name) in str(reported[0].message)
    assert "step 1 is used" in str(reported[0].message)
    assert saved_checkpoints.saved_steps(run) == [1]
    assert newest_sound_step(run) == 1  # and no further warning
    shutil.rmtree(run)


def test_unknown_files_are_ignored(tmp_path):
  save_all(tmp_path, {1: 0.2})
  (tmp_path / saved_checkpoints.FOLDER / "1" / ".DS_Store").write_bytes(b"x")
  saved_checkpoints.verify_checkpoint(tmp_path, 1)


def test_checksums_match_the_stored_files(tmp_path):
  save_all(tmp_path, {1: 0.2, 2: None})
  for step in (1, 2):
    folder = tmp_path / saved_checkpoints.FOLDER / str(step)
    names = {str(path.relative_to(folder)) for path in files_of(folder)} - {checksums.NAME}
    lines = (folder / checksums.NAME).read_text().splitlines()
    assert {line.split(" ", 2)[2] for line in lines[:-1]} == names


# Saves that are interrupted or fail.


def without_checksums(workdir, step):
  (workdir / saved_checkpoints.FOLDER / str(step) / checksums.NAME).unlink()


def test_a_save_that_is_interrupted_before_its_checksums_is_invalid(tmp_path):
  save_all(tmp_path, {1: 0.2, 2: 0.3})
  without_checksums(tmp_path, 2)
  with pytest.warns(UserWarning, match="its save was interrupted"):
    assert newest_sound_step(tmp_path) == 1
  save_all(tmp_path / "first", {0: None})
  without_checksums(tmp_path / "first", 0)
  with pytest.warns(UserWarning, match="its save was interrupted"):
    assert newest_sound_step(tmp_path / "first") is None
  assert saved_checkpoints.saved_steps(tmp_path / "first") == []


@pytest.mark.parametrize("keep", [1, 2])
def test_the_last_intact_one_stays_until_the_next_has_its_checksums(tmp_path, monkeypatch, keep):
  save_all(tmp_path, {1: None, 2: None}, keep=keep)
  before = saved_checkpoints.saved_steps(tmp_path)
  seen = []

  def full(folder):
    seen.append((folder.name, saved_checkpoints.saved_steps(tmp_path)))
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(checksums, "write_checksums", full)
  with pytest.raises(
    WorkFailed, match=r"step 3.*No space left on device.*step 2 is saved"
  ) as reported:
    save_all(tmp_path, {3: None}, keep=keep)
  assert "\n" not in str(reported.value)
  assert seen == [("3", [*before, 3])]  # final, and nothing deleted
  assert saved_checkpoints.saved_steps(tmp_path) == [*before, 3]
  monkeypatch.undo()
  with pytest.warns(UserWarning, match="checkpoint 3 is damaged"):
    assert newest_sound_step(tmp_path) == 2
  save_all(tmp_path, {3: None}, keep=keep)
  assert saved_checkpoints.newest_verified(tmp_path) == 3


# Loading of checkpoints.


@pytest.fixture
def copy(tmp_path):
  """Return a copy of the trained run whose newest checkpoint has one changed bit."""
  run = shutil.copytree(trained(), tmp_path / "run")
  newest = saved_checkpoints.saved_steps(run)[-1]
  variables = run / saved_checkpoints.FOLDER / str(newest) / "variables"
  path = max(files_of(variables), key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  return run


def evaluate(workdir, *options):
  return cli.main(["evaluate", "--workdir", str(workdir), "--json", *options])


def test_a_changed_bit_is_never_loaded(copy, capsys):
  before, newest = saved_checkpoints.saved_steps(copy)[-2:]
  untouched = contents(copy)
  assert evaluate(copy, "--step", str(newest)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"checkpoint {newest} is damaged (variables/" in line
  assert "its bytes have changed" in line
  assert contents(copy) == untouched
  mesh = sharding.data_mesh()
  expected = load_run(copy, str(before), mesh).state
  with pytest.warns(UserWarning, match=f"checkpoint {newest} is damaged"):
    loaded = newest_sound(copy, sharding.Layout(mesh))
  assert loaded.step == before
  assert same_bits(loaded.state.variables, expected)
  assert (copy / "damaged" / f"{newest}-0").is_dir()


def test_the_best_is_verified_too(copy):
  newest = saved_checkpoints.saved_steps(copy)[-1]
  best = load_run(trained(), "best", sharding.data_mesh()).step
  assert best != newest
  with pytest.warns(UserWarning, match=f"checkpoint {newest} is damaged"):
    assert load_run(copy, "best", sharding.data_mesh()).step == best
  (copy / saved_checkpoints.FOLDER / str(best) / "commit_success.txt").unlink()
  with (
    pytest.raises(UserError, match=rf"{best} is damaged \(commit_success.txt is missing\)"),
    pytest.warns(UserWarning, match="damaged"),
  ):
    load_run(copy, "best", sharding.data_mesh())


def from_before(workdir):
  """Make all checkpoints like those of a version without checksums."""
  for step in saved_checkpoints.saved_steps(workdir):
    without_checksums(workdir, step)
    path = workdir / saved_checkpoints.FOLDER / str(step) / "_CHECKPOINT_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))


def test_checkpoints_of_older_versions_are_read_and_their_damage_is_reported(tmp_path, capsys):
  run = shutil.copytree(trained(), tmp_path / "run")
  from_before(run)
  assert evaluate(run) == 0
  newest = saved_checkpoints.saved_steps(run)[-1]
  for path in files_of(run / saved_checkpoints.FOLDER / str(newest) / "variables"):
    path.write_bytes(b"")
  capsys.readouterr()
  assert evaluate(run) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"checkpoint {newest} has no checksums and cannot be read" in line
