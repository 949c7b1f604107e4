"""Interrupted builds of a store: stops at any point, full disks, two processes at once."""

import csv
import errno
import functools
import multiprocessing
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_store

from atgcn_jax.data.layouts.listing import Clip, Row, make_listing
from atgcn_jax.data.store import clip_store, store_builder, unfinished
from atgcn_jax.data.store.store_builder import build_store
from atgcn_jax.errors import UserError
from atgcn_jax.runtime import progress

CLIPS = 53
BAD = (3, 17, 18)
FRONTEND = small_store.FRONTEND
loaded: list[str] = []


def load(source):
  """Return a synthetic sound; some sources cannot be read."""
  loaded.append(source)
  if int(source) in BAD:
    raise UserError(f"place/{source}: is bad,\nreally; fix it")
  rng = np.random.default_rng(int(source))
  return Clip(rng.standard_normal(150).astype(np.float32), 0.15, 1000 + int(source))


def listing(clips=CLIPS, load=load):
  labels = [["/m/a", "/m/c"], [], ["/m/d"]]
  rows = (Row(f"clip {i}", f"{i % 2}", str(i), labels[i % 3], "") for i in range(clips))
  return make_listing(rows, small_store.VOCABULARY, load, "place")


def build(out, clips=CLIPS, load=load, **options):
  return build_store(out, listing(clips, load), FRONTEND, "uint8", **options)


@pytest.fixture(autouse=True)
def here(monkeypatch):
  """Work in this process, and record what is loaded."""

  def in_processes(work, chunks, processes):
    yield from map(work, chunks)

  monkeypatch.setattr(store_builder, "in_processes", in_processes)
  loaded.clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Return the bytes of the store of an uninterrupted build."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(store_builder, "in_processes", lambda work, chunks, processes: map(work, chunks))
    patch.setattr(
      store_builder.contextlib, "closing", lambda feed: store_builder.contextlib.nullcontext()
    )
    path = tmp_path_factory.mktemp("whole") / "s.h5"
    assert build(path) == (CLIPS - len(BAD), 0, len(BAD))
  return path.read_bytes()


