"""Clips around events: Audacity label tracks, Raven selection tables, CSV."""

import dataclasses

import numpy as np
import pytest
import small_store
import soundfile
from runs_support import prepare_here
from test_layouts import label_ids

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts.event_tables import read_events
from atgcn_jax.data.layouts.events import background_windows, event_windows, labels_in, list_events
from atgcn_jax.data.store import long_files
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary

SETTINGS = dataclasses.replace(small_store.FRONTEND, seconds=2.0)
AUDACITY = "0.5\t1.5\tdog\n\\\t100.0\t900.0\n7.0\t7.0\train\n"
RAVEN = (
  "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tSpecies\n"
  "1\tWaveform 1\t1\t0.5\t1.5\t0\tdog\n1\tSpectrogram 1\t1\t0.5\t1.5\t0\tdog\n"
  "2\tSpectrogram 1\t1\t7.0\t7.0\t0\train\n"
)
TABLE = "filename,onset,offset,event_label\na.wav,0.5,1.5,dog\na.wav,7,7,rain\n"
EVENTS = [("a.wav", 0.5, 1.5, "dog"), ("a.wav", 7.0, 7.0, "rain")]


@pytest.fixture(autouse=True)
def here(monkeypatch):
  prepare_here(monkeypatch)
  monkeypatch.setattr(long_files, "in_processes", lambda work, chunks, _: map_closing(work, chunks))
  monkeypatch.setitem(frontend.FRONTENDS, "talnet", SETTINGS)


def map_closing(work, chunks):
  yield from map(work, chunks)


def read(path, text, file="a.wav", **options):
  path.write_text(text)
  return [event[:4] for event in read_events(path, file, **options)]


@pytest.mark.parametrize("text", [AUDACITY, RAVEN, TABLE, TABLE.replace(",", ";")])
def test_tables_of_events(tmp_path, text):
  assert read(tmp_path / "t.txt", text) == EVENTS


def test_decimal_commas_and_rows_without_an_event(tmp_path):
  assert read(tmp_path / "t.txt", "0,5\t1,5\tdog\n") == EVENTS[:1]
  (row,) = read(tmp_path / "t.csv", "filename\tonset\toffset\tlabel\nb.wav\t\t\t\n")
  assert row[0] == "b.wav"
  assert np.isnan(row[1])


@pytest.mark.parametrize("text", ["", "\n", RAVEN.splitlines()[0], "onset,offset,label\n"])
def test_an_empty_table_states_that_its_file_has_no_event(tmp_path, text):
  (row,) = read(tmp_path / "t.txt", text)
  assert row[0] == "a.wav"
  assert np.isnan(row[1])
  assert read(tmp_path / "t.txt", "filename,onset,offset,label\n") == []


RAVEN_OF_FILES = (
  "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tAnnotation\n"
  "1\t600.5\t601.5\ta.wav\t0.5\tdog\n"
)


def test_raven_tables_of_several_files(tmp_path):
  text = RAVEN_OF_FILES + "2\t4\t4.5\tb.wav\t4\train\n"
  found = read(tmp_path / "t.txt", text, "")
  assert found == [("a.wav", 0.5, 1.5, "dog"), ("b.wav", 4.0, 4.5, "rain")]


WRONG = {
  "2\t1\tdog\n": "line 1: an event from '2' to '1'; write onset and offset in seconds",
  "0\t1\t\n": "line 1: the event has no label",
  "Begin Time (s)\tEnd Time (s)\n0\t1\n": "no column of the label, such as event_label or label",
  "filename,onset,label\na.wav,0,dog\n": "no column of the offset, such as offset or end",
  "filename,onset,offset,label\na.wav,0,1,dog,rain\n": "line 2: not as many fields as the first",
  "filename,onset,offset,label\n,0,1,dog\n": "line 2: no file",
  "filename,onset,offset,label\na.wav,0:01,1,dog\n": "line 2: an event from '0:01' to '1'",
}


@pytest.mark.parametrize("text", WRONG)
def test_rows_that_are_no_event_are_rejected(tmp_path, text):
  with pytest.raises(UserError, match=WRONG[text]):
    read(tmp_path / "t.txt", text)


