"""Commands that are interrupted at any time and continued: tag, embed and evaluate."""

import os
import re
import shutil
import signal
import threading
import time

import pytest
from marks import slow
from runs_support import contents, make_store, start, trained, wav, waveforms

from atgcn_jax import cli
from atgcn_jax.runs.resumable_results import (
  PartialResults,
  journal_of,
  partial_results,
  place_of,
)
from atgcn_jax.serving import batches, sources

pytestmark = pytest.mark.usefixtures("plain_pages")

FILES = 25  # with one window each; 8 windows are a batch


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """Return a folder of sound files and one invalid file."""
  trained()  # its output is not for the tests
  folder = tmp_path_factory.mktemp("sounds")
  for k, sound in enumerate(waveforms(FILES, 7)[0]):
    wav(folder / f"{k:02d}.wav", sound)
  (folder / "10x.wav").write_text("no sound")
  return folder


@pytest.fixture
def read(monkeypatch):
  """Return the names of the files that are read, in order."""
  names, opened = [], sources.open_any_sound

  def noted(source, *arguments, **options):
    names.append(os.path.basename(source))
    return opened(source, *arguments, **options)

  monkeypatch.setattr(sources, "open_any_sound", noted)
  return names


def stop_after(monkeypatch, items, number):
  """Send this process a signal once this number of items is stored."""
  add = PartialResults.add

  def and_signal(part, *arguments):
    add(part, *arguments)
    if len(part) == items:
      os.kill(os.getpid(), number)

  monkeypatch.setattr(PartialResults, "add", and_signal)


def run(verb, *arguments, workdir=None):
  return cli.main([verb, "--workdir", str(workdir or trained()), *map(str, arguments)])


def partial_of(out):
  """Return the files of an unfinished output."""
  return [out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.partial.jsonl")]


TOP, TIMELINE = ["--top", 2], ["--timeline", "--json"]


@pytest.mark.parametrize(
  ("options", "number", "status"),
  [
    (TOP, signal.SIGTERM, 143),
    slow(TOP, signal.SIGINT, 130),
    slow(TIMELINE, signal.SIGTERM, 143),
    (TIMELINE, signal.SIGINT, 130),
  ],
)
def test_tag_continues(sounds, tmp_path, monkeypatch, capsys, read, options, number, status):
  whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
  assert run("tag", *options, "--csv", whole, sounds) == 1
  printed = capsys.readouterr()
  read.clear()
  with monkeypatch.context() as patch:
    stop_after(patch, 10, number)
    assert run("tag", *options, "--csv", out, sounds) == status
  (line,) = capsys.readouterr().err.splitlines()
  rows, journal = partial_of(out)
  done = len(journal.read_text().splitlines()) - 1
  assert 10 <= done < FILES
  assert f"{done} of {FILES + 1} files are kept in {rows}; the same command continues" in line
  assert not out.exists()
  assert whole.read_bytes().startswith(rows.read_bytes())
  read.clear()
  assert run("tag", *options, "--csv", out, sounds) == 1
  assert len(read) == FILES + 1 - done
  # Windows may share a batch with others than before, which rounds their scores in another way.
  assert_same_rows(out.read_text(), whole.read_text())
  again = capsys.readouterr()
  assert_same_rows(again.out, printed.out)
  assert again.err == printed.err.replace(str(whole), str(out))
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "whole.csv"]


def assert_same_rows(text, expected):
  """Compare two texts: numbers with a decimal point to 1e-5, all else exactly."""
  number = re.compile(r"\d+\.\d+(?:e-?\d+)?")
  assert number.sub("#", text) == number.sub("#", expected)
  values, others = ([float(found) for found in number.findall(t)] for t in (text, expected))
  assert values == pytest.approx(others, abs=1e-5)


def test_embed_continues_to_the_same_bits(sounds, tmp_path, monkeypatch, capsys):
  files = sorted(sounds.glob("0*.wav"))[:9]  # the last file is in a batch of its own
  whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
  assert run("embed", "--out", whole, *files) == 0
  with monkeypatch.context() as patch:
    stop_after(patch, 8, signal.SIGTERM)
    assert run("embed", "--out", out, *files) == 143
  assert f"8 of 9 files are kept in {out}.partial" in capsys.readouterr().err
  assert run("embed", "--out", out, *files) == 0
  assert out.read_bytes() == whole.read_bytes()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "whole.npz"]


