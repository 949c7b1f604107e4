"""A folder per label, FSD50K and UrbanSound8K, and the split of clips into folds."""

import csv
import os

import numpy as np
import pytest
import small_store
from runs_support import prepare_here
from test_layouts import label_ids, make_sound

from atgcn_jax import cli
from atgcn_jax.audio import frontend
from atgcn_jax.data.layouts.choice import check_options
from atgcn_jax.data.layouts.label_folders import list_folders
from atgcn_jax.data.layouts.listing import Row, make_listing
from atgcn_jax.data.layouts.published_tables import list_fsd50k
from atgcn_jax.data.layouts.splitting import with_split
from atgcn_jax.data.prepare import prepare
from atgcn_jax.data.store.clip_store import open_store
from atgcn_jax.errors import UserError
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.reports.data_card import data_card
from atgcn_jax.reports.data_card_files import card_markdown

KNOWN = Vocabulary(("/m/dog", "/m/rain"), ("Dog", "Rain"))


@pytest.fixture(autouse=True)
def here(monkeypatch):
  prepare_here(monkeypatch)
  monkeypatch.setitem(frontend.FRONTENDS, "talnet", small_store.FRONTEND)


def touch(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"")


def listed(root, vocabulary=None, fold=None, **options):
  listing = list_folders(root, small_store.FRONTEND, vocabulary, fold, **options)
  labels = np.split(listing.label_indices, listing.label_offsets[1:-1])
  ids = [[listing.vocabulary.ids[k] for k in row] for row in labels]
  return {
    clip: (fold, row) for clip, fold, row in zip(listing.clip_ids, listing.folds, ids)
  }, listing


def test_a_folder_per_label(tmp_path):
  touch(
    tmp_path, "dog/a.wav", "dog/day 2/b.flac", "_quiet/c.wav", "rain/d.wav", "e.wav", "dog/x.txt"
  )
  clips, listing = listed(tmp_path, fold="train")
  assert clips == {
    "_quiet/c.wav": ("train", []),
    "dog/a.wav": ("train", ["dog"]),
    "dog/day 2/b.flac": ("train", ["dog"]),
    "rain/d.wav": ("train", ["rain"]),
  }
  assert listing.remarks == [f"{tmp_path}: 1 file is in no folder of a label and left out: e.wav"]
  with pytest.raises(UserError, match=r"state labels but no folds; give --split 80/10/10"):
    listed(tmp_path)


def test_a_list_without_labels_may_be_a_folder_per_label():
  with pytest.raises(UserError, match=r"--labels: --layout list needs it; .*--layout folders; see"):
    check_options("list", {"labels": [], "vocabulary": ""})


def test_folders_of_folds(tmp_path):
  touch(tmp_path, "Train/dog/a.wav", "val/dog/b.wav", "test/rain/deep/c.wav")
  clips, listing = listed(tmp_path, KNOWN)
  assert clips == {
    "Train/dog/a.wav": ("train", ["/m/dog"]),
    "test/rain/deep/c.wav": ("test", ["/m/rain"]),
    "val/dog/b.wav": ("validation", ["/m/dog"]),
  }
  assert listing.vocabulary == KNOWN


def test_a_folder_without_labels_beside_folders_of_folds(tmp_path):
  touch(tmp_path, "train/dog/a.wav", "test/dog/b.wav", "_quiet/c.wav")
  with pytest.raises(
    UserError, match=r": _quiet has no fold; give --fold train for it, or move it"
  ):
    listed(tmp_path)
  clips, listing = listed(tmp_path, fold="validation")
  assert clips["_quiet/c.wav"] == ("validation", [])
  assert clips["test/dog/b.wav"] == ("test", ["dog"])
  assert not listing.remarks
  assert listed(tmp_path, folds=False)[0]["_quiet/c.wav"] == ("", [])
  (tmp_path / "_quiet").rename(tmp_path / "train" / "_quiet")
  assert listed(tmp_path)[0]["train/_quiet/c.wav"] == ("train", [])
  with pytest.raises(UserError, match=r"--fold x: the folders of .* state the folds; leave it out"):
    listed(tmp_path, fold="x")
  touch(tmp_path, "more/dog/d.wav")
  with pytest.raises(UserError, match=r": more is no fold, unlike test, train; move it into one"):
    listed(tmp_path, folds=False)


