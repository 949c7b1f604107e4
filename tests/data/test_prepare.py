"""Clip stores from sound files with a label list and from soundscapes; all kinds of bad input."""

import csv
import os

import numpy as np
import pytest
import small_store
import soundfile
from marks import slow

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts.label_list import COLUMNS, read_label_list
from atgcn_jax.data.layouts.listing import load_file
from atgcn_jax.data.normaliser import decibels
from atgcn_jax.data.prepare import prepare, prepare_soundscapes
from atgcn_jax.data.store import store_builder
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.data.store.unfinished import findings_path
from atgcn_jax.data.synthetic import soundscapes
from atgcn_jax.errors import UserError

TALNET = frontend.FRONTENDS["talnet"]
KINDS = [("wav", 44100, 2), ("flac", 16000, 1), ("wav", 8000, 1), ("flac", 22050, 3)]
LABELS = ["/m/b,/m/a", "", "/m/c", " /m/a , /m/a,"]
FILES = 18  # two chunks
VOCABULARY = 'index,mid,display_name\n0,/m/c,C\n1,/m/x,X\n2,/m/a,"A, a"\n3,/m/b,B\n'


def write_list(path, rows, header=COLUMNS):
  with path.open("w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([header, *rows])


def make_sounds(folder, count, seconds=0.4):
  """Write sound files of several kinds to `folder/audio`, their label list and a vocabulary."""
  (folder / "audio").mkdir()
  rng, rows = np.random.default_rng(0), []
  for i in range(count):
    suffix, rate, channels = KINDS[i % len(KINDS)]
    name = f"ton {i:02d}, é.{suffix}"
    length = int(rate * (11 if i == 1 else seconds))
    soundfile.write(folder / "audio" / name, 0.2 * rng.standard_normal((length, channels)), rate)
    rows.append((name, i % 3 + 1, LABELS[i % len(LABELS)]))
  write_list(folder / "labels.csv", rows)
  (folder / "vocabulary.csv").write_text(VOCABULARY, encoding="utf-8")
  return rows


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sounds")
  make_sounds(folder, FILES)
  return folder


@pytest.fixture(scope="module")
def prepared(sounds):
  """Return the store that one worker process writes."""
  out = sounds / "one.h5"
  built = prepare(
    sounds / "audio", sounds / "labels.csv", out, vocabulary=sounds / "vocabulary.csv", workers=1
  )
  assert built == (FILES, 0, 0)
  return open_store(out)


@pytest.fixture
def here(monkeypatch):
  """Work in this process, because a spawned process takes seconds to start."""

  def in_processes(work, chunks, processes):
    yield from map(work, chunks)

  monkeypatch.setattr(store_builder, "in_processes", in_processes)


def test_content_of_the_store(prepared, sounds):
  names = sorted(os.listdir(sounds / "audio"))
  assert prepared.clip_ids.tolist() == names
  assert prepared.folds.tolist() == [str(i % 3 + 1) for i in range(FILES)]
  assert prepared.vocabulary.ids == ("/m/c", "/m/x", "/m/a", "/m/b")
  assert prepared.vocabulary.names == ("C", "X", "A, a", "B")
  assert prepared.frontend == TALNET
  rows = [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
  assert prepared.labels(np.arange(FILES)).tolist() == [rows[i % 4] for i in range(FILES)]


def test_log_mels_equal_those_of_the_files(prepared, sounds):
  got = decibels(np.asarray(prepared.log_mel), prepared.peak_db)
  for i in (0, 1, 2, 3, 17):
    sound = load_file(str(sounds / "audio"), TALNET, prepared.clip_ids[i]).sound[:160_000]
    wanted = np.asarray(frontend.log_mel(np.pad(sound, (0, 160_000 - len(sound))), TALNET))
    np.testing.assert_allclose(got[i], wanted, atol=80 / 255 / 2 + 1e-2)


def test_length_and_rate_of_each_file(prepared):
  rates = [KINDS[i % len(KINDS)][1] for i in range(FILES)]
  assert prepared.rate_hz.tolist() == rates
  np.testing.assert_allclose(prepared.seconds, [11 if i == 1 else 0.4 for i in range(FILES)])
  assert prepared.normaliser is None


def test_two_workers_write_the_same_bytes_as_one(prepared, sounds):
  out = sounds / "two.h5"
  arguments = sounds / "audio", sounds / "labels.csv"
  prepare(*arguments, out, vocabulary=sounds / "vocabulary.csv", workers=2)
  assert open_store(out).fingerprint == prepared.fingerprint
  assert out.read_bytes() == (sounds / "one.h5").read_bytes()


def test_float16_and_used_labels_only(prepared, sounds, here):
  out = sounds / "half.h5"
  arguments = sounds / "audio", sounds / "labels.csv"
  prepare(
    *arguments, out, vocabulary=sounds / "vocabulary.csv", used_labels_only=True, dtype="float16"
  )
  store = open_store(out)
  assert store.log_mel.dtype == np.float16
  assert store.vocabulary.names == ("C", "A, a", "B")
  kept = prepared.labels(np.arange(FILES))[:, [0, 2, 3]]
  np.testing.assert_array_equal(store.labels(np.arange(FILES)), kept)
  wanted = decibels(np.asarray(prepared.log_mel), prepared.peak_db)
  np.testing.assert_allclose(np.asarray(store.log_mel, np.float32), wanted, atol=0.25)


def test_the_default_vocabulary_is_the_sorted_ids(sounds, here):
  prepare(sounds / "audio", sounds / "labels.csv", sounds / "own.h5")
  store = open_store(sounds / "own.h5")
  assert store.vocabulary.ids == store.vocabulary.names == ("/m/a", "/m/b", "/m/c")
  assert store.labels(np.arange(4)).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_a_clip_is_cut_or_padded(tmp_path, here):
  (tmp_path / "audio").mkdir()
  sound = np.random.default_rng(0).uniform(-0.5, 0.5, 170_000)
  names = {"long": sound, "cut": sound[:160_000], "short": sound[:50_000]}
  names["padded"] = np.pad(sound[:50_000], (0, 110_000))
  for name, samples in names.items():
    soundfile.write(tmp_path / "audio" / f"{name}.wav", samples, 16000, subtype="FLOAT")
  write_list(tmp_path / "labels.csv", [(f"{name}.wav", 1, "/m/a") for name in names])
  prepare(tmp_path / "audio", tmp_path / "labels.csv", tmp_path / "s.h5")
  long, cut, short, padded = np.asarray(open_store(tmp_path / "s.h5").log_mel)
  np.testing.assert_array_equal(long, cut)
  np.testing.assert_array_equal(short, padded)
  assert (long != short).any()


def test_a_label_list_is_read_as_written(tmp_path):
  path = tmp_path / "labels.csv"
  path.write_text(
    'positive_labels, filename, more, fold\r\n"/m/b, /m/a",sub/ü.wav,x,2\r\n\r\n,b.wav,,eval\r\n',
    encoding="utf-8-sig",
  )
  rows = read_label_list(path)
  assert rows == [("sub/ü.wav", "2", ["/m/b", "/m/a"], ""), ("b.wav", "eval", [], "")]


def rewrite_first(change):
  def damage(folder):
    path = next((folder / "audio").glob("ton 00*"))
    path.write_bytes(change(path.read_bytes()))

  return damage


def write_labels(*rows, header=COLUMNS):
  return lambda folder: write_list(folder / "labels.csv", rows, header)


def no_audio(folder):
  for path in (folder / "audio").iterdir():
    path.unlink()
  (folder / "audio").rmdir()


def empty_audio(folder):
  no_audio(folder)
  (folder / "audio").mkdir()


FIRST = "ton 00, é.wav"
BAD = {
  "no folder": (no_audio, "audio: no such folder", "--audio"),
  "empty folder": (empty_audio, "audio: the folder is empty", "--audio"),
  "missing sounds": (
    write_labels(("gone.wav", 1, "/m/a"), ("lost.wav", 1, "/m/a")),
    "gone.wav: no such file",
    "none",
  ),
  "a folder for a sound": (write_labels(("", 1, "/m/a")), "labels.csv, line 2", "filename"),
  "foreign label": (write_labels((FIRST, 1, "/m/a,/m/y")), "labels.csv: ton 00", "'/m/y'"),
  "no label at all": (
    lambda folder: (
      write_list(folder / "labels.csv", [(FIRST, 1, "")]),
      (folder / "vocabulary.csv").unlink(),
    ),
    "labels.csv: no file has a label",
    "give",
  ),
  "no list": (lambda f: (f / "labels.csv").unlink(), "labels.csv: no such label list", "--labels"),
  "a folder for a list": (
    lambda f: ((f / "labels.csv").unlink(), (f / "labels.csv").mkdir()),
    "labels.csv: cannot be read",
    "CSV",
  ),
  "empty list": (lambda f: (f / "labels.csv").write_bytes(b""), "labels.csv: no column", "fold"),
  "header only": (write_labels(), "labels.csv: lists no file", "row"),
  "other columns": (
    write_labels((FIRST, "1"), header=("filename", "label")),
    "labels.csv: no column fold, positive_labels",
    "first line",
  ),
  "short row": (write_labels((FIRST, "1")), "labels.csv, line 2", "a field per column"),
  "ids not quoted": (write_labels((FIRST, "1", "/m/a", "/m/b")), "labels.csv, line 2", "quote"),
  "open quote": (write_labels(("a.wav\nb.wav", 1, "/m/a")), "labels.csv, line 3", "quote"),
  "not text": (lambda f: (f / "labels.csv").write_bytes(b"\xff\xfe\0" * 9), "labels.csv", "CSV"),
}


@pytest.mark.parametrize("existing", [slow(False), True])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, here, bad, existing):
  make_sounds(tmp_path, 3, seconds=0.3)
  (tmp_path / "out").mkdir()
  out = tmp_path / "out" / "s.h5"
  if existing:
    small_store.make(out)
  before = out.read_bytes() if existing else b""
  damage, names, fix = BAD[bad]
  if existing and bad == "missing sounds":  # found out when they are read, which they are not
    names, fix = "s.h5: already exists", "choose another --out"
  damage(tmp_path)
  vocabulary = tmp_path / "vocabulary.csv"
  with pytest.raises(UserError) as caught:
    prepare(
      tmp_path / "audio",
      tmp_path / "labels.csv",
      out,
      vocabulary=vocabulary if vocabulary.exists() else None,
    )
  message = str(caught.value)
  assert names in message
  assert fix in message
  assert "; " in message
  assert "\n" not in message
  assert [path.name for path in out.parent.iterdir()] == ["s.h5"] * existing
  assert not existing or out.read_bytes() == before


UNREADABLE = {
  "cut": (rewrite_first(lambda data: data[:44]), "is cut short or damaged"),
  "empty": (rewrite_first(lambda data: b""), "is empty (0 bytes)"),
  "not sound": (rewrite_first(lambda data: b"words " * 999), "unknown format"),
  "without samples": (rewrite_first(lambda data: data[:40] + bytes(4)), "holds no samples"),
  "missing": (lambda folder: (folder / "audio" / FIRST).unlink(), "no such file"),
}


@pytest.mark.parametrize("bad", UNREADABLE)
def test_unreadable_files_are_left_out_and_reported(tmp_path, here, bad):
  make_sounds(tmp_path, FILES, seconds=0.3)
  whole = tmp_path / "whole.h5"
  arguments = tmp_path / "audio", tmp_path / "labels.csv"
  prepare(*arguments, whole)
  damage, reason = UNREADABLE[bad]
  damage(tmp_path)
  out = tmp_path / "out" / "s.h5"
  assert prepare(*arguments, out) == (FILES - 1, 0, 1)
  report = out.with_name("s.h5.unreadable.csv")
  assert sorted(out.parent.iterdir()) == [out, findings_path(out), report]
  header, row = csv.reader(report.open(encoding="utf-8"))
  assert header == ["file", "reason"]
  assert row[0] == FIRST
  assert row[1].startswith(reason) or bad == "not sound"
  assert reason in row[1]
  got, wanted = open_store(out), open_store(whole)
  assert len(got) == len(got.clip_ids) == len(got.folds) == len(got.log_mel) == FILES - 1
  for name in ("log_mel", "peak_db", "clip_ids", "folds", "seconds", "rate_hz"):
    np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name)[1:])
  np.testing.assert_array_equal(
    got.labels(np.arange(FILES - 1)), wanted.labels(np.arange(1, FILES))
  )


