"""The ontology: a hierarchy of sound categories, in which a label may have several parents."""

from __future__ import annotations

import dataclasses
import functools
import graphlib
import json
import os
from collections.abc import Container, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import scipy

from atgcn_jax.errors import UserError, printable, reason
from atgcn_jax.labels.label_files import SHOWN, check_name, text_lines
from atgcn_jax.labels.sparse import Matrix, csr, sized
from atgcn_jax.runtime.schema import checked


class Node(TypedDict):
  """A category in `ontology.json`, which has further keys."""

  id: str
  name: str
  child_ids: list[str]


@dataclasses.dataclass(frozen=True)
class Ontology:
  """An acyclic hierarchy of categories: the names and the ids of the children by category id."""

  names: dict[str, str]
  children: dict[str, tuple[str, ...]]

  @functools.cached_property
  def parents(self) -> dict[str, tuple[str, ...]]:
    """The ids of the parents by category id; empty for a top category."""
    collected: dict[str, list[str]] = {category: [] for category in self.names}
    for parent, children in self.children.items():
      for child in children:
        collected[child].append(parent)
    return {category: tuple(parents) for category, parents in collected.items()}


def read_ontology(path: str | os.PathLike[str]) -> Ontology:
  """Return the ontology in a file.

  Args:
    path: A JSON file in the format of AudioSet's `ontology.json`: a list of objects with `id`,
      `name` and `child_ids`.

  Raises:
    UserError: The file cannot be read or has another format, repeats an id, names a child without
      an entry, or has a category among its own descendants.
  """
  try:
    nodes = checked(json.loads("".join(text_lines(path))), list[Node], "ontology")
    ontology = ontology_of(nodes)
    names, children = ontology.names, ontology.children
    if len(names) < len(nodes) or not nodes:
      raise UserError(
        f"{path}: contains no category, or one twice; use the original file of the ontology"
      )
    unknown = {child for group in children.values() for child in group} - set(names)
  except (ValueError, RecursionError) as error:
    raise UserError(
      f"{path}: not an ontology ({reason(error)}); use a JSON list of objects with id, name and "
      "child_ids"
    ) from None
  for text in (*names, *names.values()):
    check_name(text, os.fspath(path))
  if unknown:
    child = printable(min(unknown), SHOWN)
    raise UserError(f"{path}: child {child} has no entry of its own; add the entry")
  try:
    graphlib.TopologicalSorter(children).prepare()
  except graphlib.CycleError as error:
    raise UserError(
      f"{path}: {error.args[1][0]} is among its own descendants; remove one of the child_ids"
    ) from None
  return ontology


def ontology_of(nodes: Sequence[Mapping[str, Any]]) -> Ontology:
  """Return the ontology of objects with `id`, `name` and `child_ids`, without any checks."""
  return Ontology(
    {node["id"]: str(node["name"]) for node in nodes},
    {node["id"]: tuple(node["child_ids"]) for node in nodes},
  )


def ancestors(ontology: Ontology, label_id: str) -> set[str]:
  """Return the ids of all categories above a label, without the label itself.

  Args:
    ontology: The ontology.
    label_id: The id of a category in the ontology.

  Raises:
    UserError: The label is not in the ontology.
  """
  return _climb(ontology, label_id, stops={})


def label_edges(ontology: Ontology, ids: Sequence[str]) -> Matrix:
  """Return the edges between labels and their parents in both directions.

  A parent that is not a label is replaced by its nearest ancestors that are labels, one on each
  path upwards.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.

  Returns:
    bool[K, K], False on the diagonal. An array, or scipy's csr_array for more than `DENSE_LABELS`
    labels.

  Raises:
    UserError: A label is not in the ontology.

  Source:
    The ontology graph of Table II.
  """
  index = {label_id: k for k, label_id in enumerate(ids)}
  above = [_climb(ontology, label_id, stops=index) & index.keys() for label_id in ids]
  children = np.repeat(np.arange(len(ids)), [len(parents) for parents in above])
  parents = np.array([index[category] for group in above for category in group], np.int64)
  pairs = (np.append(children, parents), np.append(parents, children))
  linked = scipy.sparse.coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(ids),) * 2)
  return sized(csr(linked))


