"""Environments of commands: caches, read-only folders, file names, encodings, pipes, devices."""

import errno
import fcntl
import grp
import io
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from runs_support import (
  REPOSITORY,
  contents,
  make_store,
  prepare_here,
  start,
  tiny_config,
  trained,
  wav,
)
from test_prepare import make_sounds

from atgcn_jax import cli
from atgcn_jax.cli import streams
from atgcn_jax.data import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.runs import run as run_module
from atgcn_jax.runs import run_store
from atgcn_jax.runs.config import plain_config
from atgcn_jax.runtime import process_setup

pytestmark = pytest.mark.usefixtures("plain_pages")

NOT_UTF8 = os.fsdecode(b"gr\xfcn")
TONE = 0.1 * np.sin(np.arange(4000))


@pytest.fixture
def run(tmp_path):
  return shutil.copytree(trained(), tmp_path / "run")


def called(capfd, *arguments):
  """Return the exit status, stdout and the lines of stderr of `atgcn ARGUMENTS`."""
  try:
    status = cli.main(list(map(str, arguments)))
  except SystemExit as end:
    status = end.code
  printed = capfd.readouterr()
  return status, printed.out, printed.err.splitlines()


# Caches.


@pytest.fixture
def temporary(tmp_path, monkeypatch):
  """Return the folder for temporary files, with no variable that names a cache."""
  place = tmp_path / "temporary"
  place.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(place))
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setenv("MPLCONFIGDIR", "elsewhere")
  process_setup._writable_cache.cache_clear()
  yield place
  process_setup._writable_cache.cache_clear()


def without_home():
  raise RuntimeError("Could not determine home directory.")


def test_a_home_that_can_be_written_to(temporary, tmp_path, monkeypatch, recwarn):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert process_setup.cache_folder() == tmp_path / ".cache" / "atgcn_jax"
  assert not list(temporary.iterdir())
  assert not recwarn


def test_a_user_without_a_home(temporary, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "home", without_home)
  monkeypatch.delenv("MPLCONFIGDIR")
  with pytest.warns(UserWarning, match="no home folder is known; .* XDG_CACHE_HOME") as reported:
    folders = [process_setup.cache_folder() for _ in range(2)]
  assert len(reported) == 1
  folder = folders[0]
  assert folders[1] == folder
  assert folder == temporary / f"atgcn_jax-{os.getuid()}"
  assert folder.stat().st_mode & 0o777 == 0o700
  assert os.environ["MPLCONFIGDIR"].startswith(str(folder))


def test_a_home_that_cannot_be_written_to(temporary, tmp_path, monkeypatch):
  (tmp_path / "file").touch()
  monkeypatch.setenv("HOME", str(tmp_path / "file"))
  with pytest.warns(
    UserWarning, match=r"file/.cache/atgcn_jax cannot be created \(Not a directory\)"
  ):
    assert process_setup.cache_folder().parent == temporary
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(os, "access", lambda path, mode: "cache" not in str(path))
  with pytest.warns(UserWarning, match="cache/atgcn_jax cannot be written to"):
    assert process_setup.cache_folder().parent == temporary


def test_a_temporary_folder_that_others_can_write_to_is_not_used(temporary, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "home", without_home)
  mine = temporary / f"atgcn_jax-{os.getuid()}"
  mine.mkdir()
  mine.chmod(0o777)
  with pytest.warns(UserWarning, match="is used"):
    assert process_setup.cache_folder() != mine
  process_setup._writable_cache.cache_clear()
  mine.rmdir()
  mine.symlink_to(temporary)
  with pytest.warns(UserWarning, match="is used"):
    assert process_setup.cache_folder() not in (mine, temporary)


def test_no_place_for_a_cache_at_all(temporary, monkeypatch):
  def refuse(*args, **kwargs):
    raise FileNotFoundError("No usable temporary directory found")

  monkeypatch.setattr(pathlib.Path, "home", without_home)
  monkeypatch.setattr(tempfile, "gettempdir", refuse)
  with pytest.raises(UserError, match="set TMPDIR"):
    process_setup.cache_folder()
  before = jax.config.values["jax_compilation_cache_dir"]
  jax.config.update("jax_compilation_cache_dir", None)
  try:
    with pytest.warns(UserWarning, match="compiled programs are not cached"):
      process_setup.keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None
  finally:
    jax.config.update("jax_compilation_cache_dir", before)


