"""Label vectors: the input nodes of the graph network."""

from __future__ import annotations

import os
import re
import warnings

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.label_files import read_arrays, text_lines
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id

WITHOUT_FILE = ("builtin", "random", "one_hot")
# 300-d GloVe vectors that are averaged over the words of the AudioSet names have a mean norm of
# 5.95. Vectors of about this norm give the same start of training.
BUILTIN_NORM = 6.0
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def load_embeddings(
  source: str | os.PathLike[str], vocabulary: Vocabulary, *, dimension: int = 300
) -> np.ndarray:
  """Return the label vectors H^(0) of Eq. 1, float32[K, E].

  Args:
    source: `builtin` for hashed character n-grams of the names; `random` for random vectors;
      `one_hot` for one dimension per label (E = K); the path of an .npz file with `mids` str[M] and
      `vectors` float[M, E]; or the path of a GloVe text file, which may be compressed (`.gz`).
    vocabulary: The K labels.
    dimension: The vector size E.

  Warns:
    UserWarning: Words of the label names are not in the text file. Such a label gets the mean of
      its other words, or the mean of the other labels if none of its words is known.

  Raises:
    UserError: The file cannot be read, contains vectors of another size, or lacks a label.
    ValueError: The dimension is not positive.

  Source:
    GloVe word vectors as in the paper; scikit-learn's HashingVectorizer.
  """
  if dimension < 1:
    raise ValueError(f"dimension must be positive, got {dimension}")
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
  """Return the lower-case words of a label name. Words consist of letters, digits and apostrophes.

  Args:
    name: The name, for example `Zipper (clothing)`.
  """
  return WORD.findall(name.lower())


def hashed_names(vocabulary: Vocabulary, dimension: int) -> np.ndarray:
  """Return hashed counts of the character 3- to 5-grams of each name, float32[K, E], of norm 6.

  The vectors depend only on the names. Names with common n-grams have similar vectors.

  Args:
    vocabulary: The K labels. The id of a label is used if its name is empty.
    dimension: The vector size E.
  """
  texts = [name if name.strip() else key for key, name in zip(vocabulary.ids, vocabulary.names)]
  from sklearn.feature_extraction.text import HashingVectorizer  # the import takes 0.1 s

  ngrams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=dimension)
  return (BUILTIN_NORM * ngrams.transform(texts).toarray()).astype(np.float32)


def read_word_vectors(
  path: str | os.PathLike[str], words: set[str], dimension: int
) -> dict[str, np.ndarray]:
  """Return the vectors float32[E] of the requested words that the file contains.

  Args:
    path: A GloVe text file: lines of a word and E numbers, separated by single spaces.
    words: The requested words. Only their vectors are held in memory.
    dimension: The vector size E.

  Raises:
    UserError: The file cannot be read or is empty, or a line does not have E numbers.
  """
  known: dict[str, np.ndarray] = {}
  number = 0
  for number, line in enumerate(text_lines(path), 1):
    line = line.rstrip(" \r\n")
    width = line.count(" ")
    word = line[: line.find(" ")]
    # Some words in the large GloVe files contain spaces. Everything before the last E fields is
    # such a word, unless it ends in a number. Words of labels never contain spaces.
    if width > dimension and not _is_number(line.rsplit(" ", dimension + 1)[1]):
      continue
    if width != dimension:
      raise UserError(
        f"{path}, line {number}: {width} numbers after the word instead of {dimension}; "
        f"use GloVe vectors of dimension {dimension} or set the dimension"
      )
    if word in words and word not in known:
      try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
          known[word] = np.array([float(field) for field in line.split(" ")[1:]], np.float32)
      except ValueError:
        known[word] = np.array([np.nan])
      if not np.isfinite(known[word]).all():
        raise UserError(
          f"{path}, line {number}: a field of {word!r} is not a finite number; fix the line"
        )
  if number == 0:
    raise UserError(f"{path}: is empty; use a GloVe text file")
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
  """Return the mean vector of the words of each name, float32[K, E], and warn of unknown words."""
  if not known:
    raise UserError(f"{path}: contains no word of the label names; use vectors of their language")
  means = [
    np.mean([known[word] for word in words if word in known], axis=0, dtype=np.float64)
    if any(word in known for word in words)
    else None
    for words in names_words
  ]
  # A label with a zero vector and no neighbours would get no classifier.
  default = np.mean([mean for mean in means if mean is not None], axis=0)
  missing = sorted({word for words in names_words for word in words if word not in known})
  unknown = [label_id for label_id, mean in zip(vocabulary.ids, means) if mean is None]
  messages = []
  if missing:
    messages.append(f"{len(missing)} words of the label names are missing: {_listed(missing)}")
  if unknown:
    messages.append(
      f"{len(unknown)} labels have no known word and get the mean of the others: {_listed(unknown)}"
    )
  if messages:
    warnings.warn(f"{path}: {'; '.join(messages)}", UserWarning, stacklevel=3)
  return np.array([default if mean is None else mean for mean in means], np.float32)


def _listed(items: list[str]) -> str:
  return ", ".join(items[:10]) + (", ..." if len(items) > 10 else "")


def _stored_vectors(
  path: str | os.PathLike[str], vocabulary: Vocabulary, dimension: int
) -> np.ndarray:
  """Return the rows of an .npz file for the labels, float32[K, E]."""
  arrays = read_arrays(path)
  for key in ("mids", "vectors"):
    if key not in arrays:
      raise UserError(f"{path}: no key {key}; store the keys `mids` and `vectors`")
  mids, vectors = arrays["mids"], arrays["vectors"]
  rows = rows_by_id(path, mids, vocabulary)
  if vectors.ndim != 2 or len(vectors) != len(mids) or vectors.dtype.kind not in "fiu":
    raise UserError(f"{path}: `vectors` is not a table with one row per label; store float[M, E]")
  if vectors.shape[1] != dimension:
    raise UserError(
      f"{path}: vectors of width {vectors.shape[1]} instead of {dimension}; "
      "use another file or set the dimension"
    )
  with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
    chosen = vectors[rows].astype(np.float32)
  if not np.isfinite(chosen).all():
    raise UserError(f"{path}: `vectors` contains numbers that are not finite; fix the file")
  return chosen