def test_unreadable_clips_are_left_out(tmp_path):
  out = tmp_path / "new" / "s.h5"
  assert build(out) == (CLIPS - len(BAD), 0, len(BAD))
  opened = clip_store.open_store(out)
  kept = [i for i in range(CLIPS) if i not in BAD]
  assert opened.clip_ids.tolist() == [f"clip {i}" for i in kept]
  assert opened.folds.tolist() == [str(i % 2) for i in kept]
  assert opened.rate_hz.tolist() == [1000 + i for i in kept]
  np.testing.assert_allclose(opened.seconds, 0.15)
  rows = [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
  assert opened.labels(np.arange(len(opened))).tolist() == [rows[i % 3] for i in kept]
  assert opened.log_mel.shape == (len(kept), FRONTEND.frames, FRONTEND.n_mels)
  assert (np.asarray(opened.log_mel).max(axis=(1, 2)) == 255).all()
  rows = list(csv.reader(unfinished.report_path(out).open()))
  assert rows == [["file", "reason"], *([str(i), "is bad,\\nreally; fix it"] for i in BAD)]


class Stop(BaseException):
  """Stands for a kill: no cleanup runs that a kill would prevent."""


def stopped_before(monkeypatch, module, name, count):
  """Make a function raise `Stop` in place of its call number `count`."""
  calls = iter(range(count))
  real = getattr(module, name)

  def stops(*arguments, **options):
    if next(calls, None) is None:
      raise Stop
    return real(*arguments, **options)

  monkeypatch.setattr(module, name, stops)


POINTS = [
  (unfinished, "create_rows", 0),
  *((unfinished, "write_at", count) for count in range(9)),
  *((unfinished.os, "replace", count) for count in range(2)),
  (store_builder, "complete", 0),
  (unfinished.os, "fsync", 0),
  (unfinished.shutil, "rmtree", 0),
]


@pytest.mark.parametrize(("module", "name", "count"), POINTS)
def test_a_build_resumes_from_any_point(tmp_path, monkeypatch, whole, module, name, count):
  out = tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    stopped_before(patch, module, name, count)
    with pytest.raises(Stop):
      build(out)
  before = set(loaded)
  done = unfinished.partial_folder(out) / unfinished.JOURNAL
  stored = sum(1 for line in done.open()) - 1 if done.exists() else 0
  loaded.clear()
  assert build(out).unreadable == len(BAD)
  assert out.read_bytes() == whole
  if name != "rmtree":  # all files were in their final places
    assert (
      len(loaded) == len(set(loaded)) == CLIPS - min(CLIPS, max(0, stored) * store_builder.CHUNK)
    )
    assert len(before & set(loaded)) <= store_builder.CHUNK
  assert sorted(path.name for path in tmp_path.iterdir()) == ["s.h5", "s.h5.unreadable.csv"]


@pytest.mark.parametrize("torn", [b"", b'{"peak_db": [0.1, ', b"\0" * 40, b"\0" * 40 + b"\n"])
@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_truncated_journal_is_resumed(tmp_path, monkeypatch, whole, torn, lines):
  out = tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    stopped_before(patch, store_builder, "complete", 0)
    with pytest.raises(Stop):
      build(out)
  journal = unfinished.partial_folder(out) / unfinished.JOURNAL
  journal.write_bytes(b"".join(journal.open("rb").readlines()[:lines]) + torn)
  loaded.clear()
  build(out)
  assert out.read_bytes() == whole
  assert len(loaded) == CLIPS - max(0, lines - 1) * store_builder.CHUNK


def added(path, *arguments):
  """Like `complete`, but stopped after half of the arrays."""
  import h5py

  with h5py.File(path, "r+") as file:
    file.create_dataset("peak_db", data=np.ones(3))
    file.attrs["settings"] = "x" * 999
  raise Stop


def test_an_interrupted_finish_is_undone(tmp_path, monkeypatch, whole):
  out = tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    patch.setattr(store_builder, "complete", added)
    with pytest.raises(Stop):
      build(out)
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  build(out)
  assert out.read_bytes() == whole


def test_another_listing_at_the_same_path_is_rejected(tmp_path, monkeypatch):
  out = tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    stopped_before(patch, store_builder, "complete", 0)
    with pytest.raises(Stop):
      build(out)
  before = contents(tmp_path)
  with pytest.raises(UserError, match=r"\.s\.h5\.partial: .*other files.*remove this folder"):
    build(out, clips=CLIPS + 1)
  assert contents(tmp_path) == before
  shutil.rmtree(unfinished.partial_folder(out))
  assert build(out, clips=CLIPS + 1).clips == CLIPS + 1 - len(BAD)


def contents(folder):
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load_below(folder, source):
  """Remove the folder when file 20 is first read."""
  if source == "20" and "20" not in loaded:
    folder.rename(folder.with_name("unmounted"))
  loaded.append(source)
  return Clip(np.full(150, (folder / source).stat().st_size, np.float32))


def test_a_folder_that_disappears_stops_the_build(tmp_path):
  folder, out = tmp_path / "audio", tmp_path / "s.h5"
  folder.mkdir()
  for i in range(CLIPS):
    (folder / str(i)).touch()
  rows = [Row(str(i), "1", str(i), ["/m/a"], "") for i in range(CLIPS)]
  there = make_listing(rows, None, functools.partial(load_below, folder), str(folder))
  with pytest.raises(UserError, match="audio: no such folder"):
    build_store(out, there, FRONTEND, "uint8")
  assert not out.exists()
  (tmp_path / "unmounted").rename(folder)
  assert build_store(out, there, FRONTEND, "uint8") == (CLIPS, 0, 0)


def unreadable(error, source):
  raise error


ERRORS = [UserError("x.wav: is bad; fix it"), OSError(5, "Input/output error"), MemoryError()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_no_readable_clip_is_an_error(tmp_path, error):
  with pytest.raises(UserError, match=r"place/0: .*none") as caught:
    build(tmp_path / "s.h5", load=functools.partial(unreadable, error))
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_a_programming_error_is_not_reported_as_a_bad_file(tmp_path):
  with pytest.raises(AttributeError):
    build(tmp_path / "s.h5", load=functools.partial(unreadable, AttributeError("oops")))


def test_a_clip_that_kills_its_worker_is_reported(tmp_path, monkeypatch):
  def in_processes(work, chunks, processes):
    for chunk in chunks:
      yield [None if member == "5" else work([member])[0] for member in chunk]

  monkeypatch.setattr(store_builder, "in_processes", in_processes)
  assert build(tmp_path / "s.h5").unreadable == len(BAD) + 1
  rows = list(csv.reader(unfinished.report_path(tmp_path / "s.h5").open()))
  assert rows[2] == ["5", store_builder.KILLED]


def hold(out, held, done):
  with unfinished.open_unfinished(out, "another", (1, 2, 3), "uint8", wait=False):
    held.set()
    done.wait(60)


def test_two_builds_at_once(tmp_path):
  out = tmp_path / "s.h5"
  context = multiprocessing.get_context("spawn")
  held, done = context.Event(), context.Event()
  process = context.Process(target=hold, args=(out, held, done))
  process.start()
  try:
    assert held.wait(60)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"s\.h5: another process is writing it; wait"):
      build(out)
    assert contents(tmp_path) == before
  finally:
    done.set()
    process.join(60)
  assert process.exitcode == 0


def test_a_waiting_build_uses_the_finished_store(tmp_path, whole):
  out = tmp_path / "s.h5"
  build(out, wait=True)
  assert out.read_bytes() == whole
  loaded.clear()
  build(out, wait=True)
  assert not loaded
  assert not list(tmp_path.glob(".*"))


def test_a_finished_store_is_kept(tmp_path, whole):
  out = tmp_path / "s.h5"
  build(out)
  loaded.clear()
  with pytest.warns(UserWarning, match=r"s\.h5: is complete already and was left unchanged"):
    assert build(out) == (CLIPS - len(BAD), 0, len(BAD))
  for other in ({"clips": CLIPS + 1}, {"strict": True}):
    with pytest.raises(UserError, match=r"s\.h5: .* of other files.*choose another --out"):
      build(out, **other)
  assert not loaded
  assert out.read_bytes() == whole
  small_store.make(out)  # has no identity, like stores of earlier versions
  with pytest.raises(UserError, match=r"s\.h5: .* of an earlier version; choose another --out"):
    build(out)
  assert not list(tmp_path.glob(".*"))


def full_after(monkeypatch, size):
  """Simulate a disk with a number of free bytes; a write that does not fit is partial."""
  room, real = [size], os.pwrite

  def pwrite(descriptor, data, position):
    written = min(len(data), room[0])
    if not written:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    room[0] -= written
    return real(descriptor, data[:written], position)

  monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("size", [100, 6000, 9000])
def test_a_build_resumes_after_a_full_disk(tmp_path, monkeypatch, whole, size):
  out = tmp_path / "s.h5"
  with monkeypatch.context() as patch:
    full_after(patch, size)
    with pytest.raises(UserError, match=r"s\.h5: cannot be written \(No space left.*to resume"):
      build(out)
  assert not out.exists()
  loaded.clear()
  build(out)
  assert out.read_bytes() == whole
  assert len(loaded) < CLIPS or size == 100


SCRIPT = """
import pathlib, sys
sys.path[:] = {path!r}
import test_building as t
t.store_builder.in_processes = lambda work, chunks, processes: (work(chunk) for chunk in chunks)
try:
  print(*t.build(pathlib.Path(sys.argv[1]), clips=4000))
except t.UserError as error:
  print("bad:", error)
print(len(t.loaded))
"""


@pytest.mark.slow
def test_a_small_file_system(tmp_path):
  """Uses a real file system if this process may mount one."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk]
  if (
    not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode
  ):
    pytest.skip("no file system may be mounted here")

  def attempt():
    script = SCRIPT.format(path=sys.path)
    line = [sys.executable, "-W", "error::RuntimeWarning", "-c", script, disk / "s.h5"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return done.stdout.splitlines(), done.stderr

  try:
    (reported, count), stderr = attempt()
    assert reported.startswith(f"bad: {disk / 's.h5'}: cannot be written (No space left on device)")
    assert "are free" in stderr  # the warning before the build
    assert "Traceback" not in stderr
    assert not (disk / "s.h5").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
    (reported, more), _ = attempt()
    assert reported == f"{4000 - len(BAD)} 0 {len(BAD)}"
    assert int(more) < 4000
    assert 4000 <= int(count) + int(more) <= 4000 + store_builder.CHUNK
    # The rows fit, but the small arrays after them do not.
    (disk / "s.h5").unlink()
    subprocess.run(["mount", "-o", "remount,size=1050k", disk], check=True)
    (reported, _), stderr = attempt()
    assert "cannot be written (No space left on device)" in reported
    assert "Traceback" not in stderr
    assert not (disk / "s.h5").exists()
    subprocess.run(["mount", "-o", "remount,size=1300k", disk], check=True)
    assert attempt()[0] == [f"{4000 - len(BAD)} 0 {len(BAD)}", "0"]
  finally:
    subprocess.run(["umount", disk], check=True)


def test_progress_is_printed_without_a_terminal(monkeypatch, capsys):
  monkeypatch.setattr(progress, "QUIET_SECONDS", -1)
  chunks = list(progress.counted([["a", "b"], ["c"]], total=9, done=6, what="preparing"))
  assert chunks == [["a", "b"], ["c"]]
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2
  assert lines[0].startswith("preparing: 8 of 9 clips, ")
  assert lines[1].startswith("preparing: 9 of 9 clips, ")
  assert lines[1].endswith("clips/s, 0:00:00 left")
