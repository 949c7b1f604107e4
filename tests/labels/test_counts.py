import gzip

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import (
  Counts,
  check_counts,
  count_labels,
  left_out,
  load_counts,
  read_segments,
)
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

ABC = Vocabulary(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
SEGMENTS = """# Segments csv, "made up
# YTID, start_seconds, end_seconds, positive_labels
-x, 0.000, 10.000, "/m/a,/m/c"
--y, 30.000, 40.000, "/m/b"

#z is a comment, too
w, 0.000, 10.000, ""
v, 0.250, 9.750, "/m/c,/m/a,/m/c"
"""


def counted_by_loops(clips, num_classes):
  occurrences = np.zeros(num_classes, int)
  pairs = np.zeros((num_classes, num_classes), int)
  for clip in clips:
    for i in set(clip):
      occurrences[i] += 1
      for j in set(clip) - {i}:
        pairs[i, j] += 1
  return occurrences, pairs


def test_counts_equal_loops_and_do_not_change_the_input():
  random = np.random.RandomState(0)
  clips = [random.randint(0, 9, random.randint(0, 6)).tolist() for _ in range(300)]
  offsets = np.cumsum([0] + [len(clip) for clip in clips])
  labels = np.concatenate(clips).astype(np.int64)
  before = labels.copy()
  counts = count_labels(offsets, labels, 10)
  occurrences, pairs = counted_by_loops(clips, 10)
  np.testing.assert_array_equal(counts.occurrences, occurrences)
  np.testing.assert_array_equal(counts.cooccurrences, pairs)
  assert counts.occurrences.dtype == counts.cooccurrences.dtype == np.int64
  assert occurrences[9] == 0
  np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("offsets", [[0], [0, 0, 0]])
def test_no_labels_count_zero(offsets):
  counts = count_labels(np.array(offsets), np.array([], int), 2)
  assert not counts.occurrences.any()
  assert counts.cooccurrences.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
  ("offsets", "labels"),
  [
    ([0, 2], [0]),
    ([1, 1], [0]),
    ([0, 2, 1, 3], [0, 1, 2]),
    ([0, 1], [3]),
    ([0, 1], [-1]),
    ([], []),
  ],
)
def test_bad_layout(offsets, labels):
  with pytest.raises(ValueError, match="must"):
    count_labels(np.array(offsets, int), np.array(labels, int), 3)


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz"])
def test_segments(tmp_path, name):
  data = SEGMENTS.encode()
  (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
  segments = read_segments(tmp_path / name, ABC)
  assert segments.clip_ids == ["-x", "--y", "w", "v"]
  assert segments.starts.tolist() == [0, 30, 0, 0.25]
  assert segments.ends.tolist() == [10, 40, 10, 9.75]
  assert segments.offsets.tolist() == [0, 2, 3, 3, 6]
  assert segments.label_indices.tolist() == [0, 2, 1, 2, 0, 2]
  assert (segments.broken, segments.examples, segments.repeated) == (0, [], 0)
  assert left_out("list", segments) == ""
  counts = count_labels(segments.offsets, segments.label_indices, 3)
  assert counts.occurrences.tolist() == [2, 1, 2]
  assert counts.cooccurrences.tolist() == [[0, 0, 2], [0, 0, 0], [2, 0, 0]]


@pytest.mark.parametrize(
  "row",
  [
    'y, 1.5, 11.5, "/m/c,/m/a"',
    'y,1.5,11.5,"/m/c,/m/a"',
    '"y", 1.5, 11.5, "/m/c,/m/a"',
    'y,  1.5,  11.5,  "/m/c, /m/a"  ',
    'y, 1.5, 11.5, "/m/c,/m/a"\r',
    'y, 1.5, 11.5, "/m/c,/m/a,"',
  ],
)
def test_other_spellings_of_a_row(tmp_path, row):
  (tmp_path / "list.csv").write_bytes(f"{row}\nz, 0, 10, /m/b\n".encode())
  segments = read_segments(tmp_path / "list.csv", ABC)
  assert segments.clip_ids == ["y", "z"]
  assert segments.starts.tolist() == [1.5, 0]
  assert segments.label_indices.tolist() == [2, 0, 1]
  assert segments.broken == 0


@pytest.mark.parametrize(
  ("row", "reason"),
  [
    ('y, 0.000, 10.000, "/m/a,/m/x"', "'/m/x'"),
    ("y, 0.000, 10.000", "3 fields"),
    ("y, 0.000, 10.000, /m/a,/m/b", "5 fields"),
    ('y, 0.000, 10.000, "/m/a', "not CSV"),
    ('y, 0.000, 10.000, "/m/a" "/m/b"', "not CSV"),
    ('y, zero, 10.000, "/m/a"', "times zero and 10.000"),
    ('y, 0.000, , "/m/a"', "times 0.000 and "),
    ('y, 10.000, 0.000, "/m/a"', "out of order"),
    ('y, 10.000, 10.000, "/m/a"', "out of order"),
    ('y, -1.000, 10.000, "/m/a"', "negative"),
    ('y, nan, 10.000, "/m/a"', "nan"),
    ('y, 0.000, inf, "/m/a"', "inf"),
    (', 0.000, 10.000, "/m/a"', "no id"),
  ],
)
def test_a_broken_row_is_left_out(tmp_path, row, reason):
  path = tmp_path / "list.csv"
  path.write_text(f'# comment\nx, 0, 10, "/m/a"\n{row}\nz, 0, 10, "/m/b"\n')
  segments = read_segments(path, ABC)
  assert segments.clip_ids == ["x", "z"]
  assert segments.offsets.tolist() == [0, 1, 2]
  assert segments.label_indices.tolist() == [0, 1]
  assert segments.broken == 1
  (example,) = segments.examples
  assert example.startswith("line 3: ")
  assert reason in example
  text = left_out(path, segments)
  assert text == f"{path}: 1 broken row left out ({example}); 2 used"


def test_the_first_of_many_broken_rows_and_repeated_ids(tmp_path):
  path = tmp_path / "list.csv"
  sound = "".join(f'{i}, 0, {i + 1}, "/m/a"\n' for i in range(9))
  again = '3, 5, 6, "/m/b"\n'
  path.write_text("a, b\n" + sound + again + again + "c\n" * 4)
  segments = read_segments(path, ABC)
  assert segments.clip_ids == list("012345678")
  assert segments.ends[3] == 4, "the first row of an id is kept"
  assert (segments.broken, segments.repeated) == (5, 2)
  assert [example.split(":")[0] for example in segments.examples] == [
    "line 1",
    "line 13",
    "line 14",
  ]
  text = left_out(path, segments)
  assert "5 broken rows" in text
  assert "2 rows with a repeated id left out; 9 used" in text
  assert "\n" not in text


def test_a_list_for_another_vocabulary_is_refused(tmp_path):
  path = tmp_path / "list.csv"
  row = '{}, 0, 10, "/m/{}"\n'
  path.write_text("".join(row.format(i, "ax"[i % 2]) for i in range(8)))
  assert read_segments(path, ABC).broken == 4
  path.write_text("".join(row.format(i, "ax"[i % 3 > 0]) for i in range(9)))
  with pytest.raises(UserError, match=r"6 of 9 rows have unknown labels \(line 2: .*/m/x") as error:
    read_segments(path, ABC)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)