def test_windows_cover_all_events():
  assert event_windows([(4, 5), (4.5, 5.5)], 2, 10) == [3.5]
  assert event_windows([(0, 0.5), (9.5, 12)], 2, 10) == [0, 8]
  assert event_windows([(3, 8)], 2, 10) == [2.5, 4.5, 6.5]
  rng = np.random.default_rng(0)
  for _ in range(200):
    length, seconds = rng.uniform(5, 40), rng.uniform(0.5, 5)
    onsets = np.sort(rng.uniform(0, length, 8))
    events = [(onset, min(length, onset + rng.exponential(2))) for onset in onsets]
    starts = event_windows(events, seconds, length)
    assert min(starts) >= 0
    assert max(starts) <= length - seconds + 1e-3
    for onset, offset in events:
      times = np.linspace(onset, offset, 50)
      inside = [(times >= start - 2e-3) & (times <= start + seconds + 2e-3) for start in starts]
      assert np.any(inside, axis=0).all()
      # Every event gives its label to a clip.
      assert any(labels_in([(onset, offset, "x")], start, seconds) for start in starts)


def test_a_clip_has_the_labels_of_half_an_event_or_half_a_clip():
  events = [(1.0, 2.0, "half"), (0.4, 2.0, "less"), (0.0, 99.0, "long"), (1.9, 1.9, "point")]
  assert labels_in(events, 1.5, 2.0) == ["half", "long", "point"]
  assert labels_in([(0.0, 10.0, "x")], 9.0, 2.0) == ["x"]
  assert labels_in([(0.0, 10.0, "x")], 9.1, 2.0) == []


def test_background_is_where_no_event_is():
  assert background_windows([(4.5, 5)], 2, 10) == [0, 2, 5, 7]
  assert background_windows([(0, 9), (1, 2)], 2, 10) == []
  assert background_windows([], 2, 4.1) == [0, 2]


def folder(tmp_path, **tables):
  for k, (name, seconds) in enumerate({"a.wav": 10, "sub/b.wav": 1, "c.wav": 5}.items()):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(k).uniform(-0.5, 0.5, 4000 * seconds)
    soundfile.write(path, sound, 4000)
  for name, text in tables.items():
    (tmp_path / "in" / f"{name}.txt").write_text(text)
  return tmp_path / "in"


def test_clips_of_tables_next_to_the_sounds(tmp_path):
  root = folder(
    tmp_path, **{"a.Table.1.selections": RAVEN, "sub/b": "0\t0.5\thail\n", "notes": "x"}
  )
  out = tmp_path / "s.h5"
  line = ["prepare", "--layout", "events", "--audio", root, "--out", out, "--fold", "train"]
  assert cli.main([*map(str, line)]) == 0
  store = open_store(out)
  assert store.clip_ids.tolist() == ["a.wav@000000.000", "a.wav@000006.000", "sub/b.wav"]
  assert [label_ids(store, k) for k in range(3)] == [{"dog"}, {"rain"}, {"hail"}]
  np.testing.assert_allclose(store.seconds, [2, 2, 1])
  line = [*line[:-3], tmp_path / "all.h5", "--fold", "train", "--background"]
  assert cli.main([*map(str, line)]) == 0
  store = open_store(tmp_path / "all.h5")
  background = [clip for k, clip in enumerate(store.clip_ids) if not label_ids(store, k)]
  times = [("a.wav", k) for k in (1.5, 3.5)] + [("c.wav", k) for k in (0, 2)]
  assert background == [f"{name}@{start:010.3f}" for name, start in times]


def listed(root, tables, vocabulary=None, fold=None, **options):
  return list_events(root, tables, SETTINGS, vocabulary, fold, workers=1, **options)


def test_clips_of_a_table(tmp_path):
  root, table = folder(tmp_path), tmp_path / "t.csv"
  table.write_text(
    "filename,onset,offset,label,fold,site\na.wav,0,1,Dog,train,x\nb.wav,0,1,rain,test,y\n"
    "gone.wav,0,1,dog,test,x\na.wav,11,12,dog,train,x\n"
  )
  known = Vocabulary(("/m/dog", "/m/rain"), ("Dog", "Rain"))
  listing = listed(root, [table], known, group="site")
  assert listing.clip_ids == ["a.wav@000000.000", "sub/b.wav"]
  assert listing.folds == ["train", "test"]
  assert listing.groups == ["x", "y"]
  assert listing.label_indices.tolist() == [0, 1]
  assert listing.absent == [("gone.wav", "not there")]
  (remark,) = listing.remarks
  assert remark.startswith(f"{table}, line 5: an event starts after the end of its sound; 1 such")


