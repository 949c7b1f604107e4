"""The data card of a store with known content."""

import csv
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import small_store

from atgcn_jax import cli
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.ratings import read_ratings
from atgcn_jax.reports import data_card as module
from atgcn_jax.reports.data_card import data_card
from atgcn_jax.reports.data_card_files import card_markdown, write_data_card
from atgcn_jax.runs.clip_ids import clip_ids_hash, listed_id

IDS = ["-aaaaaaaaa1", "Ybbbbbbbbbb2.wav", "x/cccccccccc3_30.000.ogg", "other", "e|e", "f", "g", "h"]
FOLDS = ["train", "train", "test", "test", "train", "test", "train", "test"]
LABELS = [[0, 2], [0], [1], [], [0, 1, 2], [2], [0], [1]]
LIST = """# three of four are there
-aaaaaaaaa1, 0, 10, "/m/a,/m/c"
bbbbbbbbbb2, 0, 10, "/m/a"
cccccccccc3, 30, 40, "/m/b"
dddddddddd4, 0, 10, "/m/a,/m/d"
eeeeeeeeee5, 10, 0, "/m/a"
"""


def sounds():
  """Return eight log-mels: 1, 4 and 6 are equal, 3 and 7 are equal, and 5 is silent."""
  decibels = small_store.decibels(8)
  decibels[4] = decibels[6] = decibels[1]
  decibels[7] = decibels[3]
  decibels[5] = -100
  return decibels


def make(path, decibels=None, dtype="uint8", **changes):
  decibels = sounds() if decibels is None else decibels
  parts = {"clip_ids": IDS, "folds": FOLDS, "labels": LABELS} | changes
  small_store.write(path, decibels, dtype, **parts)
  return path


def ids_of(groups):
  return [[clip["id"] for clip in group] for group in groups["first"]]


def test_clips_and_folds(tmp_path):
  path = make(tmp_path / "store.h5")
  card = data_card(path)
  assert (card["store"], card["clips"]) == ("store.h5", 8)
  text = "".join(f"{clip_id}\n" for clip_id in sorted(IDS))
  assert card["clip_ids_sha256"] == hashlib.sha256(text.encode()).hexdigest()
  assert {fold: one["clips"] for fold, one in card["folds"].items()} == {"train": 4, "test": 4}
  test = [clip_id for clip_id, fold in zip(IDS, FOLDS) if fold == "test"]
  assert card["folds"]["test"]["clip_ids_sha256"] == clip_ids_hash(test[::-1])
  assert card["content_sha256"] == open_store(path).fingerprint


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_silent_and_duplicate_clips_for_any_chunk_size(tmp_path, monkeypatch, dtype, rows):
  path = make(tmp_path / "store.h5", dtype=dtype)
  row_bytes = small_store.FRAMES * small_store.BANDS * np.dtype(dtype).itemsize
  monkeypatch.setattr(module, "CHUNK_BYTES", rows * row_bytes)
  card = data_card(path)
  assert card["silent"] == {"count": 1, "first": ["f"]}
  assert card["not_finite"] == {"count": 0, "first": []}
  assert (card["duplicates"]["groups"], card["duplicates"]["clips"]) == (2, 5)
  assert ids_of(card["duplicates"]) == [[IDS[1], "e|e", "g"], ["other", "h"]]
  assert card["duplicates_across_folds"] == {"groups": 0, "clips": 0, "first": []}


def test_duplicates_across_folds_are_distinguished(tmp_path):
  folds = [*FOLDS[:6], "test", FOLDS[7]]
  card = data_card(make(tmp_path / "store.h5", folds=folds))
  leaks = card["duplicates_across_folds"]
  assert (leaks["groups"], leaks["clips"]) == (1, 3)
  assert leaks["first"][0][-1] == {"id": "g", "fold": "test"}
  text = card_markdown(card)
  assert "in more than one fold (leakage between folds): clips 3, groups 1." in text
  assert r"- Ybbbbbbbbbb2.wav (train), e\|e (train), g (test)" in text


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_clips_that_are_not_finite(tmp_path, dtype):
  path = make(tmp_path / "store.h5", dtype=dtype)
  small_store.spoil(path, [2])
  small_store.spoil(path, [0], np.inf)
  card = data_card(path)
  assert card["not_finite"]["first"] == [IDS[0], IDS[2]]
  assert card["silent"]["first"] == ["f"]


def test_labels(tmp_path):
  card = data_card(make(tmp_path / "store.h5"))
  assert card["labels"] == {
    "classes": 4,
    "positives": 10,
    "per_clip_mean": 10 / 8,
    "per_clip": {"0": 1, "1": 5, "2": 1, "3": 1},
    "without_a_clip": {"count": 1, "first": ["Dog"]},
  }
  assert [one["clips"] for one in card["classes"]] == [4, 3, 3, 0]
  assert card["ratings"] is None
  assert card["lists"] == []


