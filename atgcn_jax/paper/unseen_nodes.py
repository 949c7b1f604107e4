"""Left-out labels as nodes of the label graphs of runs that were trained without them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from atgcn_jax.labels.added import AddedLabel
from atgcn_jax.labels.counts import Counts
from atgcn_jax.labels.estimates import label_pairs
from atgcn_jax.labels.vocabulary import Vocabulary
from atgcn_jax.paper.experiment_configs import Settings
from atgcn_jax.paper.experiment_runs import ScoredRun
from atgcn_jax.paper.unseen_table import Draw
from atgcn_jax.runs.added_labels import added_to, extended_run
from atgcn_jax.runs.calibrations import DEFAULTS
from atgcn_jax.runs.run import Run
from atgcn_jax.runs.scoring import Opened, open_split, score_labels
from atgcn_jax.training import sharding


class Added(NamedTuple):
  """The left-out labels of a draw, as labels to add to a run, and the counts of its labels."""

  labels: list[AddedLabel]
  counts: Counts


def open_run(run: ScoredRun, settings: Settings) -> Opened:
  """Open the tested clips of a run with all labels of the store."""
  step = "latest" if settings.step == "latest" else "best"
  return open_split(run.workdir, step, None, "test", sharding.data_mesh(), all_labels=True)


def labels_of(counts: Counts, vocabulary: Vocabulary, draw: Draw) -> Added:
  """Return the left-out labels of a draw with their counts, from the counts of all labels."""
  known, new = draw[:2]
  together = label_pairs(counts).astype(np.int64)
  labels = [
    AddedLabel(
      *(vocabulary.ids[k], vocabulary.names[k]),
      counts=dict(enumerate(together[k, known].tolist())),
      clips=int(counts.occurrences[k]),
    )
    for k in new.tolist()
  ]
  return Added(labels, Counts(counts.occurrences[known], together[np.ix_(known, known)]))


def nodes_with_inputs(opened: Opened, added: Added, inputs: np.ndarray) -> np.ndarray:
  """Return the scores float32[N, A] of left-out labels by nodes with these inputs, float[A, E]."""
  run = opened.loaded.run
  found = added_to(run, *added, DEFAULTS)
  extended = extended_run(run, found.vocabulary, found.weights, inputs)
  return _scores(opened, extended)[:, len(run.vocabulary) :]


def gathering_nodes(opened: Opened, added: Added) -> tuple[np.ndarray, np.ndarray]:
  """Return the scores of left-out labels as `tag --add-labels` estimates them with a graph head.

  Both are float32[N, A]: by nodes that only gather, and these together with the regression.
  """
  run = opened.loaded.run
  found, known = added_to(run, *added, DEFAULTS), len(run.vocabulary)
  assert run.label_embeddings is not None
  none = np.zeros((len(added.labels), run.label_embeddings.shape[1]))
  scores = _scores(opened, extended_run(run, found.vocabulary, found.weights, none))
  return scores[:, known:], np.asarray(found.extended(scores))[:, known:]


def _scores(opened: Opened, run: Run) -> np.ndarray:
  """Return the scores of the labels of a run that replaces the opened one."""
  replaced = opened._replace(loaded=opened.loaded._replace(run=run))
  return score_labels(replaced, run.vocabulary.ids, sharding.data_mesh(), "").scores
