"""Graphs that `atgcn graph` has built, as `graph.source` of a config, with their own settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy

from atgcn_jax.errors import UserError, printable
from atgcn_jax.labels.label_files import read_arrays
from atgcn_jax.labels.sparse import Matrix, selected, sized
from atgcn_jax.labels.vocabulary import Vocabulary, rows_by_id
from atgcn_jax.runs.config import data_path

# The settings of a graph, as keys of the section graph and as names in the file.
SETTINGS = ("method", "threshold", "neighbour_weight")


def is_built_graph(config) -> bool:
  """Return whether `graph.source` names a graph, as `atgcn graph` writes it, instead of counts.

  Raises:
    UserError: If the file cannot be read.
  """
  source = config.graph.source
  return source != "store" and "propagation" in read_arrays(data_path(config.data.root, source))


def built_settings(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Return the SETTINGS that a file of `atgcn graph` states. Files of other programs have none."""
  kinds = {"method": "U", "threshold": "f", "neighbour_weight": "f"}
  stated = {key: np.asarray(arrays[key]) for key in SETTINGS if key in arrays}
  return {
    key: value.item()
    for key, value in stated.items()
    if value.ndim == 0 and value.dtype.kind == kinds[key]
  }


def warn_of_other_settings(config, path: str, arrays: Mapping[str, Any]) -> None:
  """Warn if the config has other settings than those that the graph in a file was made with."""
  own, built = config.graph, built_settings(arrays)
  if any(own[key] != value for key, value in built.items()):
    stated = ", ".join(f"graph.{key}={printable(value, 20)}" for key, value in built.items())
    warnings.warn(
      f"graph.source: {path} is a graph that was made with {stated}, which count instead of those "
      "of the config; to choose other ones, name a file of counts",
      stacklevel=2,
    )


def stored_propagation(path: str, arrays: dict[str, Any], vocabulary: Vocabulary) -> Matrix:
  """Return the matrix of an `atgcn graph` file in the order of the vocabulary.

  Raises:
    UserError: If the file has other labels, or a weight is negative or not finite.
  """
  rows = rows_by_id(path, arrays.get("mids", np.zeros(0, "U1")), vocabulary)
  propagation = arrays["propagation"]
  if propagation.shape != (len(rows), len(rows)):
    raise UserError(
      f"{path}: the graph has shape {propagation.shape}, but there are {len(rows)} labels; "
      "make it with `atgcn graph` for this vocabulary"
    )
  if propagation.dtype.kind not in "fiu":
    raise UserError(
      f"{path}: `propagation` has dtype {propagation.dtype}, which is not numeric; make it again "
      "with `atgcn graph`"
    )
  with np.errstate(over="ignore"):  # values beyond float32 are refused below
    chosen = sized(selected(propagation, rows).astype(np.float32))
  weights = chosen.data if scipy.sparse.issparse(chosen) else chosen
  if not (np.isfinite(weights).all() and (weights >= 0).all()):
    raise UserError(
      f"{path}: a weight of the graph is negative or not finite; make it again with `atgcn graph`"
    )
  return chosen
