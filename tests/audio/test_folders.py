"""Selection of the files of a folder, for all commands with a folder argument."""

import os
import pathlib
import socket
import sys

import numpy as np
import pytest
import soundfile
from runs_support import prepare_here

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.audio.folders import contents, other_formats
from atgcn_jax.data.layouts.label_list import list_labelled
from atgcn_jax.data.layouts.panns import packed_files
from atgcn_jax.data.layouts.segments import list_segments
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.serving.sources import sounds_in, spread

TALNET = frontend.FRONTENDS["talnet"]


def make(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def link(folder, name, target):
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).symlink_to(target)


def test_hidden_files_and_folders_are_left_out(tmp_path):
  hidden = ["._a.wav", ".Trash-1000/files/b.wav", "__MACOSX/c.wav", "$RECYCLE.BIN/d.wav"]
  make(tmp_path, "one.wav", "sub/two.wav", "lost+found/e.wav", "sub/.git/f.wav", *hidden)
  assert contents(tmp_path) == (["one.wav", "sub/two.wav"], [])
  # A hidden folder that is named explicitly is listed.
  assert contents(tmp_path / ".Trash-1000").files == ["files/b.wav"]


def test_linked_folders_are_entered(tmp_path):
  make(tmp_path, "disk/site/two.wav", "disk/site/deep/three.wav", "disk/four.wav", "home/one.wav")
  link(tmp_path, "home/site", "../disk/site")
  link(tmp_path, "home/four.wav", "../disk/four.wav")
  files = ["four.wav", "one.wav", "site/deep/three.wav", "site/two.wav"]
  assert contents(tmp_path / "home") == (files, [])
  link(tmp_path, "way", "home")
  assert contents(tmp_path / "way") == (files, [])


def test_a_folder_is_entered_once_preferably_under_its_own_name(tmp_path):
  make(tmp_path, "home/z/one.wav", "disk/a/two.wav")
  link(tmp_path, "home/a", "z")
  link(tmp_path, "home/c", "../disk/a")
  link(tmp_path, "home/b", "../disk")
  assert contents(tmp_path / "home").files == ["b/a/two.wav", "z/one.wav"]
  # A file is listed under each of its names.
  link(tmp_path, "home/z/again.wav", "one.wav")
  assert contents(tmp_path / "home").files == ["b/a/two.wav", "z/again.wav", "z/one.wav"]


def test_loops_are_not_entered(tmp_path):
  make(tmp_path, "home/a/b/one.wav", "outside.wav", "other/two.wav")
  for name, target in (("home/a/up", ".."), ("home/here", "."), ("home/a/b/top", "../../..")):
    link(tmp_path, name, target)
  link(tmp_path, "home/other", "../other")
  link(tmp_path, "other/back", "../home/a")
  assert contents(tmp_path / "home") == (["a/b/one.wav", "other/two.wav"], [])


def test_faults_name_entries_that_cannot_be_read_or_entered(tmp_path, monkeypatch):
  make(tmp_path, "home/one.wav", "home/closed/two.wav")
  link(tmp_path, "home/gone.wav", "nowhere.wav")
  link(tmp_path, "home/disk", "/no/such/disk")
  link(tmp_path, "home/self", "self")
  monkeypatch.chdir(tmp_path / "home")
  with socket.socket(socket.AF_UNIX) as line:
    line.bind("line")
  scandir = os.scandir

  def closed(path):
    if pathlib.Path(path).name == "closed":
      raise PermissionError(13, "Permission denied")
    return scandir(path)

  monkeypatch.setattr(os, "scandir", closed)
  files, faults = contents(tmp_path / "home")
  assert files == ["one.wav"]
  assert faults == [
    ("closed", "not readable (Permission denied)"),
    ("disk", "a link to /no/such/disk, which does not exist"),
    ("gone.wav", "a link to nowhere.wav, which does not exist"),
    ("line", "neither a file nor a folder"),
    ("self", "not readable (Too many levels of symbolic links)"),
  ]
  sources, bad = spread([tmp_path / "home"])
  assert sources == [str(tmp_path / "home/one.wav")]
  assert [str(error) for error in bad] == [
    f"{tmp_path / 'home' / name}: is {reason}; restore it or remove it" for name, reason in faults
  ]


def test_files_of_other_formats_are_counted_and_named(tmp_path):
  make(tmp_path, "a.wav", "phone.APE", "notes.txt", "labels.csv")
  sounds, (left_out,) = sounds_in(tmp_path)
  assert sounds == [str(tmp_path / "a.wav")]
  assert str(left_out) == (
    f"{tmp_path}: 1 file of another format left out: phone.APE; convert to wav, flac, ogg or mp3"
  )
  make(tmp_path, "sub/b.wv", "sub/c.tta", "sub/d.spx", "sub/._e.spx")
  message = other_formats(contents(tmp_path).files)
  assert message.startswith(
    "4 files of other formats left out: phone.APE, sub/b.wv, sub/c.tta, …; "
  )
  assert other_formats(["a.wav", "notes.txt"]) == ""
  (tmp_path / "a.wav").unlink()
  with pytest.raises(UserError, match=r"no sound file in this folder; 4 files .*phone\.APE"):
    sounds_in(tmp_path)
  assert [str(error)[: len(str(tmp_path))] for error in spread([tmp_path])[1]] == [str(tmp_path)]