@pytest.mark.parametrize(
  ("verb", "done"), [("evaluate", 2), slow("evaluate", 4), ("thresholds", 2), ("compare", 2)]
)
def test_scoring_continues_to_the_same_bits(tmp_path, monkeypatch, capsys, verb, done):
  store = make_store(tmp_path / "store.h5", folds=("train", "test", "validation"), clips=90)
  trained()  # its output is not for this test
  workdir, whole = (shutil.copytree(trained(), tmp_path / name) for name in ("run", "whole"))
  options = ["--store", store, "--json"]

  def command(workdir):
    if verb == "compare":
      return cli.main(["compare", *map(str, [trained(), workdir, *options])])
    return run(verb, *options, workdir=workdir)

  assert command(whole) == 0
  expected = capsys.readouterr().out.replace(str(whole), str(workdir))
  before = contents(workdir)
  with monkeypatch.context() as patch:
    stop_after(patch, done, signal.SIGTERM)
    assert command(workdir) == 143
  assert f"{done} of 4 batches are kept in" in capsys.readouterr().err
  assert len(contents(workdir).keys() - before) == 2
  added = []
  add = PartialResults.add
  monkeypatch.setattr(PartialResults, "add", lambda part, *a: (added.append(a), add(part, *a)))
  assert command(workdir) == 0
  assert len(added) == 4 - done  # in `compare`, B is a copy of A and shares its scores
  assert capsys.readouterr().out == expected
  names = {path.name for path in workdir.rglob("*")}
  assert names == {path.name for path in whole.rglob("*")}


@pytest.mark.parametrize(
  ("which", "lost"),
  [slow(0, 0), (0, 1), (0, 50), slow(0, 10_000), (1, 0), slow(1, 1), slow(1, 50), (1, 10_000)],
)
def test_truncated_items_are_done_again(sounds, tmp_path, monkeypatch, which, lost):
  whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
  run("tag", "--csv", whole, sounds)
  with monkeypatch.context() as patch:
    stop_after(patch, 8, signal.SIGTERM)
    run("tag", "--csv", out, sounds)
  torn = partial_of(out)[which]
  if which and lost > 1000:  # keep the line that identifies the command
    lost = torn.stat().st_size - len(torn.open("rb").readline()) - 1
  os.truncate(torn, max(0, torn.stat().st_size - lost))
  with torn.open("ab") as file:
    file.write(b"12345" if lost else b"")
  assert run("tag", "--csv", out, sounds) == 1
  assert out.read_bytes() == whole.read_bytes()


DAMAGED_LINES = (b"5\n", b"[]\n", b"{}\n", b'{"key": ["a"], "size": -1, "crc32": 0, "note": ""}\n')


@pytest.mark.parametrize("line", [*DAMAGED_LINES, b'{"key": [], "size": 1152921504606846976}\n'])
def test_a_damaged_line_of_a_journal_ends_it(tmp_path, line):
  out = tmp_path / "out"

  def opened():
    return partial_results(out, {"command": "x"}, total=3, unit="files")

  def stopped():
    with opened() as part:
      while len(part) < 2:
        part.add((f"{len(part)}",), b"content", "note")
      raise KeyboardInterrupt

  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      stopped()
    with journal_of(place_of(out)).open("ab") as file:
      file.write(line + b'{"key": ["9"], "size": 0, "crc32": 0, "note": ""}\n')
  with opened() as part:
    assert (len(part), part[("1",)], ("9",) in part) == (2, b"content", False)


def test_the_files_may_change(sounds, tmp_path, monkeypatch, read):
  folder, out = shutil.copytree(sounds, tmp_path / "in"), tmp_path / "out.csv"
  with monkeypatch.context() as patch:
    stop_after(patch, 12, signal.SIGTERM)
    run("tag", "--csv", out, folder)
  (folder / "00.wav").unlink()
  wav(folder / "01.wav", waveforms(1, 99)[0][0])
  wav(folder / "01 new.wav", waveforms(1, 98)[0][0])
  read.clear()
  assert run("tag", "--csv", out, folder) == 1
  assert {"01.wav", "01 new.wav"} < set(read)
  assert "02.wav" not in read
  continued = out.read_bytes()
  assert run("tag", "--csv", out, folder) == 1
  assert out.read_bytes() == continued