def test_official_lists(tmp_path):
  (tmp_path / "list.csv").write_text(LIST)
  (tmp_path / "other.csv").write_text('other, 0, 10, "/m/a"\n')
  lists = [tmp_path / "list.csv", tmp_path / "other.csv"]
  with pytest.warns(UserWarning, match=r"list.csv: 1 broken row left out \(line 6"):
    card = data_card(make(tmp_path / "store.h5"), segments=lists)
  one, other = card["lists"]
  assert one == {
    "list": "list.csv",
    "segments": 4,
    "present": 3,
    "clips_matched": 3,
    "clips_matched_by_fold": {"test": 1, "train": 2},
    "broken_rows": 1,
    "repeated_rows": 0,
  }
  assert (other["segments"], other["present"]) == (1, 1)
  assert [row["listed"] for row in card["classes"]] == [[3, 1], [1, 0], [1, 0], [1, 0]]
  assert [row["present"] for row in card["classes"]] == [[2, 1], [1, 0], [1, 0], [0, 0]]
  text = card_markdown(card)
  assert "| list.csv | 4 | 3 | 75.00% | 3 | test 1, train 2 | 1 |" in text
  assert "| Äpfel | /m/a | 4 | 0 | 4 | 2 of 3 | 66.7% | 1 of 1 | 100.0% |" in text


def test_lists_of_more_labels_than_the_store_has(tmp_path):
  (tmp_path / "list.csv").write_text('other, 0, 10, "/m/z"\nf, 0, 10, "/m/z,/m/a"\n')
  (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,/m/z,Zoo\n1,/m/a,Apples\n")
  path, lists = make(tmp_path / "store.h5"), [tmp_path / "list.csv"]
  with pytest.raises(UserError, match="2 of 2 rows have unknown labels"):
    data_card(path, segments=lists)
  card = data_card(path, segments=lists, vocabulary=tmp_path / "labels.csv")
  rows = {row["id"]: (row["clips"], row["listed"], row["present"]) for row in card["classes"]}
  assert rows["/m/z"] == (0, [2], [2])
  assert rows["/m/a"] == (4, [1], [1])
  assert rows["/m/b"] == (3, [0], [0])
  assert card["labels"]["classes"] == 4


@pytest.mark.parametrize(
  ("clip_id", "expected"),
  [
    ("-aaaaaaaa_1", "-aaaaaaaa_1"),
    ("-aaaaaaaa_1.wav", "-aaaaaaaa_1"),
    ("Y-aaaaaaaa_1.wav", "-aaaaaaaa_1"),
    ("train/12/Y-aaaaaaaa_1.flac", "-aaaaaaaa_1"),
    ("a\\-aaaaaaaa_1.mp3", "-aaaaaaaa_1"),
    ("-aaaaaaaa_1_30.000", "-aaaaaaaa_1"),
    ("-aaaaaaaa_1_30000_40000.wav", "-aaaaaaaa_1"),
    ("Y-aaaaaaaa_1_30.000_40.000.wav", "-aaaaaaaa_1"),
    ("Yaaaaaaaaaa", "Yaaaaaaaaaa"),
    ("Yaaaaaaaaaa.wav", "Yaaaaaaaaaa"),
    ("YYaaaaaaaaaa.wav", "Yaaaaaaaaaa"),
    ("short", "short"),
    ("short.ogg", "short"),
    ("-aaaaaaaa_12.wav", None),
    ("short_1.ogg", None),
    ("bbbbbbbbbbb", None),
    ("", None),
  ],
)
def test_the_id_that_a_file_name_holds(clip_id, expected):
  assert listed_id(clip_id, {"-aaaaaaaa_1", "Yaaaaaaaaaa", "short"}) == expected


def test_durations_and_rates(tmp_path, monkeypatch):
  path = make(tmp_path / "store.h5")
  seconds = np.float32([0.2, 0.1, 0.3, 0.4, np.nan, 0.2, 0.199, 0.5])
  rates = np.int32([44100, 44100, 0, 8000, 8000, 8000, 8000, 48000])
  store = dataclasses.replace(open_store(path), seconds=seconds, rate_hz=rates)
  monkeypatch.setattr(module, "open_clips", lambda _, **__: store)
  card = data_card(path)
  assert card["rates_hz"] == {"0": 1, "8000": 4, "44100": 2, "48000": 1}
  durations = card["durations"]
  assert (durations["unknown"], durations["shorter_than_a_clip"]) == (1, 2)
  assert [durations[key] for key in ("min", "median", "max")] == pytest.approx([0.1, 0.2, 0.5])
  assert durations["upper_quartile"] == pytest.approx(0.35)
  text = card_markdown(card)
  assert "| shorter than a clip of 0.2 s | 2 |" in text
  assert "| 44100 Hz | 2 |" in text
  assert "| unknown | 1 |" in text


def test_a_store_without_durations(tmp_path):
  card = data_card(make(tmp_path / "store.h5"))
  assert card["durations"] is card["rates_hz"] is None
  assert "has no durations" in card_markdown(card)


RATINGS = "label_id,num_rated,num_true\n/m/a,10,9\n/m/b,20,5\n/m/d,0,0\n/m/x,4,4\n"


def test_label_quality(tmp_path):
  (tmp_path / "ratings.csv").write_text(RATINGS)
  card = data_card(make(tmp_path / "store.h5"), ratings=tmp_path / "ratings.csv")
  assert card["ratings"] == {
    "classes_rated": 2,
    "classes_not_rated": {"count": 2, "first": ["Cat", "Dog"]},
    "mean_by_class": pytest.approx((0.9 + 0.25) / 2),
    "mean_by_label": pytest.approx((4 * 0.9 + 3 * 0.25) / 7),
  }
  assert [row["quality"] for row in card["classes"]] == [0.9, 0.25, None, None]
  assert "| Birds, many | /m/b | 3 | 2 | 1 | 5 of 20 | 25% |" in card_markdown(card)


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("a,b\n", "no column label_id, num_rated, num_true"),
    ("label_id,num_rated,num_true\n", "no label"),
    ("label_id,num_rated,num_true\n/m/a,few,1\n", "line 2: few and 1 are not counts"),
    ("label_id,num_rated,num_true\n/m/a,3\n", "line 2: 3 and  are not counts"),
    ("label_id,num_rated,num_true\n,3,2\n", "line 2: the label_id is empty"),
    ("label_id,num_rated,num_true\n/m/a,3,4\n", "line 2: num_true 4 must be at most num_rated 3"),
    ("label_id,num_rated,num_true\n/m/a,3,2\n/m/a,3,2\n", "line 3: label /m/a"),
  ],
)
def test_bad_ratings(tmp_path, text, part):
  (tmp_path / "ratings.csv").write_text(text)
  with pytest.raises(UserError, match=part) as error:
    read_ratings(tmp_path / "ratings.csv")
  assert "ratings.csv" in str(error.value)


