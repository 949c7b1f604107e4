import gzip
import warnings

import numpy as np
import pytest

from atgcn_jax.errors import UserError
from atgcn_jax.labels.embeddings import (
  BUILTIN_NORM,
  label_words,
  load_embeddings,
  read_word_vectors,
)
from atgcn_jax.labels.vocabulary import Vocabulary, read_vocabulary

NAMES = ("Dog, bark", "Zipper (clothing)", "Ding-dong/bell_ring", "Dentist's drill")
LABELS = Vocabulary(("/m/0", "/m/1", "/m/2", "/m/3"), NAMES)
WORDS = ["dog", "bark", "zipper", "clothing", "ding", "dong", "bell", "ring", "dentist's", "drill"]


def vector(k, width=3):
  return np.array([k, -k / 2, 0.25 * k * k, 1.0, 2.0][:width], np.float32)


def line(word, numbers):
  return " ".join([word, *(str(float(number)) for number in numbers)]) + "\n"


def write_words(path, words=WORDS, before=""):
  text = before + "".join(line(word, vector(k)) for k, word in enumerate(words))
  data = text.encode()
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return path


def test_words_of_names():
  words = [word for name in NAMES for word in label_words(name)]
  assert words == WORDS
  assert label_words("  A -- 2nd,(b) ") == ["a", "2nd", "b"]
  assert label_words("") == label_words("!?") == []


@pytest.mark.parametrize("name", ["words.txt", "words.txt.gz", "words.840B.3d"])
def test_words_are_averaged(tmp_path, name):
  path = write_words(tmp_path / name)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    vectors = load_embeddings(path, LABELS, dimension=3)
  assert vectors.dtype == np.float32
  expected = [
    (vector(0) + vector(1)) / 2,
    (vector(2) + vector(3)) / 2,
    (vector(4) + vector(5) + vector(6) + vector(7)) / 4,
    (vector(8) + vector(9)) / 2,
  ]
  np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_words_with_spaces_are_skipped_and_the_first_line_of_a_word_counts(tmp_path):
  odd = (
    line(". . .", vector(50)) + line("dog name@domain.com", vector(51)) + line("a\rb", vector(5))
  )
  path = write_words(tmp_path / "words.txt", before=odd)
  with open(path, "a") as file:
    file.write(line("dog", vector(70)))
  known = read_word_vectors(path, {"dog", "name@domain.com", "."}, 3)
  assert sorted(known) == ["dog"]
  np.testing.assert_array_equal(known["dog"], vector(0))


def test_missing_words_are_named_and_counted(tmp_path):
  path = write_words(tmp_path / "words.txt", [w for w in WORDS if w not in ("bark", "ring")])
  with pytest.warns(UserWarning, match=r"2 words .*: bark, ring$") as caught:
    vectors = load_embeddings(path, LABELS, dimension=3)
  assert caught[0].filename == __file__
  np.testing.assert_array_equal(vectors[0], vector(0))


def test_label_of_unknown_words_gets_the_mean_of_the_others(tmp_path):
  names = (*NAMES, *(f"{letter}zz" for letter in "abcdefghijkl"))
  many = Vocabulary(tuple(f"/m/{k}" for k in range(16)), names)
  with pytest.warns(UserWarning, match="12 words .* azz, .* jzz, .*; 12 labels .* /m/4") as caught:
    vectors = load_embeddings(write_words(tmp_path / "words.txt"), many, dimension=3)
  assert "kzz" not in str(caught[0].message)
  np.testing.assert_allclose(vectors[4:], np.tile(vectors[:4].mean(0), (12, 1)), rtol=1e-6)


@pytest.mark.parametrize(
  ("text", "dimension", "parts"),
  [
    (line("dog", vector(1)) + line("bark", vector(1)), 2, ["line 1", "3 numbers", "of 2"]),
    (line("dog", vector(1)) + line("bark", vector(1)), 5, ["line 1", "3 numbers", "of 5"]),
    (line("dog", vector(1)) + line("unused", vector(1, 2)), 3, ["line 2", "2 numbers", "of 3"]),
    (line("dog", vector(1)) + line("unused", vector(1, 4)), 3, ["line 2", "4 numbers", "of 3"]),
    ("400000 3\n" + line("dog", vector(1)), 3, ["line 1", "1 numbers", "of 3"]),
    ("dog 1.0 x 2.0\n", 3, ["line 1", "'dog'"]),
    ("dog 1.0 nan 2.0\n", 3, ["line 1", "'dog'"]),
    ("dog 1.0  2.0\n", 3, ["line 1", "'dog'"]),
    ("index,mid,display_name\n", 3, ["line 1", "0 numbers"]),
    (line("hund", vector(1)), 3, ["no word"]),
    ("", 3, ["empty"]),
  ],
)
def test_bad_word_vectors(tmp_path, text, dimension, parts):
  path = tmp_path / "words.txt"
  path.write_text(text)
  with pytest.raises(UserError) as error:
    load_embeddings(path, LABELS, dimension=dimension)
  for part in [str(path), *parts]:
    assert part in str(error.value)
  assert "\n" not in str(error.value)


def test_unreadable_word_vectors(tmp_path):
  (tmp_path / "binary.bin").write_bytes(bytes(range(128, 256)))
  for name in ("binary.bin", "missing.txt"):
    with pytest.raises(UserError, match=name):
      load_embeddings(tmp_path / name, LABELS)