def test_another_command_continues_nothing(sounds, tmp_path, monkeypatch, capsys):
  out = tmp_path / "out"
  with monkeypatch.context() as patch:
    stop_after(patch, 8, signal.SIGTERM)
    run("tag", "--csv", out, sounds)
  kept = contents(tmp_path)
  capsys.readouterr()
  for command, named in [
    (["tag", "--top", 3, "--csv", out], "started with --top 5, not 3"),
    (["tag", "--step", 28, "--csv", out], "started with step 30, not 28"),
    (["embed", "--out", out], "started with command tag, not embed"),
  ]:
    assert run(*command, sounds) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert contents(tmp_path) == kept


def test_an_existing_file_is_not_overwritten(sounds, tmp_path, capsys):
  out = tmp_path / "out.csv"
  rows, journal = partial_of(out)
  rows.write_text("of somebody")
  assert run("tag", "--csv", out, sounds) == 2
  assert "would be overwritten by unfinished output" in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == [rows]
  rows.unlink()
  with start("tag", "--workdir", trained(), "--csv", out, *many(tmp_path, sounds)) as process:
    try:
      wait_for(lambda: journal.exists() and journal.stat().st_size)
      process.send_signal(signal.SIGSTOP)
      assert run("tag", "--csv", out, sounds) == 2
    finally:
      process.kill()
  assert "another process is writing this file" in capsys.readouterr().err


def many(folder, sounds):
  """Return a folder of links to a sound, enough for a second of work."""
  place = folder / "many"
  place.mkdir()
  for k in range(1000):
    (place / f"{k:03d}.wav").symlink_to(sounds / "03.wav")
  return [place]


def wait_for(condition):
  end = time.monotonic() + 300
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_a_killed_command_continues(sounds, tmp_path, read):
  out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
  (folder,) = many(tmp_path, sounds)
  rows, journal = partial_of(out)
  with start("tag", "--workdir", trained(), "--csv", out, folder) as process:
    wait_for(lambda: journal.exists() and journal.stat().st_size > 5000)
    process.kill()
    assert process.wait() == -signal.SIGKILL
  assert not out.exists()
  done = journal.read_bytes().count(b"\n") - 1
  assert run("tag", "--csv", out, folder) == 0
  assert len(read) == 1000 - done
  assert run("tag", "--csv", whole, folder) == 0
  assert out.read_bytes() == whole.read_bytes()
  assert not rows.exists()


def test_a_full_disk_keeps_what_is_finished(sounds, tmp_path, monkeypatch, capsys):
  out, add = tmp_path / "out.csv", PartialResults.add

  def full(part, *arguments):
    if len(part) == 8:
      raise OSError(28, "No space left on device")
    add(part, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(PartialResults, "add", full)
    assert run("tag", "--csv", out, sounds) == 2
  assert "No space left" in capsys.readouterr().err
  assert len(partial_of(out)[1].read_text().splitlines()) == 9


def test_a_blocked_reader_does_not_block_the_stop(sounds, tmp_path, monkeypatch):
  """A signal ends the command while it waits for a sound."""
  ended = []
  pipe = tmp_path / "pipe.wav"
  os.mkfifo(pipe)

  class Pool(batches.ThreadPoolExecutor):
    def __exit__(self, *error):
      ended.append(error[0])
      # In a thread, because this waits until the pipe is read.
      threading.Thread(target=pipe.write_bytes, args=(b"",), daemon=True).start()
      return super().__exit__(*error)

  monkeypatch.setattr(batches, "ThreadPoolExecutor", Pool)
  opened = sources.open_any_sound

  def signalled(source, *arguments, **options):
    if source == str(pipe):
      os.kill(os.getpid(), signal.SIGINT)
    return opened(source, *arguments, **options)

  monkeypatch.setattr(sources, "open_any_sound", signalled)
  assert run("tag", "--csv", tmp_path / "out.csv", pipe) == 130
  assert ended
  assert ended[0].__name__ == "Interrupted"