def test_a_report_is_removed_when_all_files_are_readable(tmp_path, here):
  make_sounds(tmp_path, 2)
  arguments = tmp_path / "audio", tmp_path / "labels.csv", tmp_path / "s.h5"
  whole = (tmp_path / "audio" / FIRST).read_bytes()
  (tmp_path / "audio" / FIRST).unlink()
  assert prepare(*arguments).unreadable == 1
  (tmp_path / "audio" / FIRST).write_bytes(whole)
  with pytest.warns(UserWarning, match=r"s\.h5: is complete already"):
    assert prepare(*arguments) == (1, 0, 1)
  (tmp_path / "s.h5").unlink()
  assert prepare(*arguments) == (2, 0, 0)
  assert not list(tmp_path.glob("*.unreadable.csv"))
  assert not list(tmp_path.glob(".*"))


@pytest.mark.filterwarnings("default:.*is complete already")
def test_the_command_reports_left_out_files(tmp_path, here, capfd):
  make_sounds(tmp_path, 3)
  line = ["prepare", "--audio", tmp_path / "audio", "--labels", tmp_path / "labels.csv"]
  line = [*map(str, line), "--out", str(tmp_path / "s.h5")]
  assert cli.main(line) == 0
  assert capfd.readouterr().out == f"{tmp_path / 's.h5'}: 3 clips\n"
  (tmp_path / "audio" / FIRST).unlink()
  before = (tmp_path / "s.h5").read_bytes()
  assert cli.main(line) == 0
  printed = capfd.readouterr()
  assert printed.out == f"{tmp_path / 's.h5'}: 3 clips\n"
  assert f"{tmp_path / 's.h5'}: is complete already and was left unchanged" in printed.err
  assert cli.main([*line, "--seconds", "2"]) == 2
  assert "s.h5: already exists and is a store of other files, labels" in capfd.readouterr().err
  assert (tmp_path / "s.h5").read_bytes() == before
  (tmp_path / "s.h5").unlink()
  assert cli.main(line) == 1
  printed = capfd.readouterr()
  assert printed.out == f"{tmp_path / 's.h5'}: 2 clips\n"
  report = tmp_path / "s.h5.unreadable.csv"
  of_sound, last = printed.err.splitlines()[:-1], printed.err.splitlines()[-1]
  assert last == f"atgcn prepare: 1 cannot be read; see {report}"
  assert [line.partition("s.h5: ")[2][:17] for line in of_sound] == [
    "1 of 2 sounds is ",
    "1 of 2 sounds is ",
    f"see {tmp_path}/s.h5.findings.csv"[:17],
  ]