def test_a_list_without_valid_segments_is_refused(tmp_path):
  (tmp_path / "empty.csv").write_text("# nothing\n")
  (tmp_path / "broken.csv").write_text("a, b\n")
  for name, part in (
    ("missing", "no such file"),
    ("empty", "no valid segment;"),
    ("broken", "line 1: 2"),
  ):
    with pytest.raises(UserError, match=f"{name}.csv.*{part}"):
      read_segments(tmp_path / f"{name}.csv", ABC)


OCCURRENCES = np.array([5, 3, 9, 0])
PAIRS = np.array([[0, 2, 4, 0], [2, 0, 3, 0], [4, 3, 0, 0], [0, 0, 0, 0]])
MIDS = np.array(["/m/c", "/m/x", "/m/a", "/m/b"])


def save(path, **changes):
  arrays = {"mids": MIDS, "occurrences_full": OCCURRENCES, "cooccurrences_full": PAIRS, **changes}
  np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
  return path


def test_stored_counts_are_reordered(tmp_path):
  path = save(tmp_path / "counts.npz", occurrences=2 * OCCURRENCES, cooccurrences=2 * PAIRS)
  counts = load_counts(path, ABC, "full")
  assert isinstance(counts, Counts)
  assert counts.occurrences.tolist() == [9, 0, 5]
  assert counts.cooccurrences.tolist() == [[0, 0, 4], [0, 0, 0], [4, 0, 0]]
  doubled = load_counts(path, ABC)
  np.testing.assert_array_equal(doubled.occurrences, 2 * counts.occurrences)
  np.testing.assert_array_equal(doubled.cooccurrences, 2 * counts.cooccurrences)