def test_builtin_depends_only_on_the_names():
  vectors = load_embeddings("builtin", LABELS)
  assert vectors.shape == (4, 300)
  assert vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 6.0, rtol=1e-6)
  backwards = Vocabulary(LABELS.ids[::-1], NAMES[::-1])
  np.testing.assert_array_equal(load_embeddings("builtin", backwards), vectors[::-1])
  # "dog" has the n-grams " do", "dog", "og ", " dog", "dog " and " dog ".
  dog = load_embeddings("builtin", Vocabulary(("a",), ("Dog",)))[0]
  places = [62, 93, 157, 167, 203, 283]
  np.testing.assert_array_equal(np.flatnonzero(dog), places)
  np.testing.assert_allclose(dog[places] * 6**0.5 / 6, [-1, -1, -1, 1, -1, -1], rtol=1e-6)


def test_builtin_with_equal_empty_and_unusual_names():
  twins = Vocabulary(("/m/a", "/m/b", "/m/c", "/m/d", "/m/e"), ("Dog", "Dog", "", " ", "!"))
  vectors = load_embeddings("builtin", twins, dimension=64)
  np.testing.assert_array_equal(vectors[0], vectors[1])
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 6.0, rtol=1e-6)
  assert not np.array_equal(vectors[2], vectors[3])


def test_builtin_vectors_of_names_with_common_words_are_similar():
  names = ("Acoustic guitar", "Electric guitar", "Heavy rain")
  a, b, c = load_embeddings("builtin", Vocabulary(("a", "b", "c"), names))
  assert a @ b > 0.3 * 36 > a @ c


def test_dimension_must_be_positive():
  with pytest.raises(ValueError, match="dimension"):
    load_embeddings("builtin", LABELS, dimension=0)


MIDS = np.array(["/m/3", "/m/x", "/m/0", "/m/2", "/m/1"])
TABLE = np.arange(15.0).reshape(5, 3)


def test_stored_vectors_follow_the_vocabulary(tmp_path):
  np.savez(tmp_path / "vectors.npz", mids=MIDS, vectors=TABLE)
  vectors = load_embeddings(tmp_path / "vectors.npz", LABELS, dimension=3)
  assert vectors.dtype == np.float32
  np.testing.assert_array_equal(vectors, TABLE[[2, 4, 3, 0]])


@pytest.mark.parametrize(
  ("arrays", "dimension", "part"),
  [
    ({"mids": MIDS}, 3, "vectors"),
    ({"vectors": TABLE}, 3, "mids"),
    ({"mids": MIDS, "vectors": TABLE}, 300, "width 3 instead of 300"),
    ({"mids": MIDS, "vectors": TABLE[:4]}, 3, "row"),
    ({"mids": MIDS, "vectors": TABLE[:, 0]}, 3, "row"),
    ({"mids": MIDS[:4], "vectors": TABLE[:4]}, 3, "/m/1"),
    ({"mids": MIDS, "vectors": TABLE + np.inf}, 3, "finite"),
    ({"mids": MIDS, "vectors": TABLE.astype(object)}, 3, "cannot be read"),
    ({"mids": MIDS, "vectors": TABLE.astype(str)}, 3, "table"),
  ],
)
def test_bad_stored_vectors(tmp_path, arrays, dimension, part):
  path = tmp_path / "vectors.npz"
  np.savez(path, **arrays)
  with pytest.raises(UserError, match=part) as error:
    load_embeddings(path, LABELS, dimension=dimension)
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)


def test_published_vectors_and_the_average_over_words(shared, tmp_path):
  folder = shared / "data/audioset"
  vocabulary = read_vocabulary(folder / "class_labels_indices.csv")
  vectors = load_embeddings(folder / "glove_300d.npz", vocabulary)
  with np.load(folder / "glove_300d.npz") as stored:
    np.testing.assert_array_equal(vectors, stored["vectors"])
  # The vectors of one-word names are word vectors. The vectors of longer names are their means.
  table = {name.lower(): row for name, row in zip(vocabulary.names, vectors)}
  path = tmp_path / "words.txt"
  path.write_text("".join(line(name, row) for name, row in table.items() if name.isalpha()))
  longer = [
    k
    for k, name in enumerate(vocabulary.names)
    if not name.isalpha() and all(word in table for word in label_words(name))
  ]
  assert len(longer) >= 10
  ids, names = zip(*((vocabulary.ids[k], vocabulary.names[k]) for k in longer))
  averaged = load_embeddings(path, Vocabulary(ids, names))
  np.testing.assert_allclose(averaged, vectors[longer], atol=1e-6)


def test_random_and_one_hot_vectors():
  labels = Vocabulary(("a", "b", "c"), ("Cat", "Cats", "Rain"))
  random = load_embeddings("random", labels, dimension=200)
  assert random.shape == (3, 200)
  assert np.linalg.norm(random, axis=1) == pytest.approx(BUILTIN_NORM, rel=0.2)
  cosines = random @ random.T / BUILTIN_NORM**2
  assert np.abs(cosines[np.triu_indices(3, 1)]).max() < 0.3
  np.testing.assert_array_equal(random, load_embeddings("random", labels, dimension=200))
  one_hot = load_embeddings("one_hot", labels, dimension=200)
  np.testing.assert_array_equal(one_hot, BUILTIN_NORM * np.eye(3))
