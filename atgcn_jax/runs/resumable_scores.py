"""Scores of finished batches, stored so that interrupted scoring can continue."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from atgcn_jax.data.store.clip_store import ClipStore
from atgcn_jax.errors import UserError
from atgcn_jax.runs.resumable_results import InUse, PartialResults, partial_results
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.scoring_identity import identity
from atgcn_jax.runtime.buckets import path_of
from atgcn_jax.runtime.processes import first_only

# A function of the identity of the scores and the number of batches that returns the finished ones.
Keep = Callable[[dict[str, Any], int], PartialResults | None]


@contextlib.contextmanager
def kept_scores(folder: str | os.PathLike) -> Iterator[Keep]:
  """Store the scores of finished batches in a folder until the block succeeds.

  If the block is interrupted, repeating it continues with the stored scores. Only process 0 stores
  scores. Nothing is stored if the folder cannot be written.

  Yields:
    A function of the identity of the scores and the number of batches. It returns the finished
    batches, or None if nothing is stored. It raises UserError if another command computes the same
    scores for this folder.
  """
  made: list[pathlib.Path] = []
  opened: dict[str, PartialResults | None] = {}
  with contextlib.ExitStack() as stack:
    stack.callback(_remove_empty, made)

    def keep(identity: dict[str, Any], batches: int) -> PartialResults | None:
      digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

      def open_results() -> None:
        try:
          place = path_of(folder)
          if not place.exists():
            place.mkdir(parents=True)
            made.append(place)
          out = os.path.join(folder, f".scores-{digest}")
          results = partial_results(out, identity, total=batches, unit="batches")
          opened[digest] = stack.enter_context(results)
        except InUse:
          raise UserError(
            f"{folder}: another command is computing the same scores; wait for it to end"
          ) from None
        except (OSError, UserError):
          opened[digest] = None

      if digest not in opened:
        first_only(open_results)
      return opened.setdefault(digest, None)

    yield keep


def _remove_empty(folders: list[pathlib.Path]) -> None:
  for folder in folders:
    with contextlib.suppress(OSError):
      if not any(folder.iterdir()):
        folder.rmdir()


def scores_identity(
  run: Run, variables: Any, store: ClipStore, clips: np.ndarray, batch: int
) -> dict[str, Any]:
  """Return the values that determine the scores, as JSON."""
  return {
    "store": store.fingerprint,
    "clips": hashlib.sha256(clips.astype(np.int64).tobytes()).hexdigest(),
    "batch": batch,
  } | identity(run, variables)


def finished_batches(part: PartialResults | None, labels: int) -> list[np.ndarray]:
  """Return the stored scores float32[batch, K] of the first batches, without gaps."""
  if part is None:
    return []
  numbers = itertools.takewhile(lambda number: (number,) in part, itertools.count())
  found = (part[(number,)] for number in numbers)
  return [np.frombuffer(rows, np.float32).reshape(-1, labels) for rows in found]