def test_the_files(tmp_path):
  card = data_card(make(tmp_path / "store.h5"))
  paths = write_data_card(tmp_path / "new" / "out", card)
  assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == [
    "store-card.json",
    "store-card.md",
  ]
  assert json.loads((tmp_path / "new/out/store-card.json").read_text(encoding="utf-8")) == card
  assert (tmp_path / "new/out/store-card.md").read_text(encoding="utf-8") == card_markdown(card)
  assert len(paths) == 2


def test_a_dataset_has_its_name_and_version(tmp_path, monkeypatch):
  store = open_store(make(tmp_path / "store.h5"))
  path = str(tmp_path / "birds" / "1.0.0")
  dataset = dataclasses.replace(store, path=path, log_mel=np.array(store.log_mel))
  monkeypatch.setattr(module, "open_clips", lambda path, finite: dataset)
  card = data_card(path)
  assert "# Data card of birds/1.0.0\n" in card_markdown(card)
  write_data_card(tmp_path / "out", card)
  assert (tmp_path / "out" / "birds-1.0.0-card.json").is_file()


def test_tables_are_complete(tmp_path):
  """Each row of a table has as many cells as its header, for any names."""
  vocabulary = dataclasses.replace(small_store.VOCABULARY, names=("a|b", "c d", "e", "f"))
  text = card_markdown(data_card(make(tmp_path / "store.h5", vocabulary=vocabulary)))
  table: list[str] = []
  for line in [*text.splitlines(), ""]:
    if line.startswith("|"):
      table.append(line.replace(r"\|", ""))
    elif table:
      rows = list(csv.reader(table, delimiter="|"))
      assert len({len(row) for row in rows}) == 1
      table = []
  assert r"| a\|b | /m/a | 4 |" in text
  assert "| c d | /m/b | 3 |" in text


def test_the_command(tmp_path, monkeypatch, capsys):
  path = make(tmp_path / "store.h5")
  monkeypatch.chdir(tmp_path)
  assert cli.main(["data-card", str(path)]) == 0
  assert (tmp_path / "store-card.md").is_file()
  assert "store-card.json" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("line", "part"),
  [
    ("", "STORE"),
    ("missing.h5", "missing.h5"),
    ("file", "file"),
    ("store.h5 --segments missing.csv", "missing.csv"),
    ("store.h5 --segments file", "file"),
    ("store.h5 --ratings missing.csv", "missing.csv"),
    ("store.h5 --vocabulary missing.csv", "missing.csv"),
    ("store.h5 --out file", "--out file"),
    ("store.h5 --out file/below", "--out file/below"),
  ],
)
def test_an_error_is_one_line(tmp_path, monkeypatch, capsys, line, part):
  make(tmp_path / "store.h5")
  (tmp_path / "file").write_text("a regular file")
  monkeypatch.chdir(tmp_path)
  try:
    status = cli.main(["data-card", *line.split()])
  except SystemExit as end:
    status = end.code
  assert status == 2
  (error,) = capsys.readouterr().err.splitlines()
  assert part in error
  assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "store.h5"]
