"""Data sets in their published layouts: AudioSet segments, ESC-50, SONYC-UST."""

import csv
import gzip
import os
import pathlib

import numpy as np
import pytest
import soundfile
from runs_support import prepare_here

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts import esc50
from atgcn_jax.data.layouts.label_list import read_label_list
from atgcn_jax.data.layouts.segments import list_segments, read_segment_list
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ontology import read_ontology
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

TALNET = frontend.FRONTENDS["talnet"]
VOCABULARY = "index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n2,/m/c,C\n"


@pytest.fixture(autouse=True)
def here(monkeypatch):
  prepare_here(monkeypatch)


def make_sound(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  sound = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000)
  with path.open("wb") as file:
    soundfile.write(file, sound, 16000, format=path.suffix[1:].upper())


def label_ids(store, clip):
  return {store.vocabulary.ids[k] for k in store.labels_of(np.array([clip]))[1]}


IDS = ["--4gqARaEJE", "Y0123456789", "_a_b_c_d_e_", "abcdefghijk", "0bNOTTHERE0", "zzzzzzzzzzz"]
SEGMENTS = f"""# Segments csv created some day
# num_ytids=6, num_segs=6
# YTID, start_seconds, end_seconds, positive_labels
{IDS[0]}, 0.000, 10.000, "/m/a,/m/b"
{IDS[1]}, 30.000, 40.000, "/m/b"
{IDS[2]}, 20.500, 30.500, "/m/c"
{IDS[3]}, 470.000, 480.000, "/m/a"
{IDS[4]}, 5.000, 15.000, "/m/a"
{IDS[5]}, 60.000, 70.000, "/m/c"
"""
# The files of each clip, in all naming schemes in use.
FORMS = [
  [f"{IDS[0]}.wav", f"Y{IDS[1]}.wav", f"{IDS[2]}_20.500_30.500.flac", f"{IDS[3]}_470000.ogg"],
  [f"Y{IDS[0]}_0.000.wav", f"{IDS[1]}_30.wav", f"sub/{IDS[2]}.flac", f"a/b/{IDS[3]}_470_480.wav"],
  [f"{IDS[0]}_0_10000.wav", f"{IDS[1]}.wav", f"{IDS[2]}_20500.wav", f"Y{IDS[3]}_470000_480000.wav"],
]


@pytest.mark.parametrize("form", FORMS)
def test_segments(tmp_path, form):
  strange = os.fsdecode(b"caf\xe9")  # a folder name that is not UTF-8
  for seed, name in enumerate([*form, f"{IDS[5]}_0_10.wav", "other.wav"]):
    make_sound(tmp_path / "clips" / strange / name, seed)
  (tmp_path / "clips" / strange / form[0]).write_bytes(b"no sound")
  (tmp_path / "clips" / f"{IDS[4]}.json").write_text("{}")
  with gzip.open(tmp_path / "unbalanced_train_segments.csv.gz", "wt") as file:
    file.write(SEGMENTS)
  out = tmp_path / "s.h5"
  lists = [tmp_path / "unbalanced_train_segments.csv.gz"]
  # For the last one, the folder has another piece.
  assert prepare(tmp_path / "clips", lists, out, layout="segments") == (3, 2, 1)
  store = open_store(out)
  assert store.clip_ids.tolist() == IDS[1:4]
  assert store.folds.tolist() == ["train"] * 3
  assert store.vocabulary.ids == ("/m/a", "/m/b", "/m/c")
  assert [label_ids(store, i) for i in range(3)] == [{"/m/b"}, {"/m/c"}, {"/m/a"}]
  with (tmp_path / "s.h5.unreadable.csv").open(errors="surrogateescape") as file:
    report = list(csv.reader(file))
  assert report[:3] == [["file", "reason"], [IDS[4], "not there"], [IDS[5], "not there"]]
  assert report[3][0] == f"{strange}/{form[0]}"
  assert len(report) == 4


