"""Tests of the tutorial for own data: its commands on real recordings, and its other blocks."""

import csv
import json
import re
import shutil

import h5py
import pytest
import small_store
from pages import to_run
from runs_support import REPOSITORY, prepare_here
from test_docs_runs import run
from test_notebooks import CATEGORIES

from atgcn_jax.data.layouts.label_folders import list_folders
from atgcn_jax.data.layouts.label_list import read_label_list
from atgcn_jax.serving.embed_files import read_embedded

PAGE = REPOSITORY / "docs" / "own-data.md"
OF_EACH, NEW = 4, 4  # recordings of each of the ten categories, and recordings without a label


def blocks(language):
  found = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), re.DOTALL)
  return [block for of, block in found if of == language]


def test_every_block_is_run_or_read():
  lines = [line for block in blocks("sh") for line in block.splitlines()]
  assert len(lines) == len(to_run(PAGE, measuring=False))
  # The blocks without a language are the folder and the tables of the next two tests.
  assert [block.split()[0][:9] for block in blocks("")] == ["sounds/", "filename,", "filename;"]
  assert PAGE.read_text().count("```") == 2 * (len(blocks("sh")) + 3)


def test_the_folder_has_the_labels_of_the_page(tmp_path):
  for name in re.findall(r"^  (\S+)", blocks("")[0], re.MULTILINE):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  listing = list_folders(tmp_path, small_store.FRONTEND, None, "train")
  files = ["_background/four.wav", "dog/garden/two.flac", "dog/one.wav", "rain/three.mp3"]
  assert listing.clip_ids == files
  assert listing.label_indices.tolist() == [0, 0, 1]
  assert listing.vocabulary.ids == ("dog", "rain")


def test_both_tables_say_the_same(tmp_path):
  files = [tmp_path / "list.csv", tmp_path / "columns.csv"]
  for file, block in zip(files, blocks("")[1:]):
    file.write_text(block)
  with pytest.warns(UserWarning, match="2 columns of 0 and 1 are labels: dog, rain"):
    one, other = (read_label_list(file, folds=False) for file in files)
  assert one == other
  assert [row.labels for row in one] == [["dog"], ["dog", "rain"], []]


@pytest.fixture
def place(shared, tmp_path, monkeypatch):
  """Return a folder with recordings in the three layouts of the page."""
  esc10 = shared.resolve() / "data/esc10"
  with (esc10 / "labels.csv").open(newline="") as file:
    of = {
      row["filename"]: next(filter(None, map(CATEGORIES.get, row["positive_labels"].split(","))))
      for row in csv.DictReader(file)
    }
  labels, table = sorted(set(of.values())), ["filename,positive_labels"]
  for folder in ("clips", "calls"):
    (tmp_path / folder).mkdir()
  for label in labels:
    (tmp_path / "sounds" / label).mkdir(parents=True)
    for name in [name for name in of if of[name] == label][:OF_EACH]:
      for path in (f"sounds/{label}/{name}", f"clips/{name}", f"calls/{name}"):
        (tmp_path / path).symlink_to(esc10 / "audio" / name)
      (tmp_path / f"calls/{name}").with_suffix(".txt").write_text(f"0.0\t3.0\t{label}\n")
      table.append(f"{name},{label}")
  for name in list(of)[-NEW:]:
    (tmp_path / f"clips/{name}").symlink_to(esc10 / "audio" / name)
  (tmp_path / "labels.csv").write_text("\n".join([*table, ""]))
  shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
  monkeypatch.chdir(tmp_path)
  prepare_here(monkeypatch)
  return tmp_path, labels


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:--split 80/10/10")  # four clips of each label
def test_the_commands_run_on_real_recordings(place, capsys):
  folder, labels = place
  given = to_run(PAGE, measuring=False)
  assert [words[0] for words in given[:4]] == ["prepare"] * 3 + ["data-card"]
  # The last one is that of folders, so that the rest of the page is about these clips.
  for words in reversed(given[:3]):
    run(words)
    with h5py.File("clips.h5") as store:
      assert len(store["clip_ids"]) == OF_EACH * len(labels)
      assert set(store["folds"].asstr()) == {"train", "validation", "test"}
      assert json.loads(store.attrs["settings"])["label_ids"] == labels
  printed = {}
  for words in given[3:]:
    capsys.readouterr()
    run(words)
    printed[words[0]] = capsys.readouterr().out
  assert "mAP" in printed["evaluate"]
  assert "95 %" in printed["compare"]
  assert "mAP" in (folder / "runs/mine/report.html").read_text()
  for name in labels:
    assert name in (folder / "card/clips-card.md").read_text()
  files = {f"clips/{path.name}" for path in (folder / "clips").iterdir()}
  assert set(read_embedded("vectors.npz").file) == files
  with open("when.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert {row["file"] for row in rows} == files
  assert {row["mid"] for row in rows} <= set(labels)
  with open("next.csv", newline="") as file:
    suggested = [row["file"] for row in csv.DictReader(file)]
  labelled = {f"clips/{row.filename}" for row in read_label_list("labels.csv", folds=False)}
  assert sorted(suggested) == sorted(files - labelled)
  assert len(suggested) == NEW
  assert (folder / "mine/README.md").is_file()
