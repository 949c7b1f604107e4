"""Output files appear complete or not at all, and inputs that are pipes are refused."""

import os
import threading

import pytest

from atgcn_jax.audio import inputs
from atgcn_jax.audio.sound_files import decode
from atgcn_jax.errors import UserError, WorkFailed
from atgcn_jax.labels.label_files import read_arrays, text_lines
from atgcn_jax.runtime import whole_files
from atgcn_jax.runtime.whole_files import whole_file, write_output, write_result, write_whole


def test_a_file_appears_at_the_end_only(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b"old")
  with whole_file(path) as file:
    file.write(b"new")
    file.flush()
    assert path.read_bytes() == b"old"
  assert path.read_bytes() == b"new"

  def fail():
    with whole_file(path) as file:
      file.write(b"half")
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    fail()
  assert (path.read_bytes(), os.listdir(tmp_path)) == (b"new", ["a.csv"])


def test_names_of_any_length_and_permissions(tmp_path):
  path = tmp_path / ("ü" * 125 + ".json")
  write_whole(path, b"{}")
  (tmp_path / "plain").touch()
  assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_at_the_temporary_name_are_not_followed(tmp_path, monkeypatch):
  monkeypatch.setattr(whole_files.secrets, "token_hex", lambda _: "known")
  (tmp_path / "victim").write_text("x")
  (tmp_path / ".a.known.tmp").symlink_to(tmp_path / "victim")
  with pytest.raises(FileExistsError):
    write_whole(tmp_path / "a", b"y")
  assert (tmp_path / "victim").read_text() == "x"


def test_devices_and_pipes_are_not_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", whole_files.pathlib.Path("/dev/null")):
    with pytest.raises(UserError, match="is not a regular file; name a file"):
      write_whole(path, b"x")


def test_a_result_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  write_result(tmp_path / "new" / "a.csv", b"x")
  with pytest.raises(WorkFailed, match=r"a\.csv: cannot be written \(.*\); free space and repeat"):
    write_result(tmp_path / "file" / "a.csv", b"x")


def test_an_output_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  write_output(tmp_path / "new" / "a.csv", b"x")
  assert (tmp_path / "new" / "a.csv").read_bytes() == b"x"
  with pytest.raises(UserError, match=r"--csv .*/a\.csv: cannot be written \(.*\); name"):
    write_output(tmp_path / "file" / "a.csv", b"x", "--csv")


def test_named_pipes_are_refused_without_waiting(tmp_path):
  path = tmp_path / "pipe.wav"
  os.mkfifo(path)
  for read in (decode, read_arrays, lambda path: list(text_lines(path))):
    with pytest.raises(UserError, match=r"pipe\.wav: is a pipe; save it to a file and name that"):
      read(path)


def test_pipes_of_a_shell_are_read_up_to_a_limit(tmp_path, monkeypatch):
  monkeypatch.setattr(inputs, "MOST_OF_A_PIPE", 2**21)
  reading, writing = os.pipe()

  def fill():
    with open(writing, "wb") as file:
      file.write(bytes(2**22 - 2**16))

  thread = threading.Thread(target=fill)
  thread.start()
  with pytest.raises(UserError, match=r"the pipe has more than 0\.0019\d+ GiB"):
    decode(f"/dev/fd/{reading}")
  with open(reading, "rb") as rest:
    rest.read()
  thread.join()
