"""Statistics of a label graph, and look-up of labels by name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.hints import nearest
from atgcn_jax.labels.sparse import Matrix, edges_of
from atgcn_jax.labels.vocabulary import Vocabulary


class Summary(NamedTuple):
  """The edges of a propagation matrix [K, K], whose row i contains the weights of label i.

  Attributes:
    in_degree: int[K]. The number of other labels from which each label gathers.
    out_degree: int[K]. The number of other labels that gather from each label.
    isolated: The labels with an in-degree of 0.
    receivers: The label that gathers along each edge, sorted by weight, the largest first.
    senders: The label from which the receiver gathers, in the same order.
    weights: The weights of the edges, in the same order.
  """

  in_degree: np.ndarray
  out_degree: np.ndarray
  isolated: np.ndarray
  receivers: np.ndarray
  senders: np.ndarray
  weights: np.ndarray


def summary_of(propagation: Matrix) -> Summary:
  """Return the summary of a propagation matrix float[K, K]; edges of equal weight stay in order."""
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
  """Return the weights float[K] with which a label gathers from all labels."""
  row = propagation[[label]]
  return np.asarray(row.toarray() if hasattr(row, "toarray") else row)[0]


def find_label(vocabulary: Vocabulary, text: str, option: str = "--label") -> int:
  """Return the position of the label with an id or a name; the case of names is ignored.

  Args:
    vocabulary: The vocabulary.
    text: The id or the name.
    option: The option that names the label, for the message.

  Raises:
    UserError: There is no such label (the message suggests similar names), or the name belongs to
      several labels.
  """
  if text in vocabulary.index:
    return vocabulary.index[text]
  lower = [name.casefold() for name in vocabulary.names]
  found = [k for k, name in enumerate(lower) if name == text.casefold()]
  if len(found) == 1:
    return found[0]
  if found:
    ids = ", ".join(vocabulary.ids[k] for k in found)
    raise UserError(f"{option} {text}: is the name of several labels; give one of the ids {ids}")
  names = ", ".join(vocabulary.names[k] for k in nearest(vocabulary.names, text, 4))
  hint = f"did you mean {names}" if names else "give a name or an id of the vocabulary"
  raise UserError(f"{option} {text}: no such label; {hint}")