def test_a_label_may_have_the_name_of_a_fold(tmp_path):
  touch(tmp_path, "train/a.wav", "_quiet/b.wav")
  assert listed(tmp_path, fold="x")[1].vocabulary.ids == ("train",)


def test_folders_that_cannot_be_used(tmp_path):
  touch(tmp_path, "a.wav", "dog/a.txt", "dog/b.spx")
  with pytest.raises(UserError, match=r"no sound file in a folder of a label; 1 file of another"):
    listed(tmp_path, fold="train")
  touch(tmp_path, "dgo/a.wav")
  with pytest.raises(
    UserError, match=r"folder dgo: label 'dgo' is not among .* did you mean /m/dog"
  ):
    listed(tmp_path, KNOWN, "train")
  touch(tmp_path, "dog, loud/a.wav")
  with pytest.raises(UserError, match=r"label 'dog, loud': commas separate labels"):
    listed(tmp_path, None, "train")


def test_labels_that_differ_only_in_spelling_are_named(tmp_path):
  touch(tmp_path, "Dog/a.wav", "dog/b.wav", "Vo\u0308gel/a.wav", "V\u00f6gel/b.wav")
  _, listing = listed(tmp_path, fold="train")
  assert {remark.partition(" differ only in ")[0] for remark in listing.remarks} == {
    f"{tmp_path}: labels Dog and dog",
    f"{tmp_path}: labels Vo\u0308gel and V\u00f6gel",
  }
  touch(tmp_path, "rain /a.wav")
  with pytest.raises(UserError, match=r"label 'rain ' starts or ends with a blank; rename it"):
    listed(tmp_path, fold="train")


def test_names_that_are_not_utf8_are_reported(tmp_path):
  touch(tmp_path, "dog/a.wav", os.path.join("dog", os.fsdecode(b"\xe9.wav")))
  clips, listing = listed(tmp_path, fold="train")
  assert [*clips] == ["dog/a.wav"]
  assert len(listing.unreadable) == 1


def fsd50k_folder(root):
  """Write three recordings in the layout of FSD50K and return the folder of the tables."""
  for seed, name in enumerate(["dev_audio/1", "dev_audio/2", "eval_audio/3"]):
    make_sound(root / f"FSD50K.{name}.wav", seed)
  tables = root / "FSD50K.ground_truth"
  tables.mkdir()
  (tables / "vocabulary.csv").write_text("0,Dog,/m/dog\n1,Rain,/m/rain\n")
  (tables / "dev.csv").write_text(
    'fname,labels,mids,split\n1,"Dog,Rain","/m/dog,/m/rain",train\n2,Dog,/m/dog,val\n'
  )
  (tables / "eval.csv").write_text('fname,labels,mids\n3,Rain,"/m/rain"\n')
  return tables


def urbansound8k_folder(root):
  """Write two recordings in the layout of UrbanSound8K."""
  make_sound(root / "audio" / "fold1" / "7-3-0-0.wav")
  make_sound(root / "audio" / "fold10" / "8-9-0-0.wav", 1)
  (root / "metadata").mkdir()
  (root / "metadata" / "UrbanSound8K.csv").write_text(
    "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    "7-3-0-0.wav,7,0.0,1.0,1,1,3,dog_bark\n8-9-0-0.wav,8,0.0,1.0,1,10,9,street_music\n"
  )