ENDS = (
  "filename,onset,offset,label\nsiteA/b.wav,0,1,owl\nsub/b.wav,0,1,wren\nx/a,0,1,dog\nA.wav,0,1,x\n"
)


def test_an_event_ends_with_its_sound(tmp_path):
  root = folder(tmp_path, a="1\t2\tcat\n9.5\t30\tdog\n")
  listing = listed(root, [], fold="train")
  assert listing.clip_ids == ["a.wav@000000.500", "a.wav@000008.000"]
  assert [listing.vocabulary.ids[k] for k in listing.label_indices] == ["cat", "dog"]


def test_names_are_the_ends_of_paths(tmp_path):
  root, table = folder(tmp_path), tmp_path / "t.csv"
  table.write_text(ENDS)
  listing = listed(root, [table], fold="train")
  assert listing.clip_ids == ["a.wav@000000.000", "sub/b.wav"]
  assert listing.vocabulary.ids == ("dog", "wren")
  assert listing.absent == [
    ("siteA/b.wav", "not there"),
    ("A.wav", "not there; did you mean a.wav"),
  ]
  table.write_text(TABLE.replace("a.wav", "A.wav"))
  with pytest.raises(UserError, match=r"such as A\.wav; did you mean a\.wav\); give the folder"):
    listed(root, [table], fold="train")


def test_a_table_next_to_a_sound_means_that_sound(tmp_path):
  root = tmp_path / "in"
  for site, label in (("one", "owl"), ("two", "wren")):
    (root / site).mkdir(parents=True)
    soundfile.write(root / site / "20240101.wav", np.zeros(4000), 4000)
    text = RAVEN_OF_FILES.replace("a.wav", "20240101.wav").replace("dog", label)
    (root / site / "20240101.selections.txt").write_text(text)
  for tables in ([], [root / site / "20240101.selections.txt" for site in ("one", "two")]):
    listing = listed(root, tables, fold="train")
    assert listing.clip_ids == ["one/20240101.wav", "two/20240101.wav"]
    assert [listing.vocabulary.ids[k] for k in listing.label_indices] == ["owl", "wren"]
    assert not listing.absent


def test_label_tracks_among_the_labels_are_of_the_sound_of_their_name(tmp_path):
  root, track = folder(tmp_path), tmp_path / "B_x.txt"
  track.write_text("0\t0.5\tdog\n")
  with pytest.raises(
    UserError, match=r"B_x\.txt: a label track of no sound in the folder; name it"
  ):
    listed(root, [track], fold="train")
  track = track.rename(tmp_path / "B.labels.txt")
  assert listed(root, [track], fold="train").clip_ids == ["sub/b.wav"]


def test_tables_of_no_sound_and_sounds_that_share_a_table_are_reported(tmp_path):
  root = folder(tmp_path, A="0\t1\tdog\n", b_labels="0\t1\tcat\n", c=AUDACITY)
  (root / "notes.txt").write_text("Begin Time (s) is a column\n")
  (root / "old.txt").write_text(RAVEN)
  (root / "c.flac").write_bytes((root / "c.wav").read_bytes())
  listing = listed(root, [], fold="train", background=True)
  assert {clip.partition("@")[0] for clip in listing.clip_ids} == {"a.wav", "c.wav", "sub/b.wav"}
  assert listing.remarks[:2] == [
    f"{root}: 2 tables of events have the name of no sound, left out: b_labels.txt, old.txt; "
    "write NAME.txt for NAME.wav",
    f"{root}: 1 sound shares the table of another sound, left out: c.flac; rename it",
  ]


def test_labels_that_differ_only_in_case_are_named(tmp_path):
  (remark,) = listed(folder(tmp_path, a="0\t1\tdog\n7\t8\tDog\n"), [], fold="train").remarks
  assert "labels Dog and dog differ only in case" in remark


