"""What a label graph looks like, in numbers and names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.hints import nearest
from atgcn_jax.labels.sparse import Matrix, edges_of
from atgcn_jax.labels.vocabulary import Vocabulary


class Summary(NamedTuple):
  """The edges of a propagation matrix [K, K], whose row i holds the weights label i gathers with.

  `in_degree` int[K] is from how many other labels each gathers, `out_degree` int[K] by how many it
  is gathered; `isolated` are the labels with an in-degree of 0. `receivers`, `senders` and
  `weights` are all edges, the heaviest first.
  """

  in_degree: np.ndarray
  out_degree: np.ndarray
  isolated: np.ndarray
  receivers: np.ndarray
  senders: np.ndarray
  weights: np.ndarray


def summary_of(propagation: Matrix) -> Summary:
  """The summary of a propagation matrix, float[K, K]; of equal weights the first come first."""
  receivers, senders, weights = edges_of(propagation)
  order = np.argsort(-weights, kind="stable")
  in_degree, out_degree = (
    np.bincount(ends, minlength=propagation.shape[0]) for ends in (receivers, senders)
  )
  return Summary(
    in_degree,
    out_degree,
    np.flatnonzero(in_degree == 0),
    receivers[order],
    senders[order],
    weights[order],
  )


def graph_row(propagation: Matrix, label: int) -> np.ndarray:
  """The weights float[K] with which a label gathers."""
  row = propagation[[label]]
  return np.asarray(row.toarray() if hasattr(row, "toarray") else row)[0]


def find_label(vocabulary: Vocabulary, text: str) -> int:
  """The label of an id or a name, whatever its case.

  Raises:
    UserError: if there is none, with the names that are nearest, or there are several.
  """
  if text in vocabulary.index:
    return vocabulary.index[text]
  lower = [name.casefold() for name in vocabulary.names]
  found = [k for k, name in enumerate(lower) if name == text.casefold()]
  if len(found) == 1:
    return found[0]
  if found:
    ids = ", ".join(vocabulary.ids[k] for k in found)
    raise UserError(f"--label {text}: the name of several labels; give one of the ids {ids}")
  names = ", ".join(vocabulary.names[k] for k in nearest(vocabulary.names, text, 4))
  hint = f"did you mean {names}" if names else "give a name or an id of the vocabulary"
  raise UserError(f"--label {text}: no such label; {hint}")