def test_fsd50k(tmp_path):
  tables = fsd50k_folder(tmp_path)
  prepare(tmp_path, None, tmp_path / "s.h5", layout="fsd50k")
  store = open_store(tmp_path / "s.h5")
  assert store.vocabulary == KNOWN
  assert store.folds.tolist() == ["train", "validation", "test"]
  assert [label_ids(store, i) for i in range(3)] == [{*KNOWN.ids}, {"/m/dog"}, {"/m/rain"}]
  (tables / "dev.csv").write_text("fname,labels,mids,split\n1,Dog,/m/dog,tarin\n")
  with pytest.raises(UserError, match=r"dev\.csv, line 2: split 'tarin' is neither train nor val"):
    list_fsd50k(tmp_path, small_store.FRONTEND)
  for text in ("0,Dog\n", f"0,{'a' * 200_000},/m/dog\n"):
    (tables / "vocabulary.csv").write_text(text)
    with pytest.raises(UserError, match=r"vocabulary\.csv: not lines of index,name,mid"):
      list_fsd50k(tmp_path, small_store.FRONTEND)
  (tables / "vocabulary.csv").write_text("0,Dog,/m/dog\n1,Rain,/m/rain\n")
  (tables / "eval.csv").unlink()
  (tables / "dev.csv").write_text("fname,labels,mids,split\n1,Dog,/m/dog,train\n")
  with pytest.raises(UserError, match=r"eval\.csv: no such file; give the folder of FSD50K"):
    list_fsd50k(tmp_path, small_store.FRONTEND)


def test_urbansound8k(tmp_path):
  urbansound8k_folder(tmp_path)
  prepare(tmp_path, None, tmp_path / "s.h5", layout="urbansound8k")
  store = open_store(tmp_path / "s.h5")
  assert store.folds.tolist() == ["1", "10"]
  assert store.vocabulary.ids == ("dog_bark", "street_music")
  assert [label_ids(store, i) for i in range(2)] == [{"dog_bark"}, {"street_music"}]


def rows_of(count, labels=("a", "b")):
  return [Row(f"c{k}.wav", "", f"c{k}.wav", [labels[k % len(labels)]], "") for k in range(count)]


def folds_of(rows, *args, **options):
  listing = with_split(make_listing(rows, None, str, ""), *args, **options)
  return dict(zip(listing.clip_ids, listing.folds))


def test_a_split_by_hash_never_changes():
  many = folds_of(rows_of(2000), "80/10/10")
  few = folds_of(rows_of(200)[::-1], "80/10/10")
  assert few.items() <= many.items()
  shares = [[*many.values()].count(part) / 2000 for part in ("train", "validation", "test")]
  np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
  again = folds_of([*rows_of(100)[1:], Row("./c0.wav", "", "c0.wav", ["a"], "")], "80/10/10")
  assert again["./c0.wav"] == many["c0.wav"]


def test_a_split_keeps_groups_together():
  rows = [
    Row(f"{k}", "", f"site{k % 30}/x_202401{1 + k % 28:02d}_{k:06d}.wav", ["a"], "", f"g{k % 25}")
    for k in range(600)
  ]
  of_group = {"folder": lambda k: k % 30, "date": lambda k: k % 28, "site": lambda k: k % 25}
  for by, group in of_group.items():
    folds = folds_of(rows, "60/20/20", by)
    assert set(folds.values()) == {"train", "validation", "test"}
    pairs = {(group(int(clip)), fold) for clip, fold in folds.items()}
    assert len(pairs) == len({group(k) for k in range(600)})


def test_dates_are_the_last_in_the_path():
  rows = [
    Row(str(k), "", f"20200101/{name}", ["a"], "")
    for k, name in enumerate(["a_2024-05-06.wav", "20240506_110000.wav", "b2024.05.06 x/1.wav"])
  ]
  many = [
    *rows,
    *(Row(f"m{k}", "", f"m2023{1 + k // 28:02d}{1 + k % 28:02d}", ["a"], "") for k in range(90)),
  ]
  folds = folds_of(many, "60/20/20", "date")
  assert len({folds[str(k)] for k in range(3)}) == 1
  with pytest.raises(UserError, match=r"--split-by date: c0_20241399\.wav has no date such as"):
    folds_of([Row("c", "", "c0_20241399.wav", ["a"], "")], "80/10/10", "date")