def test_a_file_that_is_no_store_is_kept(tmp_path, here):
  make_sounds(tmp_path, 1)
  for name, content in (("notes.txt", b"mine"), ("cut.h5", b"\x89HDF\r\n\x1a\n" + bytes(99))):
    out = tmp_path / name
    out.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: already exists and is not an intact clip store"):
      prepare(tmp_path / "audio", tmp_path / "labels.csv", out)
    assert out.read_bytes() == content


def test_an_unwritable_output(tmp_path, here):
  make_sounds(tmp_path, 1)
  for out in (tmp_path, tmp_path / "labels.csv" / "s.h5", "/proc/none/s.h5"):
    with pytest.raises(UserError) as caught:
      prepare(tmp_path / "audio", tmp_path / "labels.csv", out)
    assert str(caught.value).startswith(f"{out}: ")
    assert "\n" not in str(caught.value)


def test_soundscapes(tmp_path, here):
  prepare_soundscapes(tmp_path / "s.h5", 20, seed=4)
  store = open_store(tmp_path / "s.h5")
  assert len(store) == 20
  assert store.vocabulary == soundscapes.soundscape_vocabulary()
  assert store.folds.tolist() == (["train"] * 8 + ["validation", "test"]) * 2
  for clip in range(20):
    leaves = [event.label for event in soundscapes.draw_scene(4, clip)]
    labels = np.flatnonzero(store.labels(np.array([clip]))[0])
    assert labels.tolist() == soundscapes.with_ancestors(leaves)
  prepare_soundscapes(tmp_path / "again.h5", 20, seed=4)
  assert open_store(tmp_path / "again.h5").fingerprint == store.fingerprint
  prepare_soundscapes(tmp_path / "other.h5", 20, seed=5)
  assert open_store(tmp_path / "other.h5").fingerprint != store.fingerprint


