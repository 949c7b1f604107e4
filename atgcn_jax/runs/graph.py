"""The label graph as a file of its own."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import numpy as np

from atgcn_jax.errors import UserError
from atgcn_jax.labels.counts import count_labels, load_counts, read_segments
from atgcn_jax.labels.sparse import edges_of, packed
from atgcn_jax.labels.vocabulary import read_vocabulary
from atgcn_jax.runs.assemble import propagation_of


def write_graph(
  out: str | os.PathLike,
  *,
  vocabulary: str | os.PathLike,
  counts: str | os.PathLike | None,
  counts_set: str | None,
  segments: str | os.PathLike | None,
  method: str,
  threshold: float,
  neighbour_weight: float,
  ontology: str,
) -> dict[str, int]:
  """Write the propagation matrix of some counts; a config's `graph.source` takes the file.

  The .npz has `propagation` float32[K, K], `mids`, `occurrences`, `cooccurrences`, `method`,
  `threshold`, `neighbour_weight`; for a large vocabulary the matrices are sparse
  (`labels.sparse.packed`).

  Returns: the numbers of `labels`, `edges` and `isolated` labels (without a neighbour).
  Raises:
    UserError: for files or settings that cannot be used.
  """
  labels = read_vocabulary(vocabulary)
  if counts is not None:
    counted = load_counts(counts, labels, counts_set)
  elif segments is not None:
    _, offsets, indices = read_segments(segments, labels)
    counted = count_labels(offsets, indices, len(labels))
  else:
    raise ValueError("one of counts and segments is needed")
  propagation = propagation_of(
    counted,
    labels,
    method=method,
    threshold=threshold,
    neighbour_weight=neighbour_weight,
    ontology=ontology,
  )
  matrices: dict[str, Any] = packed(
    {"propagation": propagation, "cooccurrences": counted.cooccurrences}
  )
  out = pathlib.Path(out)
  temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp.npz")
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
      temporary,
      **matrices,
      mids=np.array(labels.ids),
      occurrences=counted.occurrences,
      method=np.array(method),
      threshold=np.array(threshold),
      neighbour_weight=np.array(neighbour_weight),
    )
    os.replace(temporary, out)
  except OSError as error:
    raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another") from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()
  receivers, _, weights = edges_of(propagation)
  return {
    "labels": len(labels),
    "edges": len(weights),
    "isolated": len(labels) - len(np.unique(receivers)),
  }