def test_a_sound_without_events_needs_no_fold(tmp_path):
  root = folder(tmp_path, a="onset,offset,label,fold\n1,2,dog,train\n", c="onset,offset,label\n")
  assert listed(root, []).clip_ids == ["a.wav@000000.500"]
  with pytest.raises(UserError, match=r"c\.wav has no fold"):
    listed(root, [], background=True)


def test_tables_that_cannot_be_used(tmp_path):
  root, table = folder(tmp_path), tmp_path / "t.csv"
  with pytest.raises(
    UserError, match=r"no table of events; give one to --labels, or put NAME\.txt"
  ):
    listed(root, [])
  table.write_text(TABLE)
  with pytest.raises(UserError, match=r"a\.wav has no fold; give --split 80/10/10 or --fold"):
    listed(root, [table])
  with pytest.raises(UserError, match=r"line 2: label 'dog' is not among .*; did you mean /m/dgo"):
    listed(root, [table], Vocabulary(("/m/dgo",), ("Dgo",)), "train")
  with pytest.raises(UserError, match=r"line 3: label 'rain' is not among"):
    listed(root, [table], Vocabulary(("dog", "cat"), ("Dog", "Cat")), "train")
  with pytest.raises(UserError, match=r"--split-by site: .*no such column"):
    listed(root, [table], fold="train", group="site")
  table.write_text(TABLE.replace("a.wav", "x.wav"))
  with pytest.raises(UserError, match=r"no event is in one of its 3 sound files .* such as x\.wav"):
    listed(root, [table], fold="train")
  table.write_text("file,start,end,label,fold\na.wav,0,1,dog,1\na.wav,2,3,dog,2\n")
  with pytest.raises(
    UserError, match=r"line 3: a\.wav is in 2, but in 1 before; write one of them"
  ):
    listed(root, [table])


def test_unreadable_sounds_are_reported_once(tmp_path, capfd):
  root = folder(tmp_path, a=AUDACITY, c=AUDACITY)
  (root / "c.wav").write_bytes(b"no sound")
  line = ["prepare", "--layout", "events", "--audio", root, "--out", tmp_path / "s.h5"]
  assert cli.main([*map(str, line), "--fold", "train"]) == 1
  assert "1 cannot be read" in capfd.readouterr().err
  assert cli.main([*map(str, line), "--fold", "train", "--segment"]) == 2
  assert "--segment: --layout events cuts around events" in capfd.readouterr().err


def test_clips_of_a_file_are_in_one_part(tmp_path):
  root = folder(tmp_path, a="".join(f"{k}\t{k}.5\tdog\n" for k in range(10)))
  for k in range(20):
    (root / f"n{k}.wav").write_bytes((root / "a.wav").read_bytes())
    (root / f"n{k}.txt").write_text(AUDACITY)
  line = ["prepare", "--layout", "events", "--audio", root, "--out", tmp_path / "s.h5"]
  assert cli.main([*map(str, line), "--split", "50/25/25"]) == 0
  store = open_store(tmp_path / "s.h5")
  files = [clip.partition("@")[0] for clip in store.clip_ids.tolist()]
  assert len(files) > 21
  assert len({*zip(files, store.folds.tolist())}) == len({*files})


@pytest.mark.parametrize("column", ["date", "folder"])
def test_groups_are_the_column_of_that_name_or_stated_by_the_path(tmp_path, column):
  root, table = folder(tmp_path), tmp_path / "t.csv"
  options = {"fold": "train", "group": column, "background": True}
  table.write_text(TABLE)
  assert listed(root, [table], **options).groups == []
  table.write_text(f"filename,onset,offset,label,{column.title()}\na.wav,0.5,1.5,dog,x\n")
  groups = listed(root, [table], **options).groups
  assert {*groups} == {"x", "c.wav", "sub/b.wav"}
  table.write_text(table.read_text() + "c.wav,0.5,1.5,dog,\n")
  with pytest.raises(UserError, match=f"--split-by {column}: .*line 3 has no {column}, but"):
    listed(root, [table], **options)


def test_label_tracks_have_no_groups(tmp_path):
  root = folder(tmp_path, a=AUDACITY)
  with pytest.raises(
    UserError, match=r"--split-by site: .*a\.txt is a label track without columns"
  ):
    listed(root, [], fold="train", group="site")
  assert listed(root, [], fold="train", group="date").groups == []
