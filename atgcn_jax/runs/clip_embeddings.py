"""Embeddings of the clips of a store."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import WorkFailed
from atgcn_jax.runs.run import Run
from atgcn_jax.training.step import normalised_log_mel


def clip_embeddings(run: Run, variables: Any, store: ClipStore, batch: int) -> np.ndarray:
  """Return the embeddings of all clips of a store, float32[N, C].

  Args:
    run: The run, which takes the front end of the store.
    variables: The result of `Run.for_inference` for its variables.
    store: The store.
    batch: The number of clips per batch.

  Raises:
    UserError: If a clip cannot be read.
    WorkFailed: If an embedding is not finite.
  """
  model, normaliser = run.model(), run.normaliser

  @jax.jit
  def embed(variables: Any, clips: Any) -> Any:
    inputs = normalised_log_mel(clips, normaliser)
    features: Any = model.apply(variables, inputs, train=False, return_features=True)
    return features["embedding"]

  rows = []
  with tqdm(total=len(store), unit="clip", desc="clips", delay=1, leave=False, disable=None) as bar:
    for start in range(0, len(store), batch):
      # Repeats of the last clip fill the last batch.
      clips = np.minimum(np.arange(start, start + batch), len(store) - 1)
      read = store.read(clips)
      rows.append(np.asarray(embed(variables, {k: read[k] for k in ("log_mel", "peak_db")})))
      bar.update(min(batch, len(store) - start))
  found = np.concatenate(rows)[: len(store)]
  if not (finite := np.isfinite(found).all(axis=1)).all():
    raise WorkFailed(
      f"{store.path}: the embedding of {store.clip_ids[np.argmin(finite)]} is NaN or infinite; use "
      "another step of the run"
    )
  return found