def test_names_that_are_not_utf8(tmp_path):
  name = os.fsdecode(b"gr\xfcn.wav")
  make(tmp_path, name, os.fsdecode(b"\xe9/a.wav"), os.fsdecode(b"\xe9.ape"))
  sounds, (left_out,) = sounds_in(tmp_path)
  assert {os.path.basename(path) for path in sounds} == {name, "a.wav"}
  assert r"'\udce9.ape'" in str(left_out)


@pytest.mark.parametrize("words", [["-6L6WxN3npI.wav"], ["a.wav", "--PJHxphWEs.wav"]])
def test_a_file_name_that_starts_with_a_dash_is_not_an_option(tmp_path, monkeypatch, capsys, words):
  make(tmp_path, *words)
  monkeypatch.chdir(tmp_path)
  arguments = ["tag", "--workdir", "run", *words]
  monkeypatch.setattr(sys, "argv", ["atgcn", *arguments])
  with pytest.raises(SystemExit) as ended:
    cli.main(arguments)
  assert ended.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith(f"; write ./{words[-1]} for the file of this name")


def wav(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 4000), 16000)


def test_prepare_enters_linked_folders_and_reports_broken_links(tmp_path, monkeypatch):
  prepare_here(monkeypatch)
  ids = ["-6L6WxN3npI", "_a_b-c_d_e-", "abcdefghijk"]
  wav(tmp_path / "disk" / f"{ids[0]}.wav")
  wav(tmp_path / "clips" / f"{ids[1]}.wav")
  wav(tmp_path / "clips" / ".Trash-1000" / f"{ids[2]}.wav")
  link(tmp_path, "clips/disk", "../disk")
  link(tmp_path, "clips/more", "/no/such/disk")
  path = tmp_path / "eval.csv"
  path.write_text("".join(f'{clip_id}, 0.000, 10.000, "/m/a"\n' for clip_id in ids))
  out = tmp_path / "s.h5"
  assert prepare(tmp_path / "clips", [path], out, layout="segments") == (2, 1, 1)
  assert open_store(out).clip_ids.tolist() == ids[:2]
  assert (tmp_path / "s.h5.unreadable.csv").read_text() == (
    f'file,reason\n{ids[2]},not there\nmore,"a link to /no/such/disk, which does not exist"\n'
  )


def test_packed_files_in_linked_folders_are_found(tmp_path):
  make(tmp_path, "disk/b.h5", "packed/a.h5", "packed/.c.h5")
  link(tmp_path, "packed/disk", "../disk")
  folder = str(tmp_path / "packed")
  assert packed_files([folder], (".h5",)) == [f"{folder}/a.h5", f"{folder}/disk/b.h5"]
  link(tmp_path, "packed/more", "/no/such/disk")
  with pytest.raises(UserError, match=r"packed/more: is a link to /no/such/disk"):
    packed_files([folder], (".h5",))


FIRST, SECOND = "-A_3-4_5_6-", "Yabcdefghij"
FORMS = [
  "{}_30.0-40.0",
  "{}_30-40",
  "{}-30.000-40.000",
  "{}_30.000_40.000",
  "{}_30000-40000",
  "Y{}_30",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("clip_id", [FIRST, SECOND])
def test_names_with_start_and_end(tmp_path, form, clip_id):
  name = f"{form.format(clip_id)}.wav"
  make(tmp_path, f"clips/Speech/{name}", f"clips/{clip_id}_70.0-80.0.wav", "clips/abcdefghijk.wav")
  path = tmp_path / "eval.csv"
  path.write_text(f'{clip_id}, 30.000, 40.000, "/m/a"\n')
  listing = list_segments(tmp_path / "clips", [path], TALNET, None, None)
  assert listing.sources == [f"Speech/{name}"]
  assert listing.clip_ids == [clip_id]


def test_segments_with_the_same_id_use_their_own_files(tmp_path):
  names = [f"{FIRST}_30.0-40.0.wav", f"{FIRST}_0.0-10.0.wav", f"{SECOND}.wav"]
  make(tmp_path, *(f"clips/{name}" for name in names))
  path = tmp_path / "eval.csv"
  rows = [(FIRST, 0, "a"), (FIRST, 30, "b"), (FIRST, 60, "c"), (SECOND, 5, "d"), (SECOND, 25, "e")]
  path.write_text("".join(f'{i}, {start}, {start + 10}, "{label}"\n' for i, start, label in rows))
  listing = list_segments(tmp_path / "clips", [path], TALNET, None, None)
  assert listing.clip_ids == [FIRST, f"{FIRST}_30.000", SECOND]
  assert listing.sources == [names[1], names[0], names[2]]
  assert listing.vocabulary.ids == ("a", "b", "d")
  assert listing.absent == []
  (remark,) = listing.remarks
  assert remark.endswith(
    f"2 rows repeat an id and are left out (the first is used): {FIRST}, {SECOND}"
  )


def test_a_folder_without_clips_of_the_lists_is_refused(tmp_path):
  make(tmp_path, "clips/recording 1.wav")
  path = tmp_path / "eval.csv"
  path.write_text(f'{FIRST}, 30.000, 40.000, "/m/a"\n')
  with pytest.raises(
    UserError, match=rf"such as {FIRST}\.wav, but files such as recording 1\.wav;"
  ):
    list_segments(tmp_path / "clips", [path], TALNET, None, None)


def test_an_unreadable_folder_is_refused(tmp_path, monkeypatch):
  make(tmp_path, "clips/a.wav")

  def closed(path):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(os, "scandir", closed)
  with pytest.raises(UserError, match=r"clips: cannot be read \(Permission denied\); "):
    list_labelled(tmp_path / "clips", tmp_path / "labels.csv", TALNET, None)