def top_categories(ontology: Ontology, ids: Sequence[str]) -> list[list[str]]:
  """Return the ids of the top categories of each label, K sorted lists.

  The top category of a top category is itself.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.

  Raises:
    UserError: A label is not in the ontology.
  """
  return [
    sorted(top for top in {label_id, *ancestors(ontology, label_id)} if not ontology.parents[top])
    for label_id in ids
  ]


def members(ontology: Ontology, ids: Sequence[str]) -> np.ndarray:
  """Return pairs of a category and a label at or below it, int32[2, M].

  Only categories with two or more labels count. They are numbered from 0 in the order of the
  ontology and need not be labels themselves.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.

  Raises:
    UserError: A label is not in the ontology.
  """
  below: dict[str, list[int]] = {category: [] for category in ontology.names}
  for k, label_id in enumerate(ids):
    for category in {label_id, *ancestors(ontology, label_id)}:
      below[category].append(k)
  groups = [labels for labels in below.values() if len(labels) > 1]
  categories = np.repeat(np.arange(len(groups)), [len(labels) for labels in groups])
  return np.array([categories, [k for labels in groups for k in labels]], np.int32)


def label_distances(ontology: Ontology, ids: Sequence[str]) -> np.ndarray:
  """Return the number of edges between each two labels, up or down the ontology, int[K, K].

  Labels without a path between them get the largest distance of all others.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.

  Source: SciPy's shortest_path.
  """
  check_labels(ontology, ids)
  places = {category: i for i, category in enumerate(ontology.names)}
  edges = [(places[a], places[b]) for a, below in ontology.children.items() for b in below]
  rows, columns = np.array(edges or np.zeros((0, 2)), np.int32).T  # the type that csgraph takes
  graph = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), [len(places)] * 2)
  chosen = [places[label_id] for label_id in ids]
  found = scipy.sparse.csgraph.shortest_path(
    graph, directed=False, unweighted=True, indices=chosen
  )[:, chosen]
  connected = np.isfinite(found)
  return np.where(connected, found, found[connected].max(initial=0)).astype(int)


def label_levels(ontology: Ontology, ids: Sequence[str]) -> np.ndarray:
  """Return the level of each label, int[K]: 1 for a top category, else 1 more than its parents'.

  Of several parents, the one nearest to a top category counts.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.
  """
  check_labels(ontology, ids)

  @functools.cache
  def level(category: str) -> int:
    return 1 + min((level(parent) for parent in ontology.parents[category]), default=0)

  return np.array([level(label_id) for label_id in ids])


def label_ancestors(ontology: Ontology, ids: Sequence[str]) -> list[list[int]]:
  """Return the positions of the labels above each label, K sorted lists.

  Args:
    ontology: The ontology.
    ids: The K labels, all in the ontology.
  """
  check_labels(ontology, ids)
  index = {label_id: k for k, label_id in enumerate(ids)}
  return [
    sorted(index[above] for above in ancestors(ontology, label_id) if above in index)
    for label_id in ids
  ]


def check_labels(ontology: Ontology, ids: Sequence[str], option: str = "graph.ontology") -> None:
  """Refuse labels that are not in the ontology.

  Args:
    ontology: The ontology.
    ids: The ids of the labels.
    option: The option that names the ontology, for the message.

  Raises:
    UserError: A label is not in the ontology.
  """
  for label_id in ids:
    if label_id not in ontology.names:
      raise UserError(f"label {label_id} is not in the ontology; name another {option}")


def _climb(ontology: Ontology, label_id: str, stops: Container[str]) -> set[str]:
  """Return all categories on the paths up from a label; a path ends at the first of `stops`."""
  if label_id not in ontology.parents:
    raise UserError(
      f"label {label_id} is not in the ontology; use a vocabulary of its categories, "
      "or a graph that needs no ontology"
    )
  visited: set[str] = set()
  pending = list(ontology.parents[label_id])
  while pending:
    category = pending.pop()
    if category not in visited:
      visited.add(category)
      if category not in stops:
        pending.extend(ontology.parents[category])
  return visited
