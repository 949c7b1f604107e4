import csv
import gzip

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import read_arrays, text_lines
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary, rows_by_id, write_vocabulary

HEADER = "index,mid,display_name\n"


def one_line(error, *parts):
  message = str(error.value)
  assert "\n" not in message
  for part in parts:
    assert str(part) in message


def test_positions_follow_the_ids():
  vocabulary = Vocabulary(("/m/b", "/m/a", "/t/c"), ("B", "A", "C"))
  assert len(vocabulary) == 3
  assert vocabulary.index == {"/m/b": 0, "/m/a": 1, "/t/c": 2}
  assert vocabulary.indices(["/t/c", "/m/b", "/t/c"], where="x") == [2, 0, 2]


def test_unknown_label_is_named_with_its_place():
  vocabulary = Vocabulary(("/m/a",), ("A",))
  with pytest.raises(UserError) as error:
    vocabulary.indices(["/m/a", "/m/zz"], where="list.csv, line 7")
  one_line(error, "/m/zz", "list.csv, line 7")


@pytest.mark.parametrize(
  ("ids", "names"),
  [(("a", "b"), ("A",)), (("a", "a"), ("A", "B")), (("",), ("A",)), (("a,b",), ("A",))],
)
def test_vocabulary_refuses_invalid_ids(ids, names):
  with pytest.raises(ValueError, match="id"):
    Vocabulary(ids, names)


@pytest.mark.parametrize("text", ["a\nb", "a\0", "\x1b[31m", "a\x7f", "a\u2028b"])
def test_vocabulary_refuses_control_characters(text):
  with pytest.raises(ValueError, match="control characters") as caught:
    Vocabulary(("a",), (text,))
  assert str(caught.value).isprintable()
  with pytest.raises(ValueError, match="control characters"):
    Vocabulary((text,), ("a",))


def test_round_trip(tmp_path):
  names = ("Male speech, man speaking", 'the "odd" one', "  padded ", "", "Gesäß")
  vocabulary = Vocabulary(tuple(f"/m/{k}" for k in range(len(names))), names)
  write_vocabulary(tmp_path / "labels.csv", vocabulary)
  assert read_vocabulary(tmp_path / "labels.csv") == vocabulary


def test_rows_are_sorted_by_index_and_columns_found_by_name(tmp_path):
  path = tmp_path / "labels.csv"
  path.write_text("\ufeffmid,display_name,index\n/m/b,Bee,1\n/m/c,Cat,2\n/m/a,Ant,0\n")
  assert read_vocabulary(path) == Vocabulary(("/m/a", "/m/b", "/m/c"), ("Ant", "Bee", "Cat"))


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("", "index,mid,display_name"),
    (HEADER, "no labels"),
    ("index,mid\n0,/m/a\n", "display_name"),
    (HEADER + "0,/m/a,A\n2,/m/b,B\n", "index 1"),
    (HEADER + "1,/m/a,A\n2,/m/b,B\n", "index 0"),
    (HEADER + "0,/m/a,A\n0,/m/b,B\n", "line 3"),
    (HEADER + "0,/m/a,A\nx,/m/b,B\n", "'x'"),
    (HEADER + "0,/m/a,A\n-1,/m/b,B\n", "'-1'"),
    (HEADER + "0,/m/a,A\n1,/m/a,B\n", "/m/a"),
    (HEADER + "0,,A\n", "empty"),
    (HEADER + "0,/m/a\n", "line 2"),
    (HEADER + "0,/m/a,A, B\n", "line 2"),
    (HEADER + '0,/m/a,"A\n', "not CSV"),
  ],
)
def test_bad_vocabulary(tmp_path, text, part):
  path = tmp_path / "labels.csv"
  path.write_text(text)
  with pytest.raises(UserError) as error:
    read_vocabulary(path)
  one_line(error, path, part)


def test_unreadable_text(tmp_path):
  (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
  (tmp_path / "plain.csv.gz").write_text("no gzip")
  (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"0123456789" * 1000)[:-12])
  for name in ("missing.csv", "", "binary.csv", "plain.csv.gz", "cut.csv.gz"):
    with pytest.raises(UserError) as error:
      list(text_lines(tmp_path / name))
    one_line(error, tmp_path / name)


def test_lines_end_at_newlines_only(tmp_path):
  (tmp_path / "words.txt.gz").write_bytes(gzip.compress("a\rb 1\nc\x85d 2".encode()))
  assert list(text_lines(tmp_path / "words.txt.gz")) == ["a\rb 1\n", "c\x85d 2"]


def test_arrays_round_trip_and_bad_files_are_named(tmp_path):
  np.savez(tmp_path / "good.npz", a=np.arange(3), b=np.array(["x"]))
  arrays = read_arrays(tmp_path / "good.npz")
  assert sorted(arrays) == ["a", "b"]
  np.testing.assert_array_equal(arrays["a"], [0, 1, 2])
  np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
  np.save(tmp_path / "single.npy", np.arange(3))
  (tmp_path / "single.npy").rename(tmp_path / "single.npz")
  (tmp_path / "text.npz").write_text("mids")
  (tmp_path / "empty.npz").write_bytes(b"")
  (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
  for name in ("missing", "objects", "single", "text", "empty", "cut"):
    with pytest.raises(UserError) as error:
      read_arrays(tmp_path / f"{name}.npz")
    one_line(error, tmp_path / f"{name}.npz")


def test_rows_by_id():
  vocabulary = Vocabulary(("c", "a"), ("C", "A"))
  np.testing.assert_array_equal(rows_by_id("f", np.array(["a", "b", "c"]), vocabulary), [2, 0])
  for mids, part in ((["a", "b"], "c"), (["a", "c", "a"], "repeats"), ([1, 2], "mids")):
    with pytest.raises(UserError) as error:
      rows_by_id("f.npz", np.array(mids), vocabulary)
    one_line(error, "f.npz", part)


def test_audioset(shared, tmp_path):
  path = shared / "data/audioset/class_labels_indices.csv"
  vocabulary = read_vocabulary(path)
  assert len(vocabulary) == 527
  assert vocabulary.ids[0] == "/m/09x0r"
  assert vocabulary.names[1] == "Male speech, man speaking"
  write_vocabulary(tmp_path / "copy.csv", vocabulary)
  with open(path, newline="") as old, open(tmp_path / "copy.csv", newline="") as new:
    assert list(csv.reader(old)) == list(csv.reader(new))


def test_audiosets_labels_are_in_the_package(shared):
  official = shared / "data/audioset/class_labels_indices.csv"
  assert len(read_vocabulary("audioset")) == 527
  assert read_vocabulary("audioset") == read_vocabulary(official)