def test_readable_files_are_preferred_and_then_files_higher_up(tmp_path):
  for name in (f"{IDS[0]}.mp3", f"{IDS[0]}.m4a", f"b/{IDS[0]}.wav", f"a/{IDS[0]}.wav"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  path = tmp_path / "eval_segments.csv"
  path.write_text(f'{IDS[0]}, 0.000, 10.000, "/m/a"\n')
  assert list_segments(tmp_path, [path], TALNET, None, None).sources == [f"a/{IDS[0]}.wav"]


BROKEN = f"""# comment
{IDS[0]}, 0.000, 10.000, "/m/a"
{IDS[1]}, 30.000, 40.000, /m/b,/m/a
{IDS[2]}, 30.500, 20.500, "/m/c"
{IDS[3]}, -1.000, 9.000, "/m/a"

{IDS[4]}, five, 15.000, "/m/a"
{IDS[4]}, nan, 15.000, "/m/a"
{IDS[5]}, 60.000, 70.000, "/m/c
{IDS[5]}, 60.000, 70.000, ""
{IDS[5]}, 60.000
{IDS[3]}, 470.000, 480.000, "/m/b"
{IDS[0]}, 20.000, 30.000, "/m/c"
"""


def test_broken_rows_and_repeated_ids_are_counted(tmp_path):
  for seed, clip_id in enumerate(IDS):
    make_sound(tmp_path / "clips" / f"{clip_id}.wav", seed)
  path = tmp_path / "balanced_train_segments.csv"
  path.write_text(BROKEN)
  with pytest.warns(UserWarning, match="left out") as warned:
    built = prepare(tmp_path / "clips", [path], tmp_path / "s.h5", layout="segments")
  assert built == (2, 0, 0)
  store = open_store(tmp_path / "s.h5")
  assert store.clip_ids.tolist() == [IDS[0], IDS[3]]
  assert [label_ids(store, i) for i in range(2)] == [{"/m/a"}, {"/m/b"}]
  broken, repeated = [str(warning.message) for warning in warned if warning.category is UserWarning]
  assert broken == (
    f"{path}: 8 broken rows are left out; "
    'line 3: 5 fields instead of 4, YTID, start, end, "id,id"; '
    "line 4: times 30.500 to 20.500 are negative or out of order; "
    "line 5: times -1.000 to 9.000 are negative or out of order"
  )
  assert repeated.endswith(f"1 rows repeat an id and are left out (the first is used): {IDS[0]}")


@pytest.mark.filterwarnings("default")
def test_the_command_shows_the_broken_rows(tmp_path, capfd):
  make_sound(tmp_path / "clips" / f"{IDS[0]}.wav")
  make_sound(tmp_path / "clips" / f"{IDS[3]}.wav")
  (tmp_path / "eval.csv").write_text(BROKEN)
  line = ["prepare", "--layout", "segments", "--audio", tmp_path / "clips"]
  line += ["--labels", tmp_path / "eval.csv", "--out", tmp_path / "s.h5"]
  assert cli.main(list(map(str, line))) == 0
  first, second, *_ = capfd.readouterr().err.splitlines()
  assert first.startswith(f"atgcn: {tmp_path / 'eval.csv'}: 8 broken rows")
  assert "repeat an id" in second
  assert set(open_store(tmp_path / "s.h5").folds) == {"eval"}


def test_all_rows_of_the_published_lists_are_valid(shared):
  remarks = []
  path = shared / "data/audioset/balanced_train_segments.csv"
  segments = list(read_segment_list(path, remarks))
  assert len(segments) == 22160
  assert not remarks
  assert segments[0] == ("--PJHxphWEs", 30.0, 40.0, ["/m/09x0r", "/t/dd00088"])


def esc50_folder(folder, categories, esc10=()):
  """Return a folder like ESC-50 with two recordings per category."""
  rows = []
  for target, category in enumerate(categories):
    for fold in (1, 4):
      name = f"{fold}-{1000 + target}-A-{target}.wav"
      make_sound(folder / "audio" / name, target)
      rows.append((name, fold, target, category, category in esc10, 1000 + target, "A"))
  (folder / "meta").mkdir()
  with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
    header = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    csv.writer(file).writerows([header, *rows])


ESC10 = {
  "001": "dog",
  "002": "rain",
  "003": "sea_waves",
  "004": "crying_baby",
  "005": "clock_tick",
  "006": "sneezing",
  "007": "helicopter",
  "008": "chainsaw",
  "009": "rooster",
  "010": "crackling_fire",
}


def test_esc10_has_the_manually_assigned_labels(shared, tmp_path):
  esc50_folder(tmp_path / "esc", [*ESC10.values(), "pig"], ESC10.values())
  out = tmp_path / "s.h5"
  built = prepare(
    tmp_path / "esc",
    None,
    out,
    layout="esc50",
    vocabulary=shared / "data/audioset/class_labels_indices.csv",
    ontology=shared / "data/audioset/ontology.json",
    esc10=True,
    used_labels_only=True,
  )
  assert built == (20, 0, 0)
  store = open_store(out)
  assert store.folds.tolist() == ["1", "4"] * 10
  wanted = {row.filename[:3]: set(row.labels) for row in read_label_list(shared / ESC10_LIST)}
  assert len(wanted) == 10
  for clip, number in enumerate(ESC10):
    assert label_ids(store, 2 * clip) == wanted[number]
  assert len(store.vocabulary) == 26


ESC10_LIST = pathlib.Path("data/esc10/labels.csv")


def test_all_fifty_categories_have_a_label_of_audioset(shared):
  known = read_vocabulary(shared / "data/audioset/class_labels_indices.csv")
  ontology = read_ontology(shared / "data/audioset/ontology.json")
  assert len(esc50.LABELS) == 50
  assert set(esc50.LABELS.values()) <= known.index.keys() & ontology.names.keys()
  assert len(set(esc50.LABELS.values())) == 50
  names = {category: ontology.names[label] for category, label in esc50.LABELS.items()}
  assert names["sheep"] == "Sheep"
  assert names["airplane"] == "Fixed-wing aircraft, airplane"
  assert names["hand_saw"] == "Sawing"


PRESENCES = ["1-1_small-engine", "1-X_other-unknown-engine", "8-1_dog-barking", "1_engine", "8_dog"]
ANNOTATIONS = [
  # split, name, annotator, and presences in the order above
  ("train", "00_0.wav", 17, [1, 0, 0, 1, 0]),
  ("train", "00_0.wav", 18, [0, 0, 1, 0, 1]),
  ("train", "00_0.wav", 19, [-1, -1, 0, -1, 0]),
  ("validate", "01_1.wav", 17, [1, 1, 1, 1, 1]),
  ("validate", "01_1.wav", 0, [0, 1, 0, 1, -1]),
  ("validate", "01_1.wav", 20, [1, 1, 1, 1, 1]),
  ("test", "02_2.wav", -3, [0, 0, 0, 0, ""]),
  ("test", "gone.wav", -3, [0, 0, 0, 0, 1]),
]


def write_annotations(path, rows=ANNOTATIONS):
  columns = [f"{name}_presence" for name in PRESENCES]
  header = ["split", "sensor_id", "audio_filename", "annotator_id", *columns, "1_engine_proximity"]
  with path.open("w", newline="") as file:
    csv.writer(file).writerow(header)
    csv.writer(file).writerows([s, 1, name, who, *said, "near"] for s, name, who, said in rows)


def test_sonyc(tmp_path):
  write_annotations(tmp_path / "annotations.csv")
  for name in ("audio/00_0.wav", "audio/01_1.wav", "more/02_2.wav"):
    make_sound(tmp_path / "data" / name)
  out = tmp_path / "s.h5"
  built = prepare(tmp_path / "data", tmp_path / "annotations.csv", out, layout="sonyc")
  assert built == (3, 1, 0)
  store = open_store(out)
  assert store.clip_ids.tolist() == ["00_0.wav", "01_1.wav", "02_2.wav"]
  assert store.folds.tolist() == ["train", "validation", "test"]
  # Coarse labels come first.
  assert store.vocabulary.ids == ("1_engine", "8_dog", *PRESENCES[:3])
  assert store.vocabulary.names == (
    "engine",
    "dog",
    "small-engine",
    "other-unknown-engine",
    "dog-barking",
  )
  assert label_ids(store, 0) == {"1_engine", "8_dog", "1-1_small-engine", "8-1_dog-barking"}
  assert label_ids(store, 1) == {"1_engine", "1-X_other-unknown-engine"}
  assert label_ids(store, 2) == set()
  assert (tmp_path / "s.h5.unreadable.csv").read_text() == "file,reason\ngone.wav,not there\n"


def segments(folder, text, name="eval.csv"):
  (folder / "list").mkdir()
  (folder / "list" / name).write_text(text)
  return {"layout": "segments", "labels": [folder / "list" / name]}


def esc(folder, change):
  esc50_folder(folder / "esc", ["dog"])
  table = folder / "esc" / "meta" / "esc50.csv"
  table.write_text(change(table.read_text()))
  (folder / "v.csv").write_text("index,mid,display_name\n0,/m/05tny_,Bark\n")
  nodes = ",".join(f'{{"id": "{i}", "name": "n", "child_ids": []}}' for i in esc50.LABELS.values())
  (folder / "ontology.json").write_text(f"[{nodes}]")
  return {
    "layout": "esc50",
    "audio": folder / "esc",
    "labels": None,
    "vocabulary": folder / "v.csv",
    "ontology": folder / "ontology.json",
  }


def sonyc(folder, change=lambda text: text, rows=ANNOTATIONS):
  write_annotations(folder / "annotations.csv", rows)
  path = folder / "annotations.csv"
  path.write_text(change(path.read_text()))
  return {"layout": "sonyc", "labels": path}


GOOD = f'{IDS[0]}, 0, 10, "/m/a"\n'
BAD = {
  "none of the clips": (lambda f: segments(f, f'{IDS[1]}, 0, 10, "/m/a"\n'), "contains none of"),
  "no fold": (lambda f: segments(f, GOOD, "some.csv"), "--fold"),
  "only broken rows": (lambda f: segments(f, "a, b\n"), "contains no segment (line 1: 2 fields"),
  "a foreign label": (
    lambda f: segments(f, GOOD.replace("/m/a", "/m/x")) | {"vocabulary": f / "vocabulary.csv"},
    "'/m/x'",
  ),
  "no lists": (lambda f: {"layout": "segments", "labels": None}, "--labels"),
  "two label lists": (lambda f: {"labels": [f / "a.csv", f / "b.csv"]}, "--labels"),
  "two folders": (lambda f: {"labels": f / "a.csv", "audio": [f, f]}, "--audio"),
  "an option of others": (lambda f: {"labels": f / "a.csv", "ontology": f / "o"}, "--ontology"),
  "esc50 without a vocabulary": (
    lambda f: {"layout": "esc50", "labels": None, "ontology": "o"},
    "--vocabulary",
  ),
  "esc50 without its table": (
    lambda f: esc(f, str) | {"audio": f / "audio"},
    "esc50.csv: no such file",
  ),
  "esc50 of other columns": (lambda f: esc(f, lambda t: t.replace("esc10", "x")), "esc10"),
  "esc50 of other categories": (lambda f: esc(f, lambda t: t.replace("dog", "fox")), "'fox'"),
  "esc50 without a fold": (lambda f: esc(f, lambda t: t.replace(",1,", ",,")), "field is empty"),
  "esc50 cut short": (lambda f: esc(f, lambda t: t[:-20]), "line 3"),
  "esc50 without esc10": (lambda f: esc(f, str) | {"esc10": True}, "lists no recording"),
  "sonyc of other columns": (lambda f: sonyc(f, lambda t: t.replace("split", "x")), "column split"),
  "sonyc without presences": (
    lambda f: sonyc(f, lambda t: t.replace("_presence", "")),
    "NUMBER_NAME_presence",
  ),
  "sonyc with a word": (lambda f: sonyc(f, lambda t: t.replace("17,1,", "17,yes,")), "line 2"),
  "sonyc of no row": (lambda f: sonyc(f, rows=[]), "lists no recording"),
  "sonyc's sounds elsewhere": (sonyc, "contains none of the 4 recordings"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, bad):
  make_sound(tmp_path / "audio" / f"{IDS[0]}.wav")
  (tmp_path / "vocabulary.csv").write_text(VOCABULARY)
  make, names = BAD[bad]
  options = {"audio": tmp_path / "audio"} | make(tmp_path)
  out = tmp_path / "out" / "s.h5"
  with pytest.raises(UserError) as caught:
    prepare(options.pop("audio"), options.pop("labels"), out, **options)
  assert names in str(caught.value)
  assert "\n" not in str(caught.value)
  assert "; " in str(caught.value)
  assert not out.parent.exists()


def test_a_vocabulary_orders_the_labels(tmp_path):
  make_sound(tmp_path / "audio" / f"{IDS[0]}.wav")
  (tmp_path / "vocabulary.csv").write_text(VOCABULARY)
  options = segments(tmp_path, GOOD) | {"vocabulary": tmp_path / "vocabulary.csv", "fold": "mine"}
  prepare(tmp_path / "audio", options.pop("labels"), tmp_path / "s.h5", **options)
  store = open_store(tmp_path / "s.h5")
  assert store.vocabulary == Vocabulary(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
  assert store.folds.tolist() == ["mine"]
