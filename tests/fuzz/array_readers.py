"""Readers of arrays: counts, graphs, label vectors, normalisers and PyTorch files."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import mutations
import numpy as np
import small_store
from fuzzing import Random, Reader, change_text, texts

from atgcn_jax.errors import UserError

COUNTS = np.array([[9, 4, 1, 0], [4, 8, 0, 2], [1, 0, 7, 0], [0, 2, 0, 6]])
VOCABULARY = small_store.VOCABULARY
SETTINGS = small_store.FRONTEND


def make_counts(path: pathlib.Path) -> None:
  pairs = COUNTS - np.diag(np.diag(COUNTS))
  np.savez(path, mids=VOCABULARY.ids, occurrences=np.diag(COUNTS), cooccurrences=pairs)


def read_counts(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.counts import load_counts

  return load_counts(path, VOCABULARY)


def counts_faults(counts: Any) -> str:
  from atgcn_jax.labels.counts import check_counts

  try:
    check_counts(counts.occurrences, counts.cooccurrences)
  except ValueError as error:
    return str(error)
  return "" if counts.occurrences.shape == (4,) else f"has shape {counts.occurrences.shape}"


def make_graph(path: pathlib.Path) -> None:
  from atgcn_jax.labels.sparse import csr, pack_matrices

  matrix = csr((COUNTS / COUNTS.sum(axis=1, keepdims=True)).astype(np.float32))
  np.savez(path, mids=VOCABULARY.ids, **pack_matrices({"propagation": matrix}))


def read_graph(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.label_files import read_arrays
  from atgcn_jax.runs.built_graph import stored_propagation

  arrays = read_arrays(path)
  if "propagation" not in arrays:
    raise UserError(f"{path}: no graph")
  return stored_propagation(path, arrays, VOCABULARY)


def graph_faults(matrix: Any) -> str:
  if matrix.shape != (4, 4) or matrix.dtype != np.float32:
    return f"the graph is {matrix.dtype}{matrix.shape}"
  return "" if np.isfinite(matrix).all() and (matrix >= 0).all() else "NaN or negative weights"


def make_vectors(path: pathlib.Path) -> None:
  np.savez(path, mids=VOCABULARY.ids, vectors=np.arange(12.0, dtype=np.float32).reshape(4, 3))


def read_vectors(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.embeddings import load_embeddings

  return load_embeddings(path, VOCABULARY, dimension=3)


def vectors_faults(vectors: Any) -> str:
  if vectors.shape != (4, 3) or vectors.dtype != np.float32:
    return f"the vectors are {vectors.dtype}{vectors.shape}"
  return "" if np.isfinite(vectors).all() else "not finite"


def make_normaliser(path: pathlib.Path) -> None:
  import pickle

  pair = (np.zeros(SETTINGS.n_mels), np.ones(SETTINGS.n_mels))
  if path.suffix == ".npz":
    np.savez(path, mu=pair[0], sigma=pair[1])
  else:
    path.write_bytes(pickle.dumps(pair, protocol=2))


def read_normaliser(path: pathlib.Path) -> Any:
  from atgcn_jax.data.layouts.talnet import read_normaliser

  return read_normaliser(path, SETTINGS.n_mels)


def normaliser_faults(pair: Any) -> str:
  if pair.shape != (2, SETTINGS.n_mels) or pair.dtype != np.float32:
    return f"the normaliser is {pair.dtype}{pair.shape}"
  return "" if np.isfinite(pair).all() and (pair[1] > 0).all() else "not finite or not positive"


def read_glove(path: pathlib.Path) -> Any:
  from atgcn_jax.labels.embeddings import load_embeddings

  return load_embeddings(path, VOCABULARY, dimension=3)


GLOVE = "birds 0.1 0.2 0.3\ncat 0.5 -1 2\nmany 1 2 3\n"


# Files of torch.save, in the form of PyTorch 1.6 and in the one before.


def make_torch(path: pathlib.Path) -> None:
  from test_torch_files import mapping, saved, tensor

  saved(path, mapping({"a": tensor((3, 4), (4, 1)), "b": tensor((4,), (1,), offset=2)}))


def make_old_torch(path: pathlib.Path) -> None:
  from test_torch_files import VALUES, mapping, saved_by_older, tensor

  program = mapping({"a": tensor((3, 4), (4, 1)), "b": tensor((4,), (1,), offset=2)})
  saved_by_older(path, program, {"0": VALUES})


def change_torch(path: pathlib.Path, rng: Random) -> None:
  """Change the bytes of the archive, or those of its pickle or of a storage."""
  if rng.random() < 0.3 or not zipfile.is_zipfile(path):
    path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))
    return
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  name = sorted(members)[rng.integers(len(members))]
  members[name] = mutations.change_bytes(members[name], rng)
  method = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
  with zipfile.ZipFile(path, "w", method) as archive:
    for key, value in members.items():
      archive.writestr(key, value)


def read_torch(path: pathlib.Path) -> Any:
  from atgcn_jax.interop.torch_files import read_tensors

  return read_tensors(path)


def torch_faults(tensors: Any) -> str:
  for name, tensor in tensors.items():
    if type(name) is not str or not isinstance(tensor, np.ndarray):
      return f"{str(name)[:40]!r} is {type(tensor).__name__}"
    if tensor.size > 1000:
      return f"{name[:40]!r} has {tensor.size} numbers"
    float(np.sum(tensor.astype(np.float64)))  # all of it can be read
  return ""


def change_bytes(path: pathlib.Path, rng: Random) -> None:
  path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))


READERS = {
  "counts.npz": Reader(make_counts, mutations.change_npz, read_counts, counts_faults),
  "graph.npz": Reader(make_graph, mutations.change_npz, read_graph, graph_faults),
  "vectors.npz": Reader(make_vectors, mutations.change_npz, read_vectors, vectors_faults),
  "normaliser.npz": Reader(
    make_normaliser, mutations.change_npz, read_normaliser, normaliser_faults
  ),
  "normaliser.pkl": Reader(make_normaliser, change_bytes, read_normaliser, normaliser_faults),
  "glove.txt": Reader(texts(GLOVE), change_text, read_glove, vectors_faults),
  "weights.pt": Reader(make_torch, change_torch, read_torch, torch_faults),
  "old.pt": Reader(make_old_torch, change_bytes, read_torch, torch_faults),
}