def test_soundscapes_in_a_cache_that_is_read_only(temporary, tmp_path, monkeypatch, recwarn):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  config = tiny_config(tmp_path, "data.store=soundscapes", "data.soundscape_clips=8")
  version = prepare.soundscapes.VERSION
  (tmp_path / "atgcn_jax").mkdir()
  path = make_store(tmp_path / "atgcn_jax" / f"soundscapes-{version}-8.h5", clips=8)
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  assert run_store.store_of(config).path == str(path)
  assert not recwarn


@pytest.mark.filterwarnings("ignore:Error (reading|writing) persistent compilation cache")
def test_soundscapes_in_a_cache_without_locks(tmp_path, monkeypatch):
  def refuse(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setattr(fcntl, "flock", refuse)
  monkeypatch.setattr(
    prepare, "prepare_soundscapes", lambda path, n, seed: make_store(path, clips=n)
  )
  config = tiny_config(tmp_path, "data.store=soundscapes", "data.soundscape_clips=8")
  assert len(run_store.store_of(config)) == 8
  assert sorted(path.suffix for path in (tmp_path / "atgcn_jax").iterdir()) == [".h5"]


# Folders that cannot be written to. This is simulated, because root can write everywhere.


@pytest.fixture
def read_only(run, monkeypatch):
  """Return a run directory that cannot be written to."""

  def access(path, mode):
    return not (mode & os.W_OK and str(path).startswith(str(run)))

  def refuse(opened):
    def checked(path, mode="r", *args, **kwargs):
      if set(mode) & set("wax+") and str(path).startswith(str(run)):
        raise OSError(30, os.strerror(30), str(path))
      return opened(path, mode, *args, **kwargs)

    return checked

  monkeypatch.setattr(os, "access", access)
  monkeypatch.setattr("builtins.open", refuse(open))
  return run


@pytest.mark.filterwarnings("default")
def test_evaluating_a_read_only_run(read_only, tmp_path, capfd):
  before = contents(read_only)
  status, printed, (line,) = called(capfd, "evaluate", "--workdir", read_only, "--json")
  assert status == 0
  assert line.startswith(
    f"atgcn: {read_only}: files of the evaluation cannot be written (Read-only"
  )
  assert line.endswith("with --out")
  figures = json.loads(printed.splitlines()[-1])
  assert figures["mAP"] > 0
  assert contents(read_only) == before
  status, printed, said = called(capfd, "evaluate", "--workdir", read_only, "--out", tmp_path / "o")
  assert (status, said) == (0, [])
  assert f"page: {tmp_path / 'o' / 'report.html'}" in printed
  assert contents(tmp_path / "o").keys() == {"report.html", "test-30.csv", "test-30.json"}
  assert json.loads((tmp_path / "o" / "test-30.json").read_text()) == figures
  assert contents(read_only) == before


@pytest.mark.filterwarnings("default")
def test_metrics_are_printed_if_the_disk_is_full(run, tmp_path, capfd, monkeypatch):
  def full(path, content):
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr("atgcn_jax.reports.evaluation_files.write_whole", full)
  status, printed, (line,) = called(capfd, "evaluate", "--workdir", run, "--out", tmp_path / "o")
  assert status == 1
  assert "No space left on device" in line
  assert line.endswith("name another folder with --out")
  assert "mAP " in printed
  assert "page:" not in printed


@pytest.mark.parametrize(
  ("command", "advice"),
  [
    ("evaluate --workdir {run} --out {run}/new", "--out"),
    ("compare {run} {run}", "--out"),
    ("thresholds --workdir {run}", "stored with the run"),
    ("train --workdir {run} --config {folder}/config.py", "choose another"),
  ],
)
def test_what_a_read_only_run_refuses(read_only, command, advice, capfd):
  before = contents(read_only)
  line = command.format(run=read_only, folder=trained().parent)
  status, printed, said = called(capfd, *line.split())
  assert (status, printed) == (2, "")
  (line,) = said
  assert "cannot be written to; " in line
  assert advice in line
  assert contents(read_only) == before


# Paths in the config of a run.


@pytest.mark.slow
def test_a_store_that_was_named_relative_to_another_folder(tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  store = make_store(tmp_path / "clips.h5")
  config = tiny_config(trained().parent, "data.store=clips.h5")
  workdir = tmp_path / "run"
  shutil.copytree(trained(), workdir)
  monkeypatch.setattr("atgcn_jax.runs.load.run_from_saved", with_config(config))
  assert called(capfd, "evaluate", "--workdir", workdir)[0] == 0
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  for verb in ("evaluate", "thresholds"):
    status, _, said = called(capfd, verb, "--workdir", workdir)
    assert status == 2
    (line,) = said
    assert "clips.h5: not found" in line
    assert "relative to the folder where training ran; give its current path" in line
    assert line.endswith("--store")
  assert called(capfd, "evaluate", "--workdir", workdir, "--store", store)[0] == 0
  config.data.store = str(tmp_path / "gone.h5")
  status, _, (line,) = called(capfd, "evaluate", "--workdir", workdir)
  assert status == 2
  assert "relative" not in line
  assert line.endswith("--store")


def with_config(config):
  """Return `run_from_saved` with another config."""
  made = run_module.run_from_saved
  return lambda description, constants: made(
    description | {"config": plain_config(config)}, constants
  )


def test_a_file_of_label_vectors_that_was_named_relative(run, tmp_path, monkeypatch, capfd):
  config = tiny_config(trained().parent, "graph.embeddings=vectors.npz")
  monkeypatch.setattr("atgcn_jax.runs.finetune.saved_config", lambda *_: (30, config))
  store = make_store(tmp_path / "store.h5")
  command = ("finetune", "--from", run, "--store", store, "--workdir", tmp_path / "new")
  status, _, (line,) = called(capfd, *command)
  assert status == 2
  assert "graph.embeddings: vectors.npz not found" in line
  assert "relative" in line
  assert line.endswith("--config.graph.embeddings=PATH")
  assert not (tmp_path / "new").exists()


# Names that are not UTF-8, and encodings that lack characters.


def test_sound_files_whose_names_are_not_utf8(tmp_path, capfd):
  for name in (NOT_UTF8, "plain"):
    sound = wav(tmp_path / "sounds" / "new.wav", TONE)
    sound.rename(sound.with_name(f"{name}.wav"))
  given = ("--workdir", trained(), tmp_path / "sounds")
  assert called(capfd, "tag", *given, "--top", 1)[0] == 0
  status, printed, said = called(capfd, "tag", *given, "--json")
  named = [json.loads(line)["file"] for line in printed.splitlines()]
  assert (status, said, list(map(os.path.exists, named))) == (0, [], [True, True])
  assert called(capfd, "tag", *given, "--csv", tmp_path / "tags.csv")[0] == 0
  assert r"/gr\udcfcn.wav,0.000," in (tmp_path / "tags.csv").read_text(encoding="utf-8")
  assert called(capfd, "embed", *given, "--out", tmp_path / "vectors.npz")[0] == 0
  with np.load(tmp_path / "vectors.npz") as saved:
    assert saved["file"].tolist() == named


def test_folders_whose_names_are_not_utf8(tmp_path, capfd):
  place = tmp_path / NOT_UTF8
  place.mkdir()
  wav(tmp_path / "sound.wav", TONE).rename(place / "sound.wav")
  run = shutil.copytree(trained(), place / "run")
  store = make_store(place / "store.h5")
  for command in (
    ("tag", "--workdir", run, place / "sound.wav"),
    ("evaluate", "--workdir", run),
    ("train", "--workdir", place / "new", "--config", trained().parent / "config.py"),
    ("export", "--workdir", trained(), "--to", "savedmodel", "--out", place / "out"),
    ("soundscapes", "--out", place / "out", "--clips", 1),
    ("tfds", "--store", store, "--out", place / "out"),
  ):
    status, printed, said = called(capfd, *command)
    assert (status, printed) == (2, ""), command
    (line,) = said
    assert r"gr\udcfcn" in line
    assert "not UTF-8" in line
  assert {path.name for path in place.iterdir()} == {"run", "sound.wav", "store.h5"}
  for command in (
    ("tag", "--workdir", trained(), place / "sound.wav"),
    ("evaluate", "--workdir", trained(), "--store", store, "--out", place / "out"),
    ("data-card", store, "--out", place),
  ):
    assert called(capfd, *command)[0] == 0, command


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_encodings(encoding, monkeypatch, tmp_path):
  out, said = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(sys, "stderr", said)
  for verb in cli.command_parser()._subparsers._group_actions[0].choices:
    with pytest.raises(SystemExit):
      cli.main([verb, "--help"])
  assert cli.main(["tag", "--workdir", str(trained()), str(tmp_path / f"…{NOT_UTF8}.wav")]) == 2
  shown = "…" if encoding == "utf-8" else r"\u2026"
  assert shown in out.buffer.getvalue().decode(encoding)
  assert r"gr\udcfcn" in said.buffer.getvalue().decode(encoding)


@pytest.mark.slow
def test_the_locale_c(tmp_path):
  """Python takes UTF-8 in this locale, also for the names of files."""
  make_sounds(tmp_path, 3)  # with é in their names
  store, csv = tmp_path / "store é.h5", tmp_path / "tags é.csv"
  sounds = sorted((tmp_path / "audio").iterdir())
  for command in (
    ("prepare", "--audio", tmp_path / "audio", "--labels", tmp_path / "labels.csv", "--out", store),
    ("tag", "--workdir", trained(), "--csv", csv, *sounds),
  ):
    process = start(*command, LC_ALL="C", LANG="C")
    _, said = process.communicate()
    assert process.returncode == 0, said
  assert "é.wav" in csv.read_text(encoding="utf-8")
  assert len(open_store(store)) == 3


def test_preparing_in_folders_whose_names_are_not_utf8(tmp_path, monkeypatch, capfd):
  prepare_here(monkeypatch)
  (tmp_path / "plain").mkdir()
  make_sounds(tmp_path / "plain", 3)
  place = (tmp_path / "plain").rename(tmp_path / NOT_UTF8)
  inputs = ("--audio", place / "audio", "--labels", place / "labels.csv")
  for out in (tmp_path / "store.h5", place / "store.h5"):
    assert called(capfd, "prepare", *inputs, "--out", out)[0] == 0
    assert len(open_store(out)) == 3


# Pipes.


def closed_pipe():
  """Return a descriptor of a pipe whose reading end is closed."""
  reading, writing = os.pipe()
  os.close(reading)
  return writing


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_pipe_ends_a_command_silently(closed, unbuffered):
  pipe, other = closed_pipe(), "stderr" if closed == "stdout" else "stdout"
  ended = subprocess.run(
    [sys.executable, "-m", "atgcn_jax", "--help" if closed == "stdout" else "--nonsense"],
    cwd=REPOSITORY,
    env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    **{closed: pipe, other: subprocess.PIPE},
  )
  os.close(pipe)
  # argparse ignores a write that fails immediately.
  expected = 0 if unbuffered and closed == "stdout" else streams.PIPE_CLOSED
  assert (ended.returncode, getattr(ended, other)) == (expected, b"")


def test_a_pipe_that_is_closed_while_files_are_tagged(tmp_path, monkeypatch):
  sound = wav(tmp_path / "sound.wav", TONE)
  said = io.StringIO()
  with open(closed_pipe(), "w") as out:
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", said)
    assert cli.main(["tag", "--workdir", str(trained()), str(sound)]) == streams.PIPE_CLOSED
  assert not said.getvalue()


def test_an_error_of_another_pipe_is_reported():
  @streams.any_streams
  def main(arguments=None):
    raise BrokenPipeError

  with pytest.raises(BrokenPipeError):
    main()


@pytest.mark.slow
def test_streams_that_are_closed_from_the_start(tmp_path):
  sound = wav(tmp_path / "sound.wav", TONE)
  shell = 'exec "$@" <&- >&- 2>&-'
  process = start(
    *("tag", "--workdir", trained(), "--csv", tmp_path / "tags.csv", "--json", sound),
    before=("sh", "-c", shell, "sh"),
  )
  assert process.wait() == 0
  assert (tmp_path / "tags.csv").read_text().startswith("file,start_s")


# Devices.


@pytest.mark.slow
@pytest.mark.parametrize(
  ("platform", "reason", "extra"),
  [("cuda", "JAX finds no such device", "cuda"), ("nonsense", "'nonsense' is not in", "cuda")],
)
def test_a_missing_device(platform, reason, extra, tmp_path):
  processes = [
    start(*command, JAX_PLATFORMS=platform)
    for command in (
      ("tag", "--workdir", trained(), tmp_path / "sound.wav"),
      ("train", "--workdir", tmp_path / "new", "--config", trained().parent / "config.py"),
    )
  ]
  for process in processes:
    _, said = process.communicate()
    assert process.returncode == 2
    (line,) = [line for line in said.splitlines() if line.startswith("atgcn ")]
    assert f"JAX_PLATFORMS={platform}: " in line
    assert reason in line
    assert "set JAX_PLATFORMS=cpu" in line
    assert line.endswith(f"pip install 'atgcn_jax[{extra}]'")
    assert "Traceback" not in said
  assert not (tmp_path / "new").exists()


def test_errors_of_present_devices_keep_their_traceback(monkeypatch):
  def failing(*args, **kwargs):
    raise RuntimeError("a fault of ours")

  monkeypatch.setattr("atgcn_jax.serving.tagger.Tagger.restore", failing)
  with pytest.raises(RuntimeError, match="a fault of ours"):
    cli.main(["tag", "--workdir", "run", "sound.wav"])


@pytest.mark.parametrize(
  ("find", "named"), [(pwd.getpwuid, "user id 2147"), (grp.getgrgid, "group id 2147")]
)
def test_a_user_or_group_without_a_name(monkeypatch, capfd, find, named):
  def failing(*args, **kwargs):
    find(2**31 - 7)

  monkeypatch.setattr("atgcn_jax.serving.tagger.Tagger.restore", failing)
  status, _, (line,) = called(capfd, "tag", "--workdir", "run", "sound.wav")
  assert status == 2
  assert named in line
  assert "has no name on this machine" in line


@pytest.fixture
def nameless(temporary, monkeypatch):
  """Make this process that of a user and a group with numbers only, without a home folder."""

  def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

  monkeypatch.setattr(pwd, "getpwuid", unknown)
  monkeypatch.setattr(grp, "getgrgid", unknown)
  for name in ("HOME", "USER", "LOGNAME", "USERNAME", "LNAME"):
    monkeypatch.delenv(name, raising=False)


@pytest.mark.filterwarnings("default")
def test_commands_of_a_user_without_a_name_or_a_home(nameless, tmp_path, monkeypatch, capfd):
  prepare_here(monkeypatch)
  config = trained().parent / "config.py"
  make_sounds(tmp_path, 3)
  sound = wav(tmp_path / "sound.wav", TONE)
  run, tables = tmp_path / "run", ("--labels", tmp_path / "labels.csv")
  for command in (
    ("prepare", "--audio", tmp_path / "audio", *tables, "--out", tmp_path / "new.h5"),
    ("train", "--config", config, "--workdir", run, "--config.optim.steps=2"),
    ("evaluate", "--workdir", run),
    ("tag", "--workdir", run, sound),
  ):
    status, _, said = called(capfd, *command)
    assert (command[0], status) == (command[0], 0)
    assert not [line for line in said if "Traceback" in line]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_standard_output_is_reported_in_one_line():
  script = "import sys; from atgcn_jax.cli.streams import any_streams as guard; "
  script += "sys.exit(guard(lambda _: print('a line'))())"
  with open("/dev/full", "w") as full:
    done = subprocess.run(
      [sys.executable, "-c", script],
      stdout=full,
      stderr=subprocess.PIPE,
      text=True,
      check=False,
    )
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith("atgcn: standard output cannot be written (No space left on device)")