def test_a_stratified_split_has_the_shares_of_each_label():
  labels = [["a"], ["b"], ["a", "b"], ["b", "c"], []]
  rows = [Row(f"c{k}", "", f"c{k}", labels[k % 5], "") for k in range(100)]
  folds = folds_of(rows, "80/10/10", stratify=True)
  assert folds == folds_of(rows[::-1], "80/10/10", stratify=True)
  for label, wanted in (("a", (32, 4, 4)), ("b", (48, 6, 6)), ("c", (16, 2, 2))):
    found = [folds[row.clip_id] for row in rows if label in row.labels]
    assert tuple(found.count(part) for part in ("train", "validation", "test")) == wanted
  assert [*folds.values()].count("train") == 80


def test_labels_that_a_part_lacks_are_named():
  rows = [*rows_of(60), Row("x", "", "x", ["rare"], "")]
  with pytest.warns(
    UserWarning, match="has no clip of 1 of 3 labels, such as rare; add --stratify"
  ):
    folds_of(rows, "80/10/10")
  with pytest.raises(UserError, match="--split 80/10/10: validation gets no clip of 1 groups"):
    folds_of(rows_of(1), "80/10/10", stratify=True)


@pytest.mark.parametrize("text", ["80/20", "80/10/20", "100/0/0", "a/b/c", "nan/10/10"])
def test_shares_are_checked(text):
  with pytest.raises(UserError, match=f"--split {text}: write the percentages"):
    folds_of(rows_of(9), text)


def test_the_command_splits_folders(tmp_path, capfd):
  for k in range(20):
    make_sound(tmp_path / "in" / ("dog", "rain")[k % 2] / f"{k}.wav", k)
  out = tmp_path / "s.h5"
  line = ["prepare", "--layout", "folders", "--audio", tmp_path / "in", "--out", out]
  line = [*map(str, line), "--seconds", "0.5"]
  assert cli.main([*line, "--split", "60/20/20", "--stratify"]) == 0
  store = open_store(out)
  assert store.frontend.seconds == 0.5
  card = data_card(out)
  assert card["classes"][0]["clips_by_fold"] == {"test": 2, "train": 6, "validation": 2}
  assert "| rain | rain | 10 | 2 | 6 | 2 |" in card_markdown(card)
  for wrong, message in {
    "--split-by folder": "--split-by: needs --split 80/10/10",
    "--split 80/10/10 --split-by site": "--split-by site: --layout folders has no such column",
    "--split 80/10/10 --fold x": "--fold: --split replaces all folds",
    "--split 80/10/10 --seconds 0": "--seconds 0: must be 0.1 to 60",
    "--labels x.csv": "--labels: --layout folders does not support it",
  }.items():
    assert cli.main([*line[:-2], *wrong.split()]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("column", ["site", "date"])
def test_the_groups_of_a_list_are_a_column(tmp_path, column):
  with (tmp_path / "labels.csv").open("w", newline="") as file:
    writer = csv.writer(file, delimiter=";")
    writer.writerow(["filename", column, "dog", "rain"])
    for k in range(24):
      make_sound(tmp_path / "in" / f"{k}.wav", k)
      writer.writerow([f"{k}.wav", k % 8, k % 2, 1 - k % 2])
  with pytest.warns(UserWarning, match="2 columns of 0 and 1 are labels: dog, rain$"):
    prepare(
      tmp_path / "in", tmp_path / "labels.csv", tmp_path / "s.h5", split="50/25/25", split_by=column
    )
  folds = open_store(tmp_path / "s.h5").folds
  assert all(len(set(folds[site::8])) == 1 for site in range(8))
