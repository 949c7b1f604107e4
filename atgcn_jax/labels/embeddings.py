"""A vector for every label, from which the graph network starts."""

from __future__ import annotations

import os
import re
import warnings

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import read_arrays, text_lines
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id

# The mean norm of 300-d GloVe vectors averaged over the words of the AudioSet names is 5.95, and
# training starts alike from vectors of that size.
WITHOUT_FILE = ("builtin", "random", "one_hot")
BUILTIN_NORM = 6.0
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def load_embeddings(
  source: str | os.PathLike[str], vocabulary: Vocabulary, *, dimension: int = 300
) -> np.ndarray:
  """The label vectors H^(0) of Eq. 1, float32[K, E].

  Args:
    source: `builtin`, hashed pieces of the names, which needs no file; `random`, vectors that know
      nothing of the labels; `one_hot`, each label alone in a dimension of its own (E is K then); or
      an .npz file with `mids`
      str[M] and `vectors` float[M, E]; or a GloVe text file, also as `.gz`.
    vocabulary: The K labels.
    dimension: E.

  Warns:
    UserWarning: Words of the names are not in the text file. Their labels' other words are
      averaged; a label of which no word is known gets the mean of the other labels' vectors.

  Raises:
    UserError: The file cannot be read, holds vectors of another width, or lacks a label.
    ValueError: The dimension is not positive.

  Source: GloVe word vectors as the paper uses them; scikit-learn's HashingVectorizer.
  """
  if dimension < 1:
    raise ValueError(f"dimension is {dimension}, not positive")
  if source == "builtin":
    return hashed_names(vocabulary, dimension)
  if source == "random":
    vectors = np.random.default_rng(0).standard_normal((len(vocabulary), dimension))
    return (BUILTIN_NORM * vectors / np.sqrt(dimension)).astype(np.float32)
  if source == "one_hot":
    return BUILTIN_NORM * np.eye(len(vocabulary), dtype=np.float32)
  if os.fspath(source).endswith(".npz"):
    return _stored_vectors(source, vocabulary, dimension)
  names_words = [label_words(name) for name in vocabulary.names]
  known = read_word_vectors(source, {word for words in names_words for word in words}, dimension)
  return _averaged(source, vocabulary, names_words, known)


def label_words(name: str) -> list[str]:
  """The lower-case words of a label's name; all but letters, digits and apostrophes part words.

  Args:
    name: The name, such as `Zipper (clothing)`.
  """
  return WORD.findall(name.lower())


def hashed_names(vocabulary: Vocabulary, dimension: int) -> np.ndarray:
  """Hashed counts of each name's pieces of 3 to 5 letters, scaled to length 6, float32[K, E].

  The vectors depend on the names alone; names that share pieces have similar vectors.

  Args:
    vocabulary: The K labels; a label without a name goes by its id.
    dimension: E.
  """
  texts = [name if name.strip() else key for key, name in zip(vocabulary.ids, vocabulary.names)]
  from sklearn.feature_extraction.text import HashingVectorizer  # a tenth of a second

  pieces = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=dimension)
  return (BUILTIN_NORM * pieces.transform(texts).toarray()).astype(np.float32)


def read_word_vectors(
  path: str | os.PathLike[str], words: set[str], dimension: int
) -> dict[str, np.ndarray]:
  """The vectors float32[E] of those words that the file has; only they are kept in memory.

  Args:
    path: A GloVe text file, lines of a word and E numbers parted by single blanks.
    words: The words that are wanted.
    dimension: E.

  Raises:
    UserError: The file cannot be read, is empty, or a line has another number of numbers.
  """
  known: dict[str, np.ndarray] = {}
  number = 0
  for number, line in enumerate(text_lines(path), 1):
    line = line.rstrip(" \r\n")
    width = line.count(" ")
    word = line[: line.find(" ")]
    # Some words of the large GloVe files hold blanks: what stands before the last E fields is one
    # unless it ends in a number. None of them is a word of a label.
    if width > dimension and not _is_number(line.rsplit(" ", dimension + 1)[1]):
      continue
    if width != dimension:
      raise UserError(
        f"{path}, line {number}: {width} numbers after the word instead of {dimension}; "
        f"give GloVe vectors of dimension {dimension} or set the dimension"
      )
    if word in words and word not in known:
      try:
        with np.errstate(over="ignore"):  # what exceeds float32 is refused
          known[word] = np.array([float(field) for field in line.split(" ")[1:]], np.float32)
      except ValueError:
        known[word] = np.array([np.nan])
      if not np.isfinite(known[word]).all():
        raise UserError(f"{path}, line {number}: a field of {word!r} is no number; mend the line")
  if number == 0:
    raise UserError(f"{path}: empty; give a GloVe text file")
  return known


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _averaged(
  path: str | os.PathLike[str],
  vocabulary: Vocabulary,
  names_words: list[list[str]],
  known: dict[str, np.ndarray],
) -> np.ndarray:
  """Means over the words of each name, float32[K, E], with a warning of what is not known."""
  if not known:
    raise UserError(f"{path}: has no word of the label names; give vectors of their language")
  means = [
    np.mean([known[word] for word in words if word in known], axis=0, dtype=np.float64)
    if any(word in known for word in words)
    else None
    for words in names_words
  ]
  # A vector of zeros would leave the label without a classifier where it has no neighbours.
  stand_in = np.mean([mean for mean in means if mean is not None], axis=0)
  missing = sorted({word for words in names_words for word in words if word not in known})
  alone = [label_id for label_id, mean in zip(vocabulary.ids, means) if mean is None]
  messages = []
  if missing:
    messages.append(f"{len(missing)} words of the label names are not in it: {_listed(missing)}")
  if alone:
    messages.append(
      f"{len(alone)} labels have no known word and get the mean of the others: {_listed(alone)}"
    )
  if messages:
    warnings.warn(f"{path}: {'; '.join(messages)}", UserWarning, stacklevel=3)
  return np.array([stand_in if mean is None else mean for mean in means], np.float32)


def _listed(items: list[str]) -> str:
  return ", ".join(items[:10]) + (", ..." if len(items) > 10 else "")


def _stored_vectors(
  path: str | os.PathLike[str], vocabulary: Vocabulary, dimension: int
) -> np.ndarray:
  """The rows of an .npz file that belong to the labels, float32[K, E]."""
  arrays = read_arrays(path)
  for key in ("mids", "vectors"):
    if key not in arrays:
      raise UserError(f"{path}: no key {key}; store the keys mids and vectors")
  mids, vectors = arrays["mids"], arrays["vectors"]
  rows = rows_by_id(path, mids, vocabulary)
  if vectors.ndim != 2 or len(vectors) != len(mids) or vectors.dtype.kind not in "fiu":
    raise UserError(f"{path}: `vectors` is no table of one row a label; store float[M, E]")
  if vectors.shape[1] != dimension:
    raise UserError(
      f"{path}: vectors of width {vectors.shape[1]} instead of {dimension}; "
      "give another file or set the dimension"
    )
  with np.errstate(over="ignore"):  # what exceeds float32 is refused
    chosen = vectors[rows].astype(np.float32)
  if not np.isfinite(chosen).all():
    raise UserError(f"{path}: a vector holds a number that is not finite; mend the file")
  return chosen