def esc10(shared, tmp_path, count):
  audio, listed = shared / "data/esc10/audio", shared / "data/esc10/labels.csv"
  rows = read_label_list(listed)[:: 400 // count]
  write_list(tmp_path / "labels.csv", [(r.filename, r.fold, ",".join(r.labels)) for r in rows])
  prepare(
    audio,
    tmp_path / "labels.csv",
    tmp_path / "s.h5",
    vocabulary=shared / "data/audioset/class_labels_indices.csv",
    used_labels_only=True,
  )
  store = open_store(tmp_path / "s.h5")
  assert store.clip_ids.tolist() == [row.filename for row in rows]
  for clip, row in enumerate(rows):
    labels = np.flatnonzero(store.labels(np.array([clip]))[0])
    assert {store.vocabulary.ids[k] for k in labels} == set(row.labels)
  return store


def test_ten_real_recordings(shared, tmp_path, here):
  store = esc10(shared, tmp_path, 10)
  assert store.log_mel.shape == (10, 400, 64)
  assert np.asarray(store.log_mel).max(axis=(1, 2)).tolist() == [255] * 10


@pytest.mark.slow
def test_esc10(shared, tmp_path):
  store = esc10(shared, tmp_path, 400)
  assert len(store) == 400
  assert len(store.vocabulary) == 26
  assert np.unique(store.folds, return_counts=True)[1].tolist() == [80] * 5