def test_stored_diagonal_is_dropped(tmp_path):
  path = save(tmp_path / "counts.npz", cooccurrences_full=PAIRS + np.diag(OCCURRENCES))
  assert not load_counts(path, ABC, "full").cooccurrences.diagonal().any()


@pytest.mark.parametrize(
  ("changes", "part"),
  [
    ({"mids": None}, "mids"),
    ({"mids": MIDS[[0, 1, 2, 1]]}, "repeats"),
    ({"mids": np.array(["/m/c", "/m/x", "/m/a", "/m/y"])}, "/m/b"),
    ({"mids": MIDS.astype(object)}, "counts.npz"),
    ({"mids": MIDS[:3]}, "counts.npz"),
    ({"occurrences_full": None}, "occurrences_full"),
    ({"cooccurrences_full": None}, "cooccurrences_full"),
    ({"cooccurrences_full": PAIRS[:3]}, "shapes"),
    ({"cooccurrences_full": PAIRS + np.eye(4, k=1, dtype=int)}, "times together"),
    ({"cooccurrences_full": np.triu(PAIRS)}, "symmetric"),
    ({"occurrences_full": -OCCURRENCES}, "negative"),
    ({"occurrences_full": OCCURRENCES / 2}, "integers"),
    ({"occurrences_full": OCCURRENCES.astype(object)}, "counts.npz"),
  ],
)
def test_bad_stored_counts(tmp_path, changes, part):
  path = save(tmp_path / "counts.npz", **changes)
  with pytest.raises(UserError, match=part) as error:
    load_counts(path, ABC, "full")
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("wanted", ["balanced", None])
def test_a_missing_set_names_the_existing_sets(tmp_path, wanted):
  path = save(tmp_path / "counts.npz", occurrences_eval=OCCURRENCES, cooccurrences_eval=PAIRS)
  with pytest.raises(UserError, match="eval, full"):
    load_counts(path, ABC, wanted)


def test_impossible_counts():
  check_counts(OCCURRENCES, PAIRS + 100 * np.eye(4, dtype=int))
  for occurrences, pairs in [
    (OCCURRENCES[:3], PAIRS),
    (OCCURRENCES, PAIRS[:, :3]),
    (OCCURRENCES, -PAIRS),
    (OCCURRENCES * np.nan, PAIRS),
    (np.array([5, 1, 9, 0]), PAIRS),
  ]:
    with pytest.raises(ValueError, match=r"count|occur"):
      check_counts(occurrences, pairs)


def test_balanced_segments_give_the_stored_counts(shared):
  folder = shared / "data/audioset"
  vocabulary = read_vocabulary(folder / "class_labels_indices.csv")
  segments = read_segments(folder / "balanced_train_segments.csv", vocabulary)
  assert len(segments.clip_ids) == 22160
  assert len(segments.label_indices) == 52882  # both numbers are in the header of the list
  counts = count_labels(segments.offsets, segments.label_indices, len(vocabulary))
  stored = load_counts(folder / "cooccurrence.npz", vocabulary, "balanced")
  np.testing.assert_array_equal(counts.occurrences, stored.occurrences)
  np.testing.assert_array_equal(counts.cooccurrences, stored.cooccurrences)


def test_unbalanced_part_parses(shared):
  folder = shared / "data/audioset"
  vocabulary = read_vocabulary(folder / "class_labels_indices.csv")
  path = folder / "unbalanced_train_segments_part.csv.gz"
  segments = read_segments(path, vocabulary)
  assert len(segments.clip_ids) == 107289  # as stated in its header
  assert (segments.ends - segments.starts).max() <= 10
  counts = count_labels(segments.offsets, segments.label_indices, len(vocabulary))
  everything = load_counts(folder / "cooccurrence.npz", vocabulary, "unbalanced")
  assert (counts.cooccurrences <= everything.cooccurrences).all()
  assert counts.cooccurrences.any()
